"""Amounts in lists and read-only fields of the admin: in units of the currency, where the table has 10⁻⁹."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from django.contrib import admin
from django.db.models import Model

from gateway.prices.amounts import text_of
from metrics.templatetags.figures import NO_VALUE

AdminClass = TypeVar("AdminClass", bound=type)


def shows_amounts(model: type[Model], names: Collection[str]) -> Callable[[AdminClass], AdminClass]:
    """Return a decorator that gives an admin a display `shown_…` of each of these fields."""

    def decorate(admin_class: AdminClass) -> AdminClass:
        for name in names:
            label = model._meta.get_field(name).verbose_name  # type: ignore[union-attr]
            setattr(admin_class, f"shown_{name}", admin.display(description=label, ordering=name)(_shown(name)))
        return admin_class

    return decorate


def read_only(fieldsets: Any, names: Collection[str]) -> Any:
    """Return fieldsets with the displays of these fields in place of the fields."""
    return [
        (title, {**options, "fields": [f"shown_{name}" if name in names else name for name in options["fields"]]})
        for title, options in fieldsets
    ]


def shown_names(names: Collection[str]) -> tuple[str, ...]:
    return tuple(f"shown_{name}" for name in names)


def _shown(name: str) -> Callable[[Any, Any], str]:
    def shown(_admin: Any, obj: Any) -> str:
        amount = getattr(obj, name)
        return NO_VALUE if amount is None else text_of(amount)

    return shown
