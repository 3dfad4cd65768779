"""Form of the limits and budgets of one subject, or of several keys at once."""

from typing import Any

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from access.limits.amounts import amount_text, parse_budget
from access.limits.storing import InvalidLimits
from access.limits.tables import LIMIT_LABELS, PERIOD_LABELS, UNIT_LABELS
from endpoints.problems import Problem
from gateway.registry.limits import CONCURRENCY, LIMITS_OF_A_SUBJECT, REQUESTS, TOKENS, Budget, LimitFacts


def _limit_field(name: str, help_text: Any) -> forms.IntegerField:
    return forms.IntegerField(
        label=LIMIT_LABELS[name], required=False, widget=forms.NumberInput({"class": "input"}), help_text=help_text
    )


class LimitsForm(forms.Form):
    """The limits of a subject. An empty field is no limit."""

    concurrency = _limit_field(CONCURRENCY, gettext_lazy("Requests in flight, over all workers."))
    requests = _limit_field(REQUESTS, gettext_lazy("In any minute."))
    tokens = _limit_field(TOKENS, gettext_lazy("In any minute, of prompts and responses."))
    waiting = forms.MultipleChoiceField(
        label=gettext_lazy("Wait in the queue over the limits on"),
        choices=tuple(LIMIT_LABELS.items()),
        widget=forms.CheckboxSelectMultiple,
        required=False,
        help_text=gettext_lazy(
            "Over the others a request is refused. Bulk requests wait or are refused a little earlier, so that "
            "interactive ones find room."
        ),
    )


class BudgetForm(forms.Form):
    """One budget. Without an amount, there is none."""

    unit = forms.ChoiceField(
        label=gettext_lazy("Unit"), choices=tuple(UNIT_LABELS.items()), widget=forms.Select({"class": "input"})
    )
    period = forms.ChoiceField(
        label=gettext_lazy("Period"), choices=tuple(PERIOD_LABELS.items()), widget=forms.Select({"class": "input"})
    )
    amount = forms.CharField(
        label=gettext_lazy("Amount"),
        required=False,
        max_length=40,
        widget=forms.TextInput({"class": "input", "inputmode": "decimal", "autocomplete": "off"}),
    )
    instead = forms.CharField(
        label=gettext_lazy("Model once it is spent"),
        required=False,
        max_length=256,
        widget=forms.TextInput({"class": "input", "autocomplete": "off"}),
    )
    hard = forms.BooleanField(label=gettext_lazy("Never exceed the budget"), required=False)
    refuses_unpriced = forms.BooleanField(label=gettext_lazy("Refuse models without a price"), required=False)

    def budget(self) -> Budget | None:
        """Return the budget; None if there is none. An error of the amount is added to the form."""
        values = self.cleaned_data
        if not values.get("amount", "").strip():
            return None
        try:
            amount = parse_budget(values["amount"].strip(), values["unit"])
        except ValueError as error:
            self.add_error("amount", str(error))
            return None
        return Budget(
            "",
            values["unit"],
            values["period"],
            amount,
            values["hard"],
            values["refuses_unpriced"],
            values["instead"].strip() or None,
        )


_BudgetFormSet = forms.formset_factory(BudgetForm, extra=1, max_num=8)


class LimitsInput:
    """The form of the limits, and one form for each budget and for a new one."""

    def __init__(self, facts: LimitFacts, data: Any = None) -> None:
        """`facts` are shown without `data`, the fields that a person has sent."""
        shown: dict[str, object] = {name: getattr(facts, name) for name in LIMITS_OF_A_SUBJECT}
        self.limits = LimitsForm(data, initial={**shown, "waiting": list(facts.waiting)})
        budgets = [
            {
                "unit": budget.unit,
                "period": budget.period,
                "amount": amount_text(budget.amount, budget.unit),
                "instead": budget.instead or "",
                "hard": budget.hard,
                "refuses_unpriced": budget.refuses_unpriced,
            }
            for budget in facts.budgets
        ]
        self.budgets = _BudgetFormSet(data, initial=budgets, prefix="budgets")
        self._with_budget: list[BudgetForm] = []

    def facts(self) -> LimitFacts | None:
        """Return the limits that were entered; None if a form has errors."""
        if not self.limits.is_valid() or not self.budgets.is_valid():
            return None
        entered = [(form, form.budget()) for form in self.budgets.forms]
        if any(form.errors for form, _budget in entered):
            return None
        self._with_budget = [form for form, budget in entered if budget is not None]
        values = self.limits.cleaned_data
        return LimitFacts(
            **{name: values[name] for name in LIMITS_OF_A_SUBJECT},
            waiting=tuple(values["waiting"]),
            budgets=tuple(budget for _form, budget in entered if budget is not None),
        )

    def refuse(self, error: InvalidLimits) -> None:
        """Show problems at their fields."""
        for problem in error.problems:
            form, field = self._field(problem)
            form.add_error(field if field in form.fields else None, problem.text)

    def _field(self, problem: Problem) -> tuple[forms.Form, str]:
        place, _dot, field = problem.place.partition("].")
        if not field:
            return self.limits, problem.place
        return self._with_budget[int(place.removeprefix("budgets["))], field

    @property
    def error(self) -> str:
        """A sentence for the head of the form, if something was refused."""
        is_wrong = self.limits.errors or any(self.budgets.errors) or self.budgets.non_form_errors()
        return _("Nothing was saved. Please correct the fields below.") if is_wrong else ""
