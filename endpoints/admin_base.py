"""Base classes of the admin's pages."""

import csv
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints.fields import LineField
from endpoints.models import Endpoint
from endpoints.registry import registry
from gateway.base.csv_cells import csv_cell

M = TypeVar("M", bound=Model)
EndpointDisplay = Callable[[Endpoint], str]  # a display function of Django's admin

# The admin would use its text area, as for any other text field.
ONE_LINE: dict[type, dict[str, Any]] = {LineField: {"widget": AdminTextInputWidget}}
MAX_PAGED_ROWS = 5_000  # rows of a list of facts that can be paged through; filters lead to older ones
MAX_CHOICES = 30  # endpoints in a filter; the URL can select any other


class CarefulAdmin(admin.ModelAdmin[M]):
    """ModelAdmin that also handles input that Django's pages do not produce."""

    empty_value_display = "—"  # as on all pages

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allow only the offered filters: `password__startswith` would reveal a hash letter by letter."""
        filters = self.get_list_filter(request)
        offered = [item if isinstance(item, str) else getattr(item, "parameter_name", None) for item in filters]
        return lookup.removesuffix("__exact").removesuffix("__isnull") in offered

    def get_changeform_initial_data(self, request: HttpRequest) -> Any:
        """Return no initial data from the URL: values there may have the wrong type."""
        return {}

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[M], *args: Any, **options: Any
    ) -> HttpResponse | None:
        """Run an action on the rows with valid ids; invalid ids are ignored."""
        posted = request.POST.copy()
        posted.setlist(
            ACTION_CHECKBOX_NAME, [row_id for row_id in posted.getlist(ACTION_CHECKBOX_NAME) if self._is_id(row_id)]
        )
        request.POST = posted  # type: ignore[assignment]
        return super().response_action(request, queryset, *args, **options)

    def _is_id(self, text: str) -> bool:
        try:
            self.model._meta.pk.to_python(text)
        except ValidationError:
            return False
        return True


class CsvExport(admin.ModelAdmin[M]):
    """ModelAdmin with an action that exports the chosen rows. `exported` names the columns, never secrets."""

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
    return str(csv_cell(str(value)))


class EndpointExtension(Protocol):
    """Columns and a panel that another app adds to the admin of endpoints."""

    panel_title: Any

    @property
    def status_columns(self) -> tuple[EndpointDisplay, ...]:
        """Columns after the status; also fields of the state."""

    @property
    def columns(self) -> tuple[EndpointDisplay, ...]:
        """Last columns; also fields of the state."""

    def prepare(self) -> None:
        """Read the data of a page's columns."""

    def daily_panel(self, obj: Endpoint) -> str:
        """Return the panel below the form of an endpoint."""


ENDPOINT_EXTENSIONS: list[EndpointExtension] = []  # filled by the `admin` modules of other apps


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Paginator that counts no further than its last page."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[:MAX_PAGED_ROWS].count())


class FactsAdmin(CarefulAdmin[M]):
    """Read-only list of facts, which cannot be added, changed or deleted.

    Rows have no change pages, so a row may have any key. The cost of a page does not depend on the number of rows.
    """

    actions = None
    list_display_links = None
    list_per_page = 50
    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # facets are counts
    sortable_by = ()

    def get_urls(self) -> list[URLPattern]:
        return [url for url in super().get_urls() if url.name and url.name.endswith("_changelist")]

    def has_add_permission(self, request: HttpRequest, *more: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False


class EndpointFilter(admin.SimpleListFilter):
    """Filter by endpoint. Existing endpoints are offered by name; the URL can select a deleted one by its id."""

    title = gettext_lazy("endpoint")
    parameter_name = "endpoint"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        chosen = request.GET.get(self.parameter_name)
        names = sorted((entry.name, entry.id) for entry in registry.all())
        offered = [(key, name) for name, key in names if key == chosen] + [
            (key, name) for name, key in names[:MAX_CHOICES] if key != chosen
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


def endpoint_choices(stored: Any = None) -> list[tuple[str, str]]:
    """Return id and name of each endpoint, by name. `stored`: id of one that is offered even if it was deleted."""
    offered = [(entry.id, entry.name) for entry in sorted(registry.all(), key=lambda entry: entry.name.casefold())]
    if stored is not None and all(str(stored) != endpoint_id for endpoint_id, _name in offered):
        offered.append((str(stored), _("%(name)s (deleted)") % {"name": endpoint_name(stored)}))
    return offered


def endpoint_name(endpoint_id: Any) -> str:
    """Return the endpoint's name; its id if it was deleted before this process started."""
    return registry.name(str(endpoint_id)) or str(endpoint_id)
