"""Rates of own hardware in the admin. One that counts already is kept: a change is a rate with a later start."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy

from endpoints.admin_base import ONE_LINE, CarefulAdmin, endpoint_choices, endpoint_name
from endpoints.problems import Problem
from gateway.base.currencies import CURRENCIES
from metrics.costs.admin import DatedForm, StateFilter, valid_from_field
from metrics.costs.admin_amounts import read_only, shown_names, shows_amounts
from metrics.costs.amounts import AmountField
from metrics.costs.hardware_tables import HARDWARE_AMOUNTS
from metrics.hardware import rules as hardware_rules
from metrics.models import HardwareRateRow

START_HELP = gettext_lazy("Empty: the next full minute. Hours before keep their cost, or have none.")


class HardwareRateForm(DatedForm):
    valid_from = valid_from_field(START_HELP)
    endpoint_id = forms.ChoiceField(label=gettext_lazy("endpoint"))
    currency = forms.ChoiceField(label=gettext_lazy("currency"), choices=[(code, code) for code in sorted(CURRENCIES)])

    class Meta:
        model = HardwareRateRow
        fields = ("endpoint_id", "valid_from", "valid_until", "currency", *HARDWARE_AMOUNTS, "note")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if "endpoint_id" in self.fields:
            self.fields["endpoint_id"].choices = [("", "—"), *endpoint_choices()]  # type: ignore[attr-defined]
        if self.instance.pk is None and "currency" in self.fields:
            self.initial.setdefault("currency", settings.ROUTERDASH.currency)

    def problems(self, stored: HardwareRateRow | None) -> list[Problem]:
        hardware_rules.normalise(self.instance)
        return hardware_rules.problems(self.instance, stored)


@shows_amounts(HardwareRateRow, HARDWARE_AMOUNTS)
class HardwareRateAdmin(CarefulAdmin[HardwareRateRow]):
    form = HardwareRateForm
    formfield_overrides = ONE_LINE | {AmountField: {}}
    actions = None
    list_display = ("place", "valid_from", "valid_until", *shown_names(HARDWARE_AMOUNTS), "currency")
    list_filter = (StateFilter, "currency")
    list_per_page = 50
    fieldsets = (
        (None, {"fields": ("endpoint_id", "valid_from", "valid_until", "note")}),
        (gettext_lazy("Amounts"), {"fields": ("currency", "per_hour")}),
        (gettext_lazy("Energy"), {"fields": ("idle_watts", "busy_watts", "per_kwh")}),
        (gettext_lazy("Origin"), {"fields": ("created_at",)}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: HardwareRateRow | None = None) -> Any:
        fixed = hardware_rules.FIXED if obj is not None and obj.has_begun() else ()
        return ("created_at", "place", *fixed, *shown_names(HARDWARE_AMOUNTS))

    def get_fieldsets(self, request: HttpRequest, obj: HardwareRateRow | None = None) -> Any:
        if obj is None or not obj.has_begun():
            return self.fieldsets
        (_title, first), *others = self.fieldsets
        return read_only([(None, {"fields": ("place", *first["fields"][1:])}), *others], HARDWARE_AMOUNTS)

    def has_delete_permission(self, request: HttpRequest, obj: HardwareRateRow | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or not obj.has_begun())

    @admin.display(description=gettext_lazy("endpoint"), ordering="endpoint_id")
    def place(self, obj: HardwareRateRow) -> str:
        return endpoint_name(obj.endpoint_id)


admin.site.register(HardwareRateRow, HardwareRateAdmin)
