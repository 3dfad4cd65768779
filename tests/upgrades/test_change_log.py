"""The database of each earlier release gets the change log and its triggers."""

from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest

from tests.routerdash.commands import Done, manage, python
from tests.upgrades import archives

ENSURE = "from endpoints.changes import triggers; triggers.ensure(); print(triggers.ensure())"


@pytest.mark.parametrize("archive", archives.each_archive())
def test_an_earlier_database_logs_changes(archive: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    archives.unpack(archive, data_dir)
    settings = {"ROUTERDASH_DATA_DIR": str(data_dir), "ROUTERDASH_LOG_LEVEL": "error"}
    assert manage("migrate", "--verbosity", "0", **settings) == Done(0, "", "")
    assert python(ENSURE, **settings) == Done(0, "True\n", "")
    with closing(connect(data_dir / "routerdash.sqlite3", isolation_level=None)) as database:
        endpoints = {("endpoint", row[0]) for row in database.execute("SELECT id FROM endpoints")}
        keys = {("key", row[0]) for row in database.execute("SELECT key_hash FROM api_keys")}
        limits = {
            ("limit", f"key:{row[0]}") for row in database.execute("SELECT subject_id FROM limits WHERE level = 'key'")
        }
        assert endpoints
        assert keys
        database.execute("DELETE FROM registry_changes")  # a release with a log leaves what gateways have not read
        database.execute("UPDATE endpoints SET notes = 'changed'")
        database.execute("UPDATE endpoints SET error_count = error_count + 1")
        database.execute("DELETE FROM api_keys")
        assert (
            set(database.execute("SELECT kind, object_id FROM registry_changes")) == endpoints | keys | limits
        )  # limits of a deleted key are deleted with it
