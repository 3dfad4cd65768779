"""What all pages of the admin have in common."""

import csv
from typing import Any, TypeVar

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.translation import gettext_lazy

from endpoints.models import Endpoint
from endpoints.registry import registry

M = TypeVar("M", bound=Model)

MOST_PAGED = 5_000  # rows of a list of facts that can be paged through; further back lead its filters
MOST_OFFERED = 30  # endpoints in a filter; any other can be asked for by the address
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run


class CarefulAdmin(admin.ModelAdmin[M]):
    """Django's, for input that no page of it makes."""

    empty_value_display = "—"  # as all pages have it

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """By the filters that are offered alone: `password__startswith` would tell a hash letter by letter."""
        filters = self.get_list_filter(request)
        offered = [it if isinstance(it, str) else getattr(it, "parameter_name", None) for it in filters]
        return lookup.removesuffix("__exact").removesuffix("__isnull") in offered

    def get_changeform_initial_data(self, request: HttpRequest) -> Any:
        """Not from the address: values there need not be of the field's type."""
        return {}

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[M], *args: Any, **options: Any
    ) -> HttpResponse | None:
        """Rows by ids that can be ids."""
        posted = request.POST.copy()
        posted.setlist(ACTION_CHECKBOX_NAME, [it for it in posted.getlist(ACTION_CHECKBOX_NAME) if self._is_id(it)])
        request.POST = posted  # type: ignore[assignment]
        return super().response_action(request, queryset, *args, **options)

    def _is_id(self, text: str) -> bool:
        try:
            self.model._meta.pk.to_python(text)
        except ValidationError:
            return False
        return True


class CsvExport(admin.ModelAdmin[M]):
    """One action more: the chosen rows as a file. `exported` names columns; secrets are none of them."""

    exported: tuple[str, ...] = ()

    @admin.action(description=gettext_lazy("Export as CSV"), permissions=("view",))
    def export_csv(self, request: HttpRequest, queryset: QuerySet[M]) -> HttpResponse:
        stamp = timezone.now().strftime("%Y%m%dT%H%M%SZ")
        response = HttpResponse(content_type="text/csv; charset=utf-8")
        response.headers["Content-Disposition"] = f'attachment; filename="{self.opts.model_name}-{stamp}.csv"'
        response.headers["Cache-Control"] = "no-store"
        lines = csv.writer(response)
        lines.writerow(self.exported)
        lines.writerows([_cell(self.export_value(row, name)) for name in self.exported] for row in queryset)
        return response

    def export_value(self, obj: M, name: str) -> Any:
        return getattr(obj, name)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    text = str(value)
    return f"'{text}" if text.startswith(FORMULAS) else text


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts no further than its last page."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[:MOST_PAGED].count())


class FactsAdmin(CarefulAdmin[M]):
    """A list to read of what has happened: nobody adds, changes or deletes facts. Its rows have no pages of their own,
    so a row may have any key, and no page of it costs more for how many rows there are.
    """

    actions = None
    list_display_links = None
    list_per_page = 50
    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # they are counts
    sortable_by = ()

    def get_urls(self) -> list[URLPattern]:
        return [it for it in super().get_urls() if it.name and it.name.endswith("_changelist")]

    def has_add_permission(self, request: HttpRequest, *more: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False


class EndpointFilter(admin.SimpleListFilter):
    """By endpoint, those of now by name; one that was deleted can still be asked for by its id."""

    title = gettext_lazy("endpoint")
    parameter_name = "endpoint"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        chosen = request.GET.get(self.parameter_name)
        names = sorted((entry.name, entry.id) for entry in registry.all())
        offered = [(key, name) for name, key in names if key == chosen] + [
            (key, name) for name, key in names[:MOST_OFFERED] if key != chosen
        ]
        return offered or [("", "—")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[M]) -> QuerySet[M]:
        chosen = self.value()
        if not chosen:
            return queryset
        try:
            Endpoint._meta.pk.to_python(chosen)
        except ValidationError:
            return queryset.none()
        return queryset.filter(endpoint_id=chosen)


def endpoint_name(endpoint_id: Any) -> str:
    """Of one that was deleted before this process began, only the id is known."""
    return registry.name(str(endpoint_id)) or str(endpoint_id)
