"""The parts that produce figures, connected as in control, but driven by a test."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection

from endpoints.models import Endpoint
from endpoints.registry import registry
from gateway.ipc import journal
from gateway.ipc.record import Entry
from metrics.costs.hardware_totals import HardwareTotals
from metrics.costs.sums import COST_COLUMNS
from metrics.costs.totals import CostTotals
from metrics.counting.cells import EndpointUsage
from metrics.learning.current_slowdowns import slowdowns
from metrics.memory.endpoint_events import endpoint_events
from metrics.memory.figures import Figures
from metrics.memory.gauges import gauges
from metrics.memory.installation import InstallationState
from metrics.memory.journal_follower import JournalFollower
from metrics.memory.journal_reader import JournalReader
from metrics.memory.runtime import runtime
from metrics.memory.state import FiguresState
from metrics.memory.trackers import Trackers
from metrics.models import Installation
from metrics.spending.used_budgets import used_budgets
from metrics.storage import seeding
from metrics.storage.history_rows import EndpointName
from metrics.storage.writer import DatabaseWriter
from tests.metrics.records import AT, NOW, A, B
from tests.slices import module_of_slice

UTC_ZONE = ZoneInfo("UTC")
DATABASE = "the database of this test"


def fake_installation() -> InstallationState:
    """Return the state of the installation that pages and API of this test see, which the test sets as it needs."""
    return runtime.installation


def forget_figures(monkeypatch: pytest.MonkeyPatch, journals: Path) -> None:
    """Reset the process-wide objects as in a new process, with journals in a folder of this test."""
    trackers, follower = runtime.trackers, runtime.follower
    monkeypatch.setattr(trackers, "zone", UTC_ZONE)
    monkeypatch.setattr(trackers, "state", FiguresState(UTC_ZONE))
    monkeypatch.setattr(trackers, "seeded", False)
    monkeypatch.setattr(trackers, "version", 0)
    monkeypatch.setattr(follower, "reader", JournalReader(journals))
    monkeypatch.setattr(follower, "database_id", None)
    monkeypatch.setattr(follower, "costs", CostTotals())
    monkeypatch.setattr(follower, "hardware", HardwareTotals())
    monkeypatch.setattr(follower, "_refused", lambda endpoint_id: None)
    for name in ("folded", "written"):
        monkeypatch.setattr(follower, name, 0)
    monkeypatch.setattr(runtime, "installation", InstallationState())
    endpoint_events.reset()
    slowdowns.reset()
    gauges.reset()
    used_budgets.reset()
    monkeypatch.setattr(seeding, "seeds", 0)
    monkeypatch.setattr(seeding, "missed", None)


def where(endpoint_id: str) -> EndpointName:
    return EndpointName({A: "a", B: "b"}.get(endpoint_id, "(deleted)"), "192.0.2.7")


class World:
    """Journals of gateways, a follower and a database writer; `process_wide` uses the singletons of the process."""

    def __init__(self, root: Path, *, process_wide: bool = False) -> None:
        self.root = root
        self.follower = runtime.follower if process_wide else JournalFollower(JournalReader(root), Trackers(UTC_ZONE))
        self.follower.database_id = DATABASE
        self.writer = DatabaseWriter(self.follower, UTC_ZONE, where, reseed=self.reseed)
        self.gateways: list[journal.Writer] = []

    @property
    def trackers(self) -> Trackers:
        return self.follower.trackers

    def gateway(self, *entries: Entry, database_id: str = DATABASE, segment_bytes: int = 1 << 20) -> journal.Writer:
        """Start a gateway that has journaled these entries and stays alive."""
        self.gateways.append(journal.Writer(self.root, database_id, segment_bytes=segment_bytes))
        for entry in entries:
            assert self.gateways[-1].append(entry)
        return self.gateways[-1]

    def path(self, gateway: journal.Writer) -> Path:
        assert gateway.name is not None
        return self.root / gateway.name

    def write(self, writer: DatabaseWriter | None = None) -> None:
        """Step until all records are in the database."""
        own_database()
        while (writer or self.writer).step().moves:
            pass

    def reseed(self) -> None:
        self.follower.seed(seeding.load(AT), DATABASE)

    def figures(self) -> Figures:
        """Return the figures of the trackers, including the last record."""
        self.follower.catch_up()
        return self.trackers.figures(AT)

    def close(self) -> None:
        for gateway in self.gateways:
            gateway.close()


def own_database() -> None:
    """Make this database the one to which the journals of a world belong."""
    Installation.objects.update_or_create(id=1, defaults={"database_id": DATABASE, "created_at": NOW})


def restored(now: float = AT) -> Figures:
    """Return the figures of a new process, read from the database alone."""
    fresh = Trackers(UTC_ZONE)
    fresh.install(seeding.load(now))
    return fresh.figures(now)


def count_adopted(zone: ZoneInfo = UTC_ZONE) -> int:
    """Count llmlb's rows of the history as a start does."""
    history = module_of_slice("routerdash.adoption.history")
    counted: int = history.catch_up(zone, lambda text: None)
    return counted


def same(one: Figures, other: Figures) -> bool:
    """Compare all figures; `version` counts changes and is not a figure."""
    return reported(one) == reported(other)


def reported(figures: Figures) -> dict[str, Any]:
    """Return every figure by name, without zeros that were never counted."""
    return {
        "endpoints": {
            key: counters for key, counters in figures.endpoints.items() if counters.total or counters.cancelled
        },
        "usage": {key: usage for key, usage in figures.usage.items() if usage != EndpointUsage()},
        "totals": {name: value for name, value in figures.totals.items() if value},
        "timeline": figures.timeline,
        "durations": figures.durations,
        "first_tokens": figures.first_tokens,
        "speeds": dict(figures.speeds),
        "today": dict(figures.today),
        "date": figures.date,
    }


def add_endpoint(endpoint_id: str = A, name: str = "a", **fields: Any) -> Endpoint:
    """Create a row, and load it into the registry."""
    url = fields.pop("base_url", f"http://{name}.invalid:8000")
    made = Endpoint.objects.create(id=endpoint_id, name=name, base_url=url, **fields)
    registry.reload()
    return made


def rows(sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall() if cursor.description else []


def change_costs(assignment: str, *values: Any, where: str = "1 = 1") -> None:
    """Change rows of the view `rollup_cost_days`, whose keys and sums are in tables of their own.

    `where` is a condition of keys. Its parameters follow that of the assignment.
    """
    if assignment.split(" ")[0] in COST_COLUMNS:
        numbers = f"SELECT number FROM rollup_cost_keys WHERE {where}"
        rows(f"UPDATE rollup_cost_sums SET {assignment} WHERE number IN ({numbers})", *values)
    else:
        rows(f"UPDATE rollup_cost_keys SET {assignment} WHERE {where}", *values)


@contextmanager
def without(table: str) -> Iterator[None]:
    """Rename a table for the duration of the block. For tests with their own transactions."""
    rows(f"ALTER TABLE {table} RENAME TO kept_aside")
    try:
        yield
    finally:
        rows(f"ALTER TABLE kept_aside RENAME TO {table}")


MakeWorld = Callable[..., World]
