"""Prices and currency rates in the admin. One that counts already is kept: a change is a row with a later start."""

from abc import abstractmethod
from datetime import time
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.widgets import AdminSplitDateTime
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints.admin_base import ONE_LINE, CarefulAdmin, endpoint_choices, endpoint_name
from endpoints.clouds.kinds import KIND_CHOICES, KIND_LABELS
from endpoints.problems import Problem
from gateway.base.currencies import CURRENCIES
from gateway.prices.amounts import text_of
from gateway.registry.prices import AMOUNTS, EVERY_DAY
from metrics.costs import rules
from metrics.costs.admin_amounts import read_only, shown_names, shows_amounts
from metrics.costs.amounts import AmountField
from metrics.costs.rollups import used_prices
from metrics.costs.tables import next_start, source_name
from metrics.models import CurrencyRate, PriceRow
from metrics.templatetags.figures import NO_VALUE, count

WEEKDAYS = (
    (0, gettext_lazy("Monday")),
    (1, gettext_lazy("Tuesday")),
    (2, gettext_lazy("Wednesday")),
    (3, gettext_lazy("Thursday")),
    (4, gettext_lazy("Friday")),
    (5, gettext_lazy("Saturday")),
    (6, gettext_lazy("Sunday")),
)
MAX_INITIAL = 256  # characters of a model that an address names
START_HELP = gettext_lazy(
    "Empty: the next full minute. Requests that were counted before this row was saved keep their cost."
)


