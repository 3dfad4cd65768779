"""The parts that figures are made of, put together as control does it, but in the hands of a test."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection

from endpoints.models import Endpoint
from endpoints.registry import registry
from gateway import journal
from gateway.record import Entry
from metrics import adopted, seeding, teller
from metrics.fold import Usage
from metrics.folder import Folder
from metrics.gauges import gauges as teller_gauges
from metrics.journals import Journals
from metrics.marks import marks as teller_marks
from metrics.models import Installation
from metrics.rows import Where
from metrics.trackers import Figures, State, Trackers
from metrics.writer import DatabaseWriter
from tests.metrics.records import AT, NOW, A, B

UTC_ZONE = ZoneInfo("UTC")
DATABASE = "the database of this test"


def forget_figures(monkeypatch: pytest.MonkeyPatch, journals: Path) -> None:
    """The process-wide objects as in a new process, with their journals in a folder of this test."""
    trackers, folder, surroundings = teller.trackers, teller.folder, teller.surroundings
    monkeypatch.setattr(trackers, "zone", UTC_ZONE)
    monkeypatch.setattr(trackers, "state", State(UTC_ZONE))
    monkeypatch.setattr(trackers, "seeded", False)
    monkeypatch.setattr(trackers, "version", 0)
    monkeypatch.setattr(folder, "journals", Journals(journals))
    monkeypatch.setattr(folder, "database_id", None)
    monkeypatch.setattr(folder, "_refused", lambda endpoint_id: None)
    for name in ("folded", "written"):
        monkeypatch.setattr(folder, name, 0)
    monkeypatch.setattr(surroundings, "in_flight", dict)
    monkeypatch.setattr(surroundings, "waiting", lambda: 0)
    monkeypatch.setattr(surroundings, "trials", dict)
    monkeypatch.setattr(surroundings, "snapshot", lambda: None)
    monkeypatch.setattr(surroundings, "watch", lambda until: 0)
    monkeypatch.setattr(surroundings, "cancel", lambda request_id: None)
    monkeypatch.setattr(surroundings, "cancelled", frozenset)
    monkeypatch.setattr(surroundings, "unrecorded", lambda: 0)
    monkeypatch.setattr(surroundings, "serving", lambda: False)
    monkeypatch.setattr(surroundings, "outdated", lambda: False)
    monkeypatch.setattr(surroundings, "key_names", dict)
    monkeypatch.setattr(surroundings, "generated_passwords", list)
    monkeypatch.setattr(surroundings, "writer", None)
    teller_marks.forget()
    teller_gauges.forget()
    monkeypatch.setattr(seeding, "seeds", 0)


def where(endpoint_id: str) -> Where:
    return Where({A: "a", B: "b"}.get(endpoint_id, "(deleted)"), "192.0.2.7")


class World:
    """Gateways' journals, the folder over them and a database writer; `process_wide` uses the one teller's folder."""

    def __init__(self, root: Path, *, process_wide: bool = False) -> None:
        self.root = root
        self.folder = teller.folder if process_wide else Folder(Journals(root), Trackers(UTC_ZONE))
        self.folder.database_id = DATABASE
        self.writer = DatabaseWriter(self.folder, UTC_ZONE, where, reseed=self.reseed)
        self.gateways: list[journal.Writer] = []

    @property
    def trackers(self) -> Trackers:
        return self.folder.trackers

    def gateway(self, *entries: Entry, database_id: str = DATABASE, segment_bytes: int = 1 << 20) -> journal.Writer:
        """A new gateway that has journaled these entries and lives on."""
        self.gateways.append(journal.Writer(self.root, database_id, segment_bytes=segment_bytes))
        for entry in entries:
            assert self.gateways[-1].append(entry)
        return self.gateways[-1]

    def path(self, gateway: journal.Writer) -> Path:
        assert gateway.name is not None
        return self.root / gateway.name

    def write(self, writer: DatabaseWriter | None = None) -> None:
        """Step until everything is in the database."""
        own_database()
        while (writer or self.writer).step().moves:
            pass

    def reseed(self) -> None:
        self.folder.seed(seeding.load(AT), DATABASE)

    def figures(self) -> Figures:
        """Of the trackers, live to the last record."""
        self.folder.catch_up()
        return self.trackers.figures(AT)

    def close(self) -> None:
        for gateway in self.gateways:
            gateway.close()


def own_database() -> None:
    """The database is the one that the journals of a world belong to."""
    Installation.objects.update_or_create(id=1, defaults={"database_id": DATABASE, "created_at": NOW})


def restored(now: float = AT) -> Figures:
    """What a new process would tell: read from the database alone."""
    fresh = Trackers(UTC_ZONE)
    fresh.install(seeding.load(now))
    return fresh.figures(now)


def count_adopted(zone: ZoneInfo = UTC_ZONE) -> int:
    """As a start does, with what llmlb wrote into the history."""
    return adopted.catch_up(zone, lambda text: None)


def same(one: Figures, other: Figures) -> bool:
    """All figures equal; `version` counts changes and is no figure."""
    return told(one) == told(other)


def told(figures: Figures) -> dict[str, Any]:
    """Every figure by name, without what is zero because nothing was counted."""
    return {
        "endpoints": {key: it for key, it in figures.endpoints.items() if it.total or it.cancelled},
        "usage": {key: it for key, it in figures.usage.items() if it != Usage()},
        "totals": {name: value for name, value in figures.totals.items() if value},
        "timeline": figures.timeline,
        "durations": figures.durations,
        "first_tokens": figures.first_tokens,
        "speeds": dict(figures.speeds),
        "today": dict(figures.today),
        "date": figures.date,
    }


def add_endpoint(endpoint_id: str = A, name: str = "a", **fields: Any) -> Endpoint:
    """A row, in the registry as well."""
    url = fields.pop("base_url", f"http://{name}.invalid:8000")
    made = Endpoint.objects.create(id=endpoint_id, name=name, base_url=url, **fields)
    registry.reload()
    return made


def rows(sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def without(table: str) -> Iterator[None]:
    """A table that is not there for a while. For tests with transactions of their own."""
    rows(f"ALTER TABLE {table} RENAME TO kept_aside")
    try:
        yield
    finally:
        rows(f"ALTER TABLE kept_aside RENAME TO {table}")


MakeWorld = Callable[..., World]
