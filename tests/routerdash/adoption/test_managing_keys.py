"""Adoption warns of API keys with `api_keys.manage`: no route of llmlb used it, and here it gives power."""

import sqlite3
from contextlib import closing
from datetime import UTC
from pathlib import Path

import pytest

from tests.metrics.records import NOW
from tests.reference.make_reference_db import make
from tests.routerdash.commands import Done, manage


def dry_run(path: Path, *granted: str) -> Done:
    """Inspect a database of llmlb whose keys have these permissions, as they are in its column."""
    make(path, seed=1, requests=2, now=NOW, zone=UTC)
    with closing(sqlite3.connect(path)) as database, database:
        ids = [row[0] for row in database.execute("SELECT id FROM api_keys ORDER BY id")]
        for number, (key_id, permissions) in enumerate(zip(ids, granted, strict=True)):
            change = "UPDATE api_keys SET name = ?, permissions = ? WHERE id = ?"
            database.execute(change, (f"key {number}", permissions, key_id))
    data_dir = str(path.parent / "data")
    return manage("adopt", "--dry-run", ROUTERDASH_DATA_DIR=data_dir, DATABASE_URL=f"sqlite:///{path}")


def test_keys_with_a_power_that_llmlb_did_not_give_are_named(tmp_path: Path) -> None:
    done = dry_run(
        tmp_path / "llmlb.db", '["openai.inference", "api_keys.manage"]', "no JSON", '{"api_keys.manage": 1}'
    )
    (warning,) = (line for line in done.out.splitlines() if line.startswith("warning: "))
    assert "api_keys.manage: 'key 0'." in warning
    assert "limits and budgets" in warning


@pytest.mark.parametrize("column", ['["openai.inference"]', "[]", "no JSON"])
def test_without_such_a_key_there_is_no_warning(tmp_path: Path, column: str) -> None:
    done = dry_run(tmp_path / "llmlb.db", column, column, column)
    assert done.code == 0
    assert "warning: " not in done.out