class MinuteField(forms.TimeField):
    """Time of day; its value is in minutes."""

    def __init__(self, label: Any) -> None:
        # Not Django's class for times, whose shortcut writes the local time.
        widget = forms.TimeInput(format="%H:%M", attrs={"size": 8, "placeholder": "00:00"})
        super().__init__(label=label, required=False, input_formats=("%H:%M",), widget=widget)

    def prepare_value(self, value: Any) -> Any:
        return time(value // 60 % 24, value % 60) if isinstance(value, int) else value

    def clean(self, value: Any) -> Any:
        time_of_day = super().clean(value)
        return None if time_of_day is None else time_of_day.hour * 60 + time_of_day.minute

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(self.prepare_value(initial), data)


class WeekdaysField(forms.TypedMultipleChoiceField):
    """Weekdays; its value has a bit for each."""

    def __init__(self) -> None:
        super().__init__(
            label=gettext_lazy("weekdays"), choices=WEEKDAYS, coerce=int, widget=forms.CheckboxSelectMultiple
        )

    def prepare_value(self, value: Any) -> Any:
        return [day for day, _name in WEEKDAYS if value >> day & 1] if isinstance(value, int) else value

    def clean(self, value: Any) -> Any:
        return sum(1 << day for day in super().clean(value))

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(self.prepare_value(initial), data)


class DatedForm(forms.ModelForm[Any]):
    """Form of a row with a start, which the rules of its table check together."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for field in self.fields.values():
            field.label = capfirst(str(field.label or ""))
            if isinstance(widget := field.widget, AdminSplitDateTime):  # one label for two input fields
                for box, name in zip(widget.widgets, (_("Date"), _("Time")), strict=True):
                    box.attrs["aria-label"] = f"{field.label}: {name}"

    def clean_valid_from(self) -> Any:
        return self.cleaned_data["valid_from"] or next_start()

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if not self.errors:
            stored = type(self.instance).objects.filter(pk=self.instance.pk).first() if self.instance.pk else None
            for problem in self.problems(stored):
                self.add_error(problem.place if problem.place in self.fields else None, problem.text)

    @abstractmethod
    def problems(self, stored: Any) -> list[Problem]:
        """Return the problems of the row. `stored`: as it is in the database; None for a new one."""


def valid_from_field(help_text: Any = START_HELP) -> Any:
    return forms.SplitDateTimeField(
        label=gettext_lazy("valid from"),
        required=False,
        widget=AdminSplitDateTime(),
        help_text=help_text,
    )


class PriceForm(DatedForm):
    valid_from = valid_from_field()
    endpoint_id = forms.TypedChoiceField(label=gettext_lazy("endpoint"), required=False, empty_value=None)
    provider = forms.ChoiceField(
        label=gettext_lazy("endpoint type"), required=False, choices=[("", gettext_lazy("any")), *KIND_CHOICES]
    )
    window_start = MinuteField(gettext_lazy("from (UTC)"))
    window_end = MinuteField(gettext_lazy("to (UTC)"))
    weekdays = WeekdaysField()

    class Meta:
        model = PriceRow
        fields = "__all__"  # noqa: DJ007  # the admin names them in its fieldsets

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if "endpoint_id" in self.fields:
            offered = endpoint_choices(self.instance.endpoint_id)
            self.fields["endpoint_id"].choices = [("", _("any")), *offered]  # type: ignore[attr-defined]
        if self.instance.pk is None and "currency" in self.fields:
            self.initial.setdefault("currency", settings.ROUTERDASH.currency)
            self.initial.setdefault("weekdays", EVERY_DAY)

    def problems(self, stored: PriceRow | None) -> list[Problem]:
        rules.normalise(self.instance)
        return rules.problems(self.instance, stored)


class StateFilter(admin.SimpleListFilter):
    title = gettext_lazy("validity")
    parameter_name = "validity"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [("now", _("Counts now")), ("later", _("Counts later")), ("ended", _("Ended"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = timezone.now()
        open_end = Q(valid_until=None) | Q(valid_until__gt=now)
        match self.value():
            case "now":
                return queryset.filter(open_end, valid_from__lte=now)
            case "later":
                return queryset.filter(valid_from__gt=now)
            case "ended":
                return queryset.filter(valid_until__lte=now)
        return queryset


class SourceFilter(admin.SimpleListFilter):
    title = gettext_lazy("source")
    parameter_name = "source"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        names = PriceRow.objects.order_by("source").values_list("source", flat=True).distinct()[:30]
        return [(name, source_name(name)) for name in names] or [("", NO_VALUE)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[PriceRow]) -> QuerySet[PriceRow]:
        return queryset.filter(source=self.value()) if self.value() else queryset


@shows_amounts(PriceRow, AMOUNTS)
class PriceRowAdmin(CarefulAdmin[PriceRow]):
    form = PriceForm
    formfield_overrides = ONE_LINE | {AmountField: {}}
    actions = None
    list_display = ("pattern", "place", "valid_from", "valid_until", "condition", "shown_input", "shown_output",
                    "currency")  # fmt: skip
    list_filter = (StateFilter, "currency", SourceFilter)
    search_fields = ("pattern", "note")
    list_per_page = 50
    fieldsets = (
        (None, {"fields": ("pattern", "endpoint_id", "provider", "valid_from", "valid_until", "note")}),
        (
            gettext_lazy("Amounts"),
            {"fields": ("currency", *AMOUNTS)},
        ),
        (
            gettext_lazy("Conditions"),
            {"fields": ("min_prompt", "tier", "window_start", "window_end", "weekdays")},
        ),
        (gettext_lazy("Origin"), {"fields": ("source", "created_at")}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: PriceRow | None = None) -> Any:
        fixed = rules.FIXED if obj is not None and obj.has_begun() else ()
        return ("source", "created_at", *fixed, *shown_names(AMOUNTS))

    def get_fieldsets(self, request: HttpRequest, obj: PriceRow | None = None) -> Any:
        return read_only(self.fieldsets, AMOUNTS) if obj is not None and obj.has_begun() else self.fieldsets

    def get_changeform_initial_data(self, request: HttpRequest) -> Any:
        """Return the model for which a page offers to enter a price."""
        model = request.GET.get("pattern", "").replace("\x00", "")
        return {**super().get_changeform_initial_data(request), "pattern": model[:MAX_INITIAL]}

    def has_delete_permission(self, request: HttpRequest, obj: PriceRow | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or not used_prices([obj.pk]))

    @admin.display(description=gettext_lazy("where"))
    def place(self, obj: PriceRow) -> str:
        if obj.endpoint_id is not None:
            return endpoint_name(obj.endpoint_id)
        return KIND_LABELS.get(obj.provider, obj.provider) or _("any")

    @admin.display(description=gettext_lazy("only for"))
    def condition(self, obj: PriceRow) -> str:
        conditions = [obj.tier] if obj.tier else []
        if obj.min_prompt:
            conditions.append(_("> %(tokens)s tokens") % {"tokens": count(obj.min_prompt)})
        if obj.window_start is not None and obj.window_end is not None:
            conditions.append(f"{_clock(obj.window_start)}–{_clock(obj.window_end)} UTC")
        return ", ".join(conditions) or NO_VALUE


class RateForm(DatedForm):
    valid_from = valid_from_field()
    currency = forms.ChoiceField(label=gettext_lazy("currency"), choices=[(code, code) for code in sorted(CURRENCIES)])

    class Meta:
        model = CurrencyRate
        fields = ("currency", "valid_from", "rate")

    def problems(self, stored: CurrencyRate | None) -> list[Problem]:
        if stored is None:
            self.instance.reporting = settings.ROUTERDASH.currency
        return rules.rate_problems(self.instance, stored)


class CurrencyRateAdmin(CarefulAdmin[CurrencyRate]):
    form = RateForm
    formfield_overrides = ONE_LINE
    actions = None
    list_display = ("currency", "reporting", "shown_rate", "valid_from")
    list_filter = ("currency", "reporting")
    list_per_page = 50
    fields = ("currency", "rate", "reporting", "valid_from", "created_at")
    readonly_fields = ("reporting", "created_at")

    def has_change_permission(self, request: HttpRequest, obj: CurrencyRate | None = None) -> bool:
        return super().has_change_permission(request, obj) and not _has_begun(obj)

    def has_delete_permission(self, request: HttpRequest, obj: CurrencyRate | None = None) -> bool:
        return super().has_delete_permission(request, obj) and not _has_begun(obj)

    @admin.display(description=gettext_lazy("rate"), ordering="rate")
    def shown_rate(self, obj: CurrencyRate) -> str:
        return text_of(obj.rate)


def _has_begun(obj: Model | None) -> bool:
    return isinstance(obj, CurrencyRate) and obj.pk is not None and obj.valid_from <= timezone.now()


def _clock(minute: int) -> str:
    return f"{minute // 60 % 24:02}:{minute % 60:02}"


admin.site.register(PriceRow, PriceRowAdmin)
admin.site.register(CurrencyRate, CurrencyRateAdmin)
