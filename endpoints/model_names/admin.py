"""Model names in the admin: a form with the steps and the targets of a name."""

from dataclasses import replace
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminTextareaWidget
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints import tags
from endpoints.admin_base import ONE_LINE, CarefulAdmin, endpoint_choices
from endpoints.model_names import covered, storing
from endpoints.model_names.name_cache import NameEntry, read_names
from endpoints.model_names.tables import MAX_STEPS, MAX_TARGETS, NamedModel, NameStep, NameTarget
from endpoints.problems import Problem
from gateway.registry.schema import Step, Target

_ANY_STEPS = (Step((Target("model"),)),)


class NamedModelForm(forms.ModelForm[NamedModel]):
    class Meta:
        model = NamedModel
        fields = ("name", "enabled", "echo_served", "external", "same_vectors", "note")
        fields += ("defaults", "overrides", "dropped")  # type: ignore[assignment]

    def clean_defaults(self) -> Any:
        return self._of_type("defaults", dict, _('Enter a JSON object, such as {"temperature": 0.2}.'))

    def clean_overrides(self) -> Any:
        return self._of_type("overrides", dict, _('Enter a JSON object, such as {"temperature": 0.2}.'))

    def clean_dropped(self) -> Any:
        words = self._of_type("dropped", list, _('Enter a JSON list of names, such as ["logit_bias"].'))
        if not all(isinstance(word, str) for word in words):
            raise ValidationError(_('Enter a JSON list of names, such as ["logit_bias"].'))
        return words

    def _of_type(self, name: str, kind: type, text: str) -> Any:
        value = self.cleaned_data[name]
        if value in (None, ""):
            return kind()
        if not isinstance(value, kind):
            raise ValidationError(text)
        return value

    def clean(self) -> Any:
        """Check the fields of the name itself; TargetFormSet checks its steps."""
        cleaned = super().clean()
        storing.lock()
        if not self.errors:
            for problem in storing.check(draft_of(self.cleaned_data, self.instance, _ANY_STEPS), read_names()):
                if problem.place in self.fields:
                    self.add_error(problem.place, problem.text)
        return cleaned


class LabelledFields:
    """A form in a row of a table, whose fields have no labels but the heads of their columns: they get names."""

    fields: dict[str, forms.Field]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for field in self.fields.values():
            field.widget.attrs.setdefault("aria-label", str(field.label or ""))


class TargetForm(LabelledFields, forms.ModelForm[NameTarget]):
    endpoint_id = forms.TypedChoiceField(label=gettext_lazy("endpoint"), required=False, empty_value=None)

    class Meta:
        model = NameTarget
        fields = ("step", "model", "endpoint_id", "tag", "weight")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        offered = endpoint_choices(self.instance.endpoint_id)
        self.fields["endpoint_id"].choices = [("", _("any")), *offered]  # type: ignore[attr-defined]

    def clean_tag(self) -> str:
        (tag,) = tags.normalise([self.cleaned_data["tag"] or ""]) or ("",)
        return tag


class TargetFormSet(BaseInlineFormSet[NameTarget, NamedModel, TargetForm]):
    """Targets of a name. They are checked together with the steps, of which the same request has the forms."""

    def clean(self) -> None:
        super().clean()
        if any(self.errors):
            return
        rows = [form for form in self.forms if form.has_changed() or form.instance.pk]
        rows = [form for form in rows if form.cleaned_data.get("model") and not form.cleaned_data.get("DELETE")]
        conditions = self._conditions()
        if conditions is None:
            return  # their own forms have the errors
        numbers = sorted({form.cleaned_data["step"] for form in rows} | conditions.keys())
        groups = [[form for form in rows if form.cleaned_data["step"] == number] for number in numbers]
        steps = tuple(
            replaced_targets(conditions.get(number, Step(())), groups[index]) for index, number in enumerate(numbers)
        )
        entry = NameEntry(id=str(self.instance.pk), name=self.instance.name, steps=steps)
        for problem in storing.check(entry, read_names()):
            if problem.place.startswith("steps"):
                self._report(problem, numbers, groups)

    def _conditions(self) -> dict[int, Step] | None:
        """Return the conditions by number of the step; None if their forms have errors."""
        formset = StepFormSet(self.data, instance=self.instance)
        if not formset.is_valid():
            return None
        rows = [form.cleaned_data for form in formset.forms if form.cleaned_data]
        return {
            values["position"]: Step(
                (), values["if_unavailable"], values["if_full_secs"], values["if_failed"], values["if_too_long"]
            )
            for values in rows
            if not values.get("DELETE")
        }

    def _report(self, problem: Problem, numbers: list[int], groups: list[list[TargetForm]]) -> None:
        """Add a problem to the field that it concerns."""
        place = problem.place.replace("]", "").replace(".", "[").split("[")
        if len(place) == 5:  # steps, index, targets, index, field
            groups[int(place[1])][int(place[3])].add_error(place[4], problem.text)
        elif len(place) == 3:
            text = _("Step %(number)d: %(text)s") % {"number": numbers[int(place[1])], "text": problem.text}
            raise ValidationError(text)
        else:
            raise ValidationError(problem.text)


