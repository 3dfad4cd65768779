"""Every law of `reconcile` is broken once, in each of its columns, and must find that itself.

A new law needs nothing here if it is a comparison. Other checks have their damage in DAMAGES.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.db import transaction

from gateway.base.config import load as config_of
from metrics.costs import laws as cost_laws
from metrics.reconcile import audit, averages, checks, detail_laws, distributions, journals, key_laws, laws, tables
from metrics.reconcile.comparison import Comparison, FigureDifference
from metrics.reconcile.scope import Scope, read
from metrics.reconcile.slices import audited_slices
from tests.metrics.costs.hardware_rates import add_rate
from tests.metrics.records import AT, NOW, A, load
from tests.metrics.storage.test_seeding import adopted
from tests.metrics.world import World, change_costs, rows
from tests.slices import slice_tests

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

Check = Callable[[Scope], Iterator[FigureDifference]]
LAWS = {f"{law.__module__.rpartition('.')[2]}.{law.__name__}": law for law in (*laws.derived(), *laws.CHECKED_ONLY)}


def _twice() -> None:
    """Store a request twice, in a table without a primary key."""
    rows("ALTER TABLE request_history RENAME TO kept_aside")
    rows("CREATE TABLE request_history AS SELECT * FROM kept_aside")
    rows("INSERT INTO request_history SELECT * FROM kept_aside LIMIT 1")


# Damages that the checks must find, by their names.
DAMAGES: dict[Check, Callable[[], object]] = {
    checks.negative: lambda: rows("UPDATE rollup_days SET requests_ok = -1"),
    checks.uncounted: lambda: adopted(ago=60),
    checks.ids: _twice,
    detail_laws.served_is_part: lambda: rows("UPDATE rollup_served_days SET requests_ok = requests_ok + 1000000"),
    cost_laws.priced_are_part: lambda: change_costs("requests = requests + 1000000"),
    cost_laws.one_currency: lambda: change_costs("currency = 'CHF'"),
    key_laws.reasons_are_part: lambda: rows("DELETE FROM metric_totals WHERE name LIKE 'rejected:%%'"),
    key_laws.last_uses: lambda: rows("UPDATE api_key_last_uses SET last_used_us = last_used_us - 1"),
    averages.differences: lambda: rows("UPDATE moving_averages SET value = value * 2"),
}
for _of_slice in slice_tests():
    DAMAGES.update(_of_slice.damages)
# Other tests break these: of the journals in test_reconcile.py, of what runs in tests/e2e.
ELSEWHERE = {journals.differences}


@pytest.fixture
def scope(
    world: World, endpoints: object, prices: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scope]:
    """Some days of traffic of every kind, with prices in two currencies, own hardware, and the base of an adoption."""
    made = config_of({"ROUTERDASH_DATA_DIR": str(tmp_path), "ROUTERDASH_TIME_ZONE": "UTC"})
    monkeypatch.setattr(settings, "ROUTERDASH", made)
    add_rate(A, since=NOW - timedelta(hours=30), per_hour="1.5")
    world.gateway(*load(1, 150, seconds=3 * 86_400), *load(2, 100))
    world.write()
    assert not world.writer.hours.count(AT)
    counters = ", ".join(tables.TABLES["endpoint_baselines"][1])
    rows(f"INSERT INTO endpoint_baselines (endpoint_id, {counters}) VALUES (%s, 0, 0, 0, 0, 0, 0)", A)
    with time_machine.travel(AT, tick=False):
        yield read(made)


@contextmanager
def undone() -> Iterator[None]:
    """Undo all changes at the end of the block."""
    with transaction.atomic():
        try:
            yield
        finally:
            transaction.set_rollback(True)


def after_adoption(scope: Scope) -> Scope:
    """Return the scope after an adoption a day ago: of the days before, minutes are incomplete."""
    return replace(scope, minutes_since=int(AT // 60) - 24 * 60)


def spoil(comparison: Comparison, column: str) -> None:
    named = "value" if comparison.table == "metric_totals" else column
    rows(f"UPDATE {stored_in(comparison.table)} SET {named} = COALESCE({named}, 0) + 1000")


def stored_in(table: str) -> str:
    """Return the table with the figures of a table or view."""
    return "rollup_cost_sums" if table == "rollup_cost_days" else table


@pytest.mark.parametrize("name", LAWS)
def test_a_law_finds_a_wrong_figure_in_each_of_its_columns(scope: Scope, name: str) -> None:
    comparison = LAWS[name](scope) or LAWS[name](after_adoption(scope))
    assert comparison is not None
    assert list(comparison.differences()) == []
    for column in comparison.columns:
        with undone():
            spoil(comparison, column)
            assert column in {difference.what for difference in comparison.differences()}, column


@pytest.mark.parametrize("which", ["derived", "sums"])
def test_a_histogram_that_is_lost_is_found(scope: Scope, which: str) -> None:
    find: Callable[[Scope], Iterator[Comparison]] = getattr(distributions, which)
    for comparison in find(scope):
        assert list(comparison.differences()) == []
        column = "durations" if which == "sums" else comparison.columns[0]
        with undone():
            rows(f"UPDATE {comparison.table} SET {column} = NULL")
            assert list(comparison.differences())


@pytest.mark.parametrize("check", DAMAGES, ids=lambda check: f"{check.__module__.rpartition('.')[2]}.{check.__name__}")
def test_a_check_finds_its_damage(scope: Scope, check: Check) -> None:
    assert list(check(scope)) == []
    with undone():
        DAMAGES[check]()
        assert list(check(scope))


@pytest.mark.parametrize("table", sorted(tables.TABLES))
def test_a_negative_figure_is_found_in_every_table_and_column(scope: Scope, table: str) -> None:
    for column in tables.TABLES[table][1]:
        with undone():
            rows(f"UPDATE {stored_in(table)} SET {column} = -1")
            assert column in {difference.what for difference in checks.negative(scope)}, column


def test_no_check_is_without_a_damage() -> None:
    """Each call in the audit is a law, a distribution, or one of the checks above."""
    parts: dict[str, Any] = {name: module for name, module in vars(audit).items() if inspect.ismodule(module)}
    source = inspect.getsource(audit._differences)
    called = {
        member
        for name, module in parts.items()
        for function, member in vars(module).items()
        if inspect.isfunction(member) and f"{name}.{function}(" in source
    }
    of_slices = {check for one in audited_slices() for check in one.checks()}
    assert of_slices <= DAMAGES.keys()
    derived = {distributions.derived, distributions.sums, laws.derived}
    assert called - derived == DAMAGES.keys() - of_slices | ELSEWHERE
