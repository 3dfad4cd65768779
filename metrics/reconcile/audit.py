"""All checks in order, as of one moment, and the repair."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from django.db import transaction

from endpoints import changes
from gateway.config import Config
from gateway.journal import Gone
from metrics import database
from metrics.reconcile import averages, distributions, journals, laws, live, repair
from metrics.reconcile.comparison import Difference
from metrics.reconcile.repair import Change
from metrics.reconcile.scope import NotOurs, Scope, read

TRIES = 5

__all__ = ["Asked", "NotOurs", "Report", "look", "mend"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What to look at, beside what is always looked at."""

    since: datetime | None = None  # nothing older is compared with the history
    thorough: bool = False


@dataclass(slots=True)
class Report:
    differences: list[Difference] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was left out, and why


def look(config: Config, asked: Asked) -> Report:
    """Change nothing. Raises NotOurs, or django.db.Error."""
    report = _settled(config, asked)
    found, notes = live.compare(config)
    return replace(report, differences=report.differences + found, notes=report.notes + notes)


def _settled(config: Config, asked: Asked) -> Report:
    """What is in the database and the journals. Again from the start while RouterDash deletes what is being read."""
    for left in reversed(range(TRIES)):
        try:
            with database.read_moment():
                scope = read(config, asked.since)
                return Report(list(_differences(scope, asked, patient=left > 0)), notes=list(_left_out(scope)))
        except Gone:
            continue
    raise AssertionError("the last try is not patient")


def mend(config: Config, asked: Asked, *, allow_decrease: bool) -> Report:
    """Make right what is derived, and report what is wrong still. Raises NotOurs, or django.db.Error."""
    with transaction.atomic():
        repair.lock()
        scope = read(config, asked.since)
        made = list(repair.repair(scope, allow_decrease=allow_decrease))
        if made:
            changes.bump(changes.FIGURES)
        report = Report(list(_differences(scope, asked, patient=False)), made, list(_left_out(scope)))
    report.notes.append("live figures were not compared: RouterDash reads its figures again after a repair")
    return report


def _differences(scope: Scope, asked: Asked, *, patient: bool) -> Iterator[Difference]:
    yield from journals.differences(scope, patient=patient)  # first: they do not wait
    yield from laws.negative(scope)
    yield from laws.uncounted(scope)
    for derive in (*laws.DERIVED, *laws.LOOKED_AT):
        comparison = derive(scope)
        if comparison is not None:
            yield from comparison.differences()
    for comparison in (*distributions.derived(scope), *distributions.sums(scope)):
        yield from comparison.differences()
    yield from averages.differences(scope)
    if asked.thorough:
        yield from laws.ids(scope)


def _left_out(scope: Scope) -> Iterator[str]:
    if not scope.every_row:
        yield "ROUTERDASH_HISTORY=errors: successes, attempts, tokens and averages were not compared with the history"
    if scope.narrow_date:
        yield f"rows up to {scope.narrow_date} have no distributions: theirs, and all refusals, were not compared"
    if not laws.knows_base(scope):
        yield "adopted by a release that did not keep what the totals began with: totals were not compared"
