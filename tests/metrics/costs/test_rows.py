"""Rows of costs: sums by the number of their key, which the database writer remembers."""

from collections.abc import Mapping
from importlib import import_module
from types import SimpleNamespace

import pytest
from django.db import connection, transaction
from django.db.migrations.executor import MigrationExecutor

from metrics.costs import rows as cost_rows
from metrics.costs.rows import CostRows
from metrics.costs.sums import COST_COLUMNS, CostKey, CostSums
from metrics.costs.tables import PriceRow
from metrics.models import CostKey as StoredKey
from tests.metrics.records import A, load, request
from tests.metrics.world import World, rows

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


def key(model: str) -> CostKey:
    return ("2026-03-10", A, model, "chat_completions", "", model, model, 0, 1, "USD")


def add(to: CostRows, *models: str, commit: bool = True) -> None:
    """Add a request of each model that costs 5."""
    with transaction.atomic(), connection.cursor() as cursor:
        to.add(cursor, {key(model): CostSums(requests=1, cost=5) for model in models})
        transaction.set_rollback(not commit)
    if commit:
        to.committed()


def stored() -> Mapping[str, tuple[int, int]]:
    """Return requests and cost by model."""
    return {model: (count, cost) for model, count, cost in rows("SELECT model, requests, cost FROM rollup_cost_days")}


def test_each_key_has_one_row() -> None:
    one, other = CostRows(), CostRows()
    for models in (["b", "a"], ["c", "a"], ["a"]):
        add(one, *models)
        add(other, *models)
    assert stored() == {"a": (6, 30), "b": (2, 10), "c": (2, 10)}


def test_a_number_that_was_rolled_back_is_not_used() -> None:
    one, other = CostRows(), CostRows()
    add(one, "a", commit=False)
    add(other, "b")
    add(one, "a")
    assert stored() == {"a": (1, 5), "b": (1, 5)}


def test_numbers_are_forgotten_with_an_older_state_of_the_database() -> None:
    one = CostRows()
    add(one, "a", "b")
    for table in ("rollup_cost_keys", "rollup_cost_sums"):
        rows(f"DELETE FROM {table}")
    one.forget()
    add(one, "b")
    add(one, "a")
    assert stored() == {"a": (1, 5), "b": (1, 5)}


def test_different_names_may_be_stored_as_the_same_one() -> None:
    one = CostRows()
    add(one, "odd\0", "odd\ufffd")
    add(one, "odd\ud800", "odd\0")
    assert stored() == {"odd\ufffd": (3, 15), "odd?": (1, 5)}


def test_more_keys_than_are_remembered_count_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_rows, "MAX_NUMBERS", 2)
    one = CostRows()
    for _ in range(3):
        add(one, "a", "b", "c")
    assert stored() == {"a": (3, 15), "b": (3, 15), "c": (3, 15)}


def test_a_writer_reads_no_key_twice(world: World, prices: list[PriceRow], monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[CostKey] = []
    find = cost_rows._numbers

    def spy(cursor: object, keys: list[CostKey]) -> dict[CostKey, int]:
        looked_up.extend(keys)
        return find(cursor, keys)

    monkeypatch.setattr(cost_rows, "_numbers", spy)
    for _ in range(3):
        world.gateway(request(input_tokens=1000), request(model="large"))
        world.write()
    assert len(looked_up) == len(set(looked_up)) == 2


def test_another_process_that_wrote_lets_a_writer_forget_its_numbers(world: World, prices: list[PriceRow]) -> None:
    world.gateway(request(input_tokens=1000))
    world.write()
    rows("DELETE FROM rollup_cost_sums")
    rows("DELETE FROM rollup_cost_keys")
    add(CostRows(), "theirs")  # has the number of the deleted row
    world.follower.costs.install(None, {})  # as if that process had moved the positions
    world.gateway(request(input_tokens=1000))
    world.write()
    assert stored()["theirs"] == (1, 5)


def test_rows_of_earlier_releases_are_kept(world: World, prices: list[PriceRow]) -> None:
    world.gateway(*load(51, 300))
    world.write()
    migration = import_module("metrics.migrations.0024_cost_keys")
    every = f"SELECT {migration.KEYS}, {migration.SUMS} FROM rollup_cost_days ORDER BY {migration.KEYS}"
    before = rows(every)
    rows(f"CREATE TABLE older AS {every}")
    rows("DROP VIEW rollup_cost_days")
    rows("ALTER TABLE older RENAME TO rollup_cost_days")
    for table in ("rollup_cost_keys", "rollup_cost_sums"):
        rows(f"DELETE FROM {table}")
    migration.make_view(None, SimpleNamespace(connection=connection))
    assert (rows(every), len(before)) == (before, StoredKey.objects.count())
    assert len(before) > 3


@pytest.mark.django_db(transaction=True)
def test_an_older_release_gets_the_rows_back(world: World, prices: list[PriceRow]) -> None:
    world.gateway(*load(51, 300))
    world.write()
    keys = ", ".join(cost_rows.KEYS)
    every = f"SELECT {keys}, {', '.join(COST_COLUMNS)} FROM rollup_cost_days ORDER BY {keys}"
    before = rows(every)
    executor = MigrationExecutor(connection)
    latest = executor.loader.graph.leaf_nodes()
    executor.migrate([("metrics", "0023_key_use")])
    try:
        assert rows(every) == before != []
    finally:
        MigrationExecutor(connection).migrate(latest)
    assert rows(every) == before
