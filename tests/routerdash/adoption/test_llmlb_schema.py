"""Recognition of databases of llmlb: every difference is reported."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from routerdash.adoption import llmlb_schema
from tests.reference.make_reference_db import make


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "original.sqlite3"
    make(path, requests=5)
    return path


@pytest.fixture
def db(original: Path) -> Iterator[sqlite3.Connection]:
    """A copy in memory."""
    with closing(sqlite3.connect(":memory:")) as copy, closing(sqlite3.connect(original)) as source:
        source.backup(copy)
        yield copy


def redeclare(db: sqlite3.Connection, table: str, pattern: str, text: str) -> None:
    """Declare the table again with one changed line."""
    (declared,) = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    changed, count = re.subn(pattern, text, declared, count=1)
    assert count == 1, declared
    db.execute(f"DROP TABLE {table}")
    db.execute(changed)


def test_tables_of_llmlb_are_accepted(db: sqlite3.Connection) -> None:
    assert llmlb_schema.differences(db) == []


def test_the_facts_cover_every_mapped_table() -> None:
    assert set(llmlb_schema.MAPPED) <= set(llmlb_schema.schema())


def test_a_database_is_recognised_by_its_tables(db: sqlite3.Connection) -> None:
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert llmlb_schema.is_reference(tables)
    assert not llmlb_schema.is_reference(tables - {"endpoint_daily_stats"})
    assert not llmlb_schema.is_reference([])


def test_a_missing_table_is_reported(db: sqlite3.Connection) -> None:
    db.execute("DROP TABLE settings")
    assert llmlb_schema.differences(db) == ["table settings is missing"]


@pytest.mark.parametrize(
    ("table", "pattern", "text", "difference"),
    [
        ("endpoints", r'\n\s*"notes" TEXT,', "", "endpoints.notes is missing"),
        ("endpoints", r'"latency_ms" INTEGER', '"latency_ms" TEXT', "endpoints.latency_ms has type TEXT, not INTEGER"),
        ("endpoints", r'"notes" TEXT', '"notes"', "endpoints.notes has type none, not TEXT"),
        ("endpoints", r'"name" TEXT NOT NULL', '"name" TEXT', "endpoints.name may be empty"),
        ("endpoints", r'"notes" TEXT', '"notes" TEXT NOT NULL', "endpoints.notes must not be empty"),
        ("endpoints", r"DEFAULT \(30\)", "DEFAULT 60", "health_check_interval_secs has default 60, not 30"),
        ("endpoints", r" DEFAULT \(30\)", "", "health_check_interval_secs has default None, not 30"),
        ("settings", r"PRIMARY KEY", "", "settings.key is not part of the primary key"),
        ("settings", r'"value" TEXT', '"x" TEXT NOT NULL,\n"value" TEXT', "settings.x is unknown to RouterDash"),
    ],
)
def test_a_changed_column_is_reported(
    db: sqlite3.Connection, table: str, pattern: str, text: str, difference: str
) -> None:
    redeclare(db, table, pattern, text)
    (reported,) = llmlb_schema.differences(db)
    assert difference in reported
    assert reported.startswith(f"{table}.")


def test_an_additional_nullable_column_is_accepted(db: sqlite3.Connection) -> None:
    redeclare(db, "endpoints", r'"notes" TEXT', '"region" TEXT,\n"zone" TEXT NOT NULL DEFAULT \'\',\n"notes" TEXT')
    assert llmlb_schema.differences(db) == []


@pytest.mark.parametrize("declared", ["DEFAULT 30", "DEFAULT (30)", "DEFAULT ((30))", "DEFAULT 30.0"])
def test_equal_defaults_in_other_notations_are_accepted(db: sqlite3.Connection, declared: str) -> None:
    redeclare(db, "endpoints", r"DEFAULT \(30\)", declared)
    assert llmlb_schema.differences(db) == []


def test_types_are_compared_case_insensitively(db: sqlite3.Connection) -> None:
    redeclare(db, "endpoints", r'"notes" TEXT', '"notes" text')
    assert llmlb_schema.differences(db) == []


def test_every_difference_is_reported(db: sqlite3.Connection) -> None:
    db.execute("DROP TABLE users")
    redeclare(db, "endpoints", r'"notes" TEXT', '"notes" BLOB')
    redeclare(db, "settings", r'"value" TEXT NOT NULL', '"value" TEXT')
    assert len(llmlb_schema.differences(db)) == 3
