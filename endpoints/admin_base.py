"""What all pages of the admin have in common."""

from typing import Any, TypeVar

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse

M = TypeVar("M", bound=Model)


class CarefulAdmin(admin.ModelAdmin[M]):
    """Django's, for input that no page of it makes."""

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
