"""The parts that produce figures, connected as in control, but driven by a test."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection

from endpoints.engine_reports import EngineReading
from endpoints.models import Endpoint
from endpoints.registry import registry
from gateway.ipc import journal
from gateway.ipc.counters.limit_use import LimitUse
from gateway.ipc.limit_hits import Hits
from gateway.ipc.record import Entry
from gateway.registry.schema import EndpointFacts, EngineState, Lengths, Model, Speeds
from gateway.routing.affinity.affinity import Affinity
from gateway.routing.model_names import ModelNames
from gateway.routing.set_aside import AsideNote
from metrics.counting.cells import EndpointUsage
from metrics.counting.costs import COST_COLUMNS
from metrics.learning.prefixes import PrefixShare
from metrics.memory.backlog import WriterHandle
from metrics.memory.cost_totals import CostTotals
from metrics.memory.endpoint_events import endpoint_events
from metrics.memory.figures import Figures
from metrics.memory.gauges import gauges
from metrics.memory.hardware_totals import HardwareTotals
from metrics.memory.journal_follower import JournalFollower
from metrics.memory.journal_reader import JournalReader
from metrics.memory.runtime import runtime
from metrics.memory.state import FiguresState
from metrics.memory.trackers import Trackers
from metrics.memory.used_budgets import used_budgets
from metrics.models import Installation
from metrics.queries.slowdowns import slowdowns
from metrics.storage import adopted_history, seeding
from metrics.storage.history_rows import EndpointName
from metrics.storage.writer import DatabaseWriter
from tests.metrics.records import AT, NOW, A, B

UTC_ZONE = ZoneInfo("UTC")
DATABASE = "the database of this test"


class FakeInstallation:
    """State of a running installation that a test sets as it needs."""

    def __init__(self) -> None:
        self.in_flight: Callable[[], Mapping[str, int]] = dict
        self.waiting: Callable[[], int] = lambda: 0
        self.waiting_interactive: Callable[[], int] = lambda: 0
        self.trials: Callable[[], Mapping[str, int]] = dict
        self.aside: Callable[[], Mapping[str, AsideNote]] = dict
        self.limit_use: Callable[[str, str], LimitUse] = lambda level, subject_id: LimitUse()
        self.routes: Callable[[str], list[tuple[EndpointFacts, Model]]] = lambda model: []
        self.model_names: Callable[[], ModelNames | None] = lambda: None
        self.speeds: Callable[[str, str, str], Speeds | None] = lambda endpoint_id, model_id, kind: None
        self.lengths: Callable[[str, str | None], Lengths] = lambda model, key_id: Lengths(None)
        self.engine: Callable[[str], EngineReading | None] = lambda endpoint_id: None
        self.prefix_share: Callable[[], PrefixShare] = PrefixShare
        self.engine_state: Callable[[str], EngineState] = lambda endpoint_id: EngineState(0.0)
        self.affinity: Callable[[], Affinity | None] = lambda: None
        self.pending: Callable[[], Mapping[str, int]] = dict
        self.revision: Callable[[], int] = lambda: 0
        self.is_pending: Callable[[], bool] = lambda: False
        self.pending_reason: Callable[[], str | None] = lambda: None
        self.publication_failure: Callable[[], str | None] = lambda: None
        self.drifted_at: Callable[[], float | None] = lambda: None
        self.watch: Callable[[int], int] = lambda until: 0
        self.cancel: Callable[[str], None] = lambda request_id: None
        self.cancelled: Callable[[], Container[str]] = frozenset
        self.unrecorded: Callable[[], int] = lambda: 0
        self.is_serving: Callable[[], bool] = lambda: False
        self.is_outdated: Callable[[], bool] = lambda: False
        self.key_names: Callable[[Iterable[str]], Mapping[str, str]] = lambda ids: {}
        self.generated_passwords: Callable[[], list[tuple[str, str, datetime]]] = list
        self.limit_hits = Hits()
        self.writer: WriterHandle | None = None


def fake_installation() -> FakeInstallation:
    """Return the state of the installation that pages and API of this test see."""
    assert isinstance(runtime.installation, FakeInstallation)
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
    monkeypatch.setattr(runtime, "installation", FakeInstallation())
    endpoint_events.reset()
    slowdowns.reset()
    gauges.reset()
    used_budgets.reset()
    monkeypatch.setattr(seeding, "seeds", 0)


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
    return adopted_history.catch_up(zone, lambda text: None)


def same(one: Figures, other: Figures) -> bool:
    """Compare all figures; `version` counts changes and is not a figure."""
    return reported(one) == reported(other)


def reported(figures: Figures) -> dict[str, Any]:
    """Return every figure by name, without zeros that were never counted."""
    return {
        "endpoints": {key: it for key, it in figures.endpoints.items() if it.total or it.cancelled},
        "usage": {key: it for key, it in figures.usage.items() if it != EndpointUsage()},
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
