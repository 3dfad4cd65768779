"""Audit: all checks in order, as of one moment, and the repair."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from django.db import transaction

from endpoints.changes import counters as change_counters
from gateway.base.config import Config
from gateway.ipc.journal import SegmentDeleted
from metrics.reconcile import (
    averages,
    checks,
    detail_laws,
    distributions,
    endpoint_laws,
    journals,
    key_laws,
    laws,
    live,
)
from metrics.reconcile import repair as repair_module
from metrics.reconcile.comparison import FigureDifference
from metrics.reconcile.repair import RepairedFigure
from metrics.reconcile.scope import Scope, read
from metrics.reconcile.slices import audited_slices
from metrics.storage import database

TRIES = 5


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """Extent of an audit."""

    since: datetime | None = None  # older figures are not compared with the history
    thorough: bool = False  # also read every row


@dataclass(slots=True)
class AuditReport:
    """Result of an audit. `notes` lists comparisons that were left out, with the reason."""

    differences: list[FigureDifference] = field(default_factory=list)
    changes: list[RepairedFigure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(config: Config, options: AuditOptions) -> AuditReport:
    """Compare all figures and change nothing. Raises ForeignDatabase, or django.db.Error."""
    report = _check_stored(config, options)
    for differences, notes in (live.compare(config), *(one.compare_running(config) for one in audited_slices())):
        report = replace(report, differences=report.differences + differences, notes=report.notes + notes)
    return replace(report, differences=report.differences + list(journals.without_record(config.live_page_path)))


def _check_stored(config: Config, options: AuditOptions) -> AuditReport:
    """Check database and journals. Starts again if RouterDash deletes a segment that is being read."""
    for remaining in reversed(range(TRIES)):
        try:
            with database.read_moment():
                scope = read(config, options.since)
                return AuditReport(
                    list(_differences(scope, options, will_retry=remaining > 0)), notes=list(_left_out(scope))
                )
        except SegmentDeleted:
            continue
    raise AssertionError("the last try reports a missing segment")


def repair(config: Config, options: AuditOptions, *, allow_decrease: bool) -> AuditReport:
    """Correct derived figures, and report the remaining differences. Raises ForeignDatabase, or django.db.Error."""
    with transaction.atomic():
        repair_module.lock()
        scope = read(config, options.since)
        changes = list(repair_module.repair(scope, allow_decrease=allow_decrease))
        if changes:
            change_counters.bump(change_counters.FIGURES)
        report = AuditReport(list(_differences(scope, options, will_retry=False)), changes, list(_left_out(scope)))
    report.notes.append("live figures were not compared: RouterDash reads its figures again after a repair")
    return report


def _differences(scope: Scope, options: AuditOptions, *, will_retry: bool) -> Iterator[FigureDifference]:
    yield from journals.differences(scope, will_retry=will_retry)  # first, because journals change meanwhile
    yield from checks.negative(scope)
    yield from checks.uncounted(scope)
    for law in (*laws.derived(), *laws.CHECKED_ONLY):
        comparison = law(scope)
        if comparison is not None:
            yield from comparison.differences()
    for comparison in (*distributions.derived(scope), *distributions.sums(scope)):
        yield from comparison.differences()
    yield from detail_laws.served_is_part(scope)
    for one in audited_slices():
        for check_of_slice in one.checks():
            yield from check_of_slice(scope)
    yield from key_laws.reasons_are_part(scope)
    yield from key_laws.last_uses(scope)
    yield from averages.differences(scope)
    if options.thorough:
        yield from checks.ids(scope)


def _left_out(scope: Scope) -> Iterator[str]:
    if scope.every_row and scope.details_since > scope.history_minutes_since:
        yield "cached, cache-write and reasoning tokens from before the upgrade to this release were not compared"
    if not scope.every_row:
        yield "ROUTERDASH_HISTORY=errors: successes, attempts, tokens and averages were not compared with the history"
    if scope.narrow_date:
        yield f"rows up to {scope.narrow_date} have no distributions; these, and rejected requests, were not compared"
    if not endpoint_laws.has_base(scope):
        yield "adopted by a release that did not store the totals of the adoption: totals were not compared"
