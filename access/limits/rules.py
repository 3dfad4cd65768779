"""Rules for limits and budgets: why a document cannot be saved, with the place of each error."""

from collections.abc import Iterator

from django.utils.translation import gettext as _

from access.limits.reading import MAX_BUDGET, MOST
from endpoints.model_names.name_cache import model_names
from endpoints.problems import Problem
from endpoints.registry import registry
from gateway.registry.limits import MONEY, PERIODS, TOKENS, UNITS, Budget, LimitFacts

MAX_TOKEN_BUDGET = 1_000_000_000_000_000
MAX_KEYS = 100  # whose limits are changed at once


def problems(facts: LimitFacts) -> Iterator[Problem]:
    """Yield the errors in limits. A place is a path in the JSON document, such as `budgets[0].amount`."""
    for name, most in MOST.items():
        value = getattr(facts, name)
        if value is not None and not 1 <= value <= most:
            text = _("Enter a whole number from 1 to %(most)s, or nothing for no limit.")
            yield Problem(name, text % {"most": f"{most:,}"})
    for name in facts.waiting:
        if name not in MOST:
            text = _("There is no limit %(name)s; the limits are %(names)s.")
            yield Problem("waiting", text % {"name": name, "names": ", ".join(MOST)})
    seen: set[tuple[str, str]] = set()
    for number, budget in enumerate(facts.budgets):
        place = f"budgets[{number}]"
        yield from _of_budget(budget, place)
        if (budget.unit, budget.period) in seen:
            yield Problem(f"{place}.period", _("There may be one budget for each unit and period."))
        seen.add((budget.unit, budget.period))


def _of_budget(budget: Budget, place: str) -> Iterator[Problem]:
    for field, value, allowed in (("unit", budget.unit, UNITS), ("period", budget.period, PERIODS)):
        if value not in allowed:
            text = _("Choose one of %(names)s.")
            yield Problem(f"{place}.{field}", text % {"names": ", ".join(allowed)})
    if budget.unit == MONEY and not 1 <= budget.amount <= MAX_BUDGET:
        yield Problem(f"{place}.amount", _("Enter an amount above 0, and at most 1,000,000,000."))
    if budget.unit == TOKENS and not 1 <= budget.amount <= MAX_TOKEN_BUDGET:
        text = _("Enter a whole number of tokens from 1 to %(most)s.")
        yield Problem(f"{place}.amount", text % {"most": f"{MAX_TOKEN_BUDGET:,}"})
    if budget.unit != MONEY and budget.refuses_unpriced:
        yield Problem(f"{place}.refuses_unpriced", _("Only a budget of money can refuse models without a price."))
    if budget.instead is not None and not is_model(budget.instead):
        text = _("There is no model name and no model %(name)s.")
        yield Problem(f"{place}.instead", text % {"name": budget.instead})


def is_model(name: str) -> bool:
    """Return True if requests may ask for this name: a model name, or a model of an endpoint."""
    if "*" not in name and model_names.named(name) is not None:
        return True
    return any(name in (model.id, model.canonical_name) for entry in registry.all() for model in entry.models)