def replaced_targets(step: Step, forms_of_step: list[TargetForm]) -> Step:
    """Return the step with the targets of its forms."""
    targets = tuple(
        Target(values["model"], values["weight"], values["endpoint_id"], values["tag"] or None)
        for values in (form.cleaned_data for form in forms_of_step)
    )
    return Step(targets, step.if_unavailable, step.if_full_secs, step.if_failed, step.if_too_long)


class StepForm(LabelledFields, forms.ModelForm[NameStep]):
    class Meta:
        model = NameStep
        fields = ("position", "if_unavailable", "if_full_secs", "if_failed", "if_too_long")


StepFormSet = forms.inlineformset_factory(
    NamedModel,
    NameStep,
    form=StepForm,
    fields=("position", "if_unavailable", "if_full_secs", "if_failed", "if_too_long"),
    extra=0,
)


class TargetInline(admin.TabularInline[NameTarget, NamedModel]):
    model = NameTarget
    form = TargetForm
    formset = TargetFormSet  # type: ignore[assignment]
    formfield_overrides = ONE_LINE
    extra = 0
    min_num = 1
    validate_min = True
    max_num = MAX_TARGETS


class StepInline(admin.TabularInline[NameStep, NamedModel]):
    """Conditions of steps. A step that is not listed has the conditions of a new row."""

    model = NameStep
    form = StepForm
    verbose_name_plural = gettext_lazy("When a request leaves a step (steps that are not listed: the usual conditions)")
    extra = 0
    max_num = MAX_STEPS


class LeadsToFilter(admin.SimpleListFilter):
    title = gettext_lazy("kind")
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [("pattern", _("Pattern")), ("exact", _("Exact name"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[NamedModel]) -> QuerySet[NamedModel]:
        if self.value() == "pattern":
            return queryset.filter(name__contains="*")
        return queryset.exclude(name__contains="*") if self.value() == "exact" else queryset


@admin.register(NamedModel)
class NamedModelAdmin(CarefulAdmin[NamedModel]):
    form = NamedModelForm
    formfield_overrides = ONE_LINE
    inlines = (TargetInline, StepInline)
    list_display = ("name", "enabled", "leads_to", "external")
    list_filter = ("enabled", "external", LeadsToFilter)
    search_fields = ("name", "note", "targets__model")
    list_per_page = 50
    fieldsets = (
        (None, {"fields": ("name", "enabled", "external", "echo_served", "same_vectors", "note")}),
        (gettext_lazy("Parameters"), {"fields": ("defaults", "overrides", "dropped"), "classes": ("collapse",)}),
    )

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        row = self.get_object(request, object_id) if request.method == "GET" else None
        if row is not None:
            _warn(request, row)
        return super().change_view(request, object_id, form_url, extra_context)

    def save_related(self, request: Any, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        _warn(request, form.instance)

    def formfield_for_dbfield(self, db_field: Any, request: Any, **options: Any) -> Any:
        if db_field.name in ("defaults", "overrides", "dropped"):
            options["widget"] = AdminTextareaWidget(attrs={"rows": 3})
        return super().formfield_for_dbfield(db_field, request, **options)

    def get_queryset(self, request: HttpRequest) -> QuerySet[NamedModel]:
        return super().get_queryset(request).prefetch_related("targets")

    @admin.display(description=gettext_lazy("leads to"))
    def leads_to(self, obj: NamedModel) -> str:
        steps: dict[int, list[str]] = {}
        for target in sorted(obj.targets.all(), key=lambda target: (target.step, target.pk)):
            steps.setdefault(target.step, []).append(target.model)
        return " → ".join(" | ".join(models) for models in steps.values()) or "—"


def _warn(request: HttpRequest, row: NamedModel) -> None:
    """Show a warning if the name is a pattern that matches models."""
    targets = (Target(target.model) for target in row.targets.all())
    if (text := covered.warning(row.name, targets)) is not None:
        messages.warning(request, text)


def draft_of(values: Any, row: NamedModel, steps: tuple[Step, ...]) -> NameEntry:
    """Return the entry that a form's values make."""
    entry = NameEntry(id=str(row.pk), name=(values["name"] or ""), steps=steps)
    return replace(entry, defaults=values["defaults"], overrides=values["overrides"], dropped=tuple(values["dropped"]))
