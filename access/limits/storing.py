"""Storing of limits: validates them, writes their rows, and logs the edit at the key or user that they belong to."""

import json
from collections.abc import Mapping
from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import transaction
from django.db.models import Model
from rest_framework.request import Request

from access.limits.amounts import amount_text
from access.limits.reading import limit_changes, read_limits
from access.limits.rules import problems
from access.limits.tables import BudgetRow, LimitRow
from access.models import ApiKey, User
from endpoints.edit_log import API, AnyRequest
from endpoints.problems import Problem
from gateway.registry.limits import KEY_LEVEL, LIMITS_OF_A_SUBJECT, NO_LIMITS, USER_LEVEL, Budget, LimitFacts, Subject

MODELS: Mapping[str, type[ApiKey | User]] = {KEY_LEVEL: ApiKey, USER_LEVEL: User}


class InvalidLimits(Exception):
    """The limits break rules."""

    def __init__(self, all_problems: list[Problem]) -> None:
        super().__init__(all_problems[0].text)
        self.problems = all_problems


def stored_limits(subject: Subject) -> LimitFacts:
    """Return the limits of a subject; NO_LIMITS if there are none. Raises django.db.Error."""
    return read_limits([subject]).get(subject, NO_LIMITS)


def store_limits(request: AnyRequest, subject: Subject, facts: LimitFacts) -> bool:
    """Replace the limits of a subject, and log the edit. Return True if something differs.

    Raises InvalidLimits, or IntegrityError if another edit of them comes in between.
    """
    if all_problems := list(problems(facts)):
        raise InvalidLimits(all_problems)
    level, subject_id = subject
    of_subject = {"level": level, "subject_id": subject_id}
    with transaction.atomic():
        before = stored_limits(subject)
        if _described(before) == _described(facts):
            return False
        if facts.budgets or any(getattr(facts, name) for name in LIMITS_OF_A_SUBJECT):
            values = {**{name: getattr(facts, name) for name in LIMITS_OF_A_SUBJECT}, "waiting": list(facts.waiting)}
            if not LimitRow.objects.filter(**of_subject).update(**values):
                LimitRow.objects.bulk_create([LimitRow(**of_subject, **values)])
        else:
            LimitRow.objects.filter(**of_subject).delete()
        _write_budgets(of_subject, facts.budgets)
        _log(request, subject, before, facts)
        limit_changes.announce(subject)
    return True


def _write_budgets(of_subject: Mapping[str, str], budgets: tuple[Budget, ...]) -> None:
    """Write budgets. One of the same unit and period keeps its id."""
    rows = {(row.unit, row.period): row for row in BudgetRow.objects.filter(**of_subject)}
    for budget in budgets:
        row = rows.pop((budget.unit, budget.period), None)
        values = {
            "amount": budget.amount,
            "hard": budget.hard,
            "refuses_unpriced": budget.refuses_unpriced,
            "instead": budget.instead or "",
        }
        if row is None:
            BudgetRow.objects.bulk_create([BudgetRow(**of_subject, unit=budget.unit, period=budget.period, **values)])
        else:
            BudgetRow.objects.filter(pk=row.pk).update(**values)
    BudgetRow.objects.filter(pk__in=[row.pk for row in rows.values()]).delete()


def _described(facts: LimitFacts) -> dict[str, object]:
    """Return limits as the log has them. A budget is described without its id."""
    values: dict[str, object] = {name: getattr(facts, name) for name in LIMITS_OF_A_SUBJECT}
    values["waiting"] = [name for name in LIMITS_OF_A_SUBJECT if name in facts.waiting]
    for budget in facts.budgets:
        words = [amount_text(budget.amount, budget.unit)]
        words += [name for name in ("hard", "refuses_unpriced") if getattr(budget, name)]
        words += [f"instead={budget.instead}"] if budget.instead else []
        values[f"{budget.unit}/{budget.period}"] = " ".join(words)
    return values


def _log(request: AnyRequest, subject: Subject, before: LimitFacts, after: LimitFacts) -> None:
    old, new = _described(before), _described(after)
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    part: dict[str, Any] = {
        "changed": {"fields": [f"limits: {name}" for name in changed]},
        "values": {name: [old.get(name), new.get(name)] for name in changed},
    }
    if isinstance(request, Request):
        part["via"] = API
    model: type[Model] = MODELS.get(subject[0], LimitRow)
    row = model._default_manager.filter(pk=subject[1]).first() if subject[1] else None
    LogEntry.objects.create(
        user_id=str(request.user.pk),
        content_type=ContentType.objects.get_for_model(model),
        object_id=subject[1],
        object_repr=str(row)[:200] if row else subject[0],
        action_flag=CHANGE,
        change_message=json.dumps([part]),
    )
