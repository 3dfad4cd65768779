import sqlite3
import time
from contextlib import closing

import pytest

from gateway.ipc import response_owners
from gateway.ipc.response_owners import UNKNOWN, Owners, ResponseOwner


@pytest.fixture
def make(tmp_path):
    made = []

    def of_worker(worker=0):
        made.append(Owners(tmp_path / "responses", worker))
        return made[-1]

    yield of_worker
    for owners in made:
        owners.close()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "responses" / "0.sqlite3"


def store(known, *ids, owner="alice", endpoint="endpoint-1"):
    for response_id in ids:
        known.record_owner(response_id, owner, endpoint)
    known.flush()


def ids_in(path):
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT count(*) FROM ids").fetchone()[0]


def test_no_file_is_created_before_the_first_id(make, file):
    assert make().find("resp_1", "alice") == UNKNOWN
    assert not file.parent.exists()


def test_an_id_belongs_to_its_creator(make):
    known = make()
    store(known, "resp_1")
    assert known.find("resp_1", "alice") == ResponseOwner("endpoint-1", known=True)
    assert known.find("resp_1", "bob") == ResponseOwner(None, known=True)
    assert known.find("resp_2", "alice") == UNKNOWN


def test_two_keys_may_have_the_same_id_at_two_endpoints(make):
    known = make()
    store(known, "resp_1")
    store(known, "resp_1", owner="bob", endpoint="endpoint-2")
    for owners in (known, make(1)):
        assert owners.find("resp_1", "alice").endpoint_id == "endpoint-1"
        assert owners.find("resp_1", "bob").endpoint_id == "endpoint-2"


def test_an_id_stays_with_its_first_owner_at_an_endpoint(make):
    one, other = make(0), make(1)
    store(one, "resp_1")
    for owners in (one, other):
        store(owners, "resp_1", owner="bob")
        assert owners.find("resp_1", "bob") == ResponseOwner(None, known=True)
        assert owners.find("resp_1", "alice").endpoint_id == "endpoint-1"


def test_ids_stored_by_one_worker_are_found_by_others_at_once(make):
    one, other = make(0), make(1)
    assert other.find("resp_1", "alice") == UNKNOWN
    store(one, "resp_1")
    assert other.find("resp_1", "alice").endpoint_id == "endpoint-1"
    assert other.find("resp_1", "bob") == ResponseOwner(None, known=True)


def test_a_restart_forgets_nothing(make):
    before = make()
    store(before, "resp_1")
    before.close()
    assert make().find("resp_1", "alice").endpoint_id == "endpoint-1"


def test_evicted_ids_are_read_again(make, monkeypatch):
    monkeypatch.setattr(response_owners, "MAX_REMEMBERED", 2)
    known = make()
    for response_id in ("resp_1", "resp_2", "resp_3"):
        store(known, response_id)
    assert [known.find(f"resp_{number}", "alice").endpoint_id for number in (1, 2, 3)] == ["endpoint-1"] * 3


def test_ids_are_deleted_after_their_retention(make, file):
    known = make()
    store(known, "resp_1")
    known.close()
    with closing(sqlite3.connect(file)) as database:
        old = time.time() - response_owners.MAX_AGE_DAYS * 86400 - 10
        database.execute("UPDATE ids SET made = ?", (old,))
        database.commit()
    again = make()
    assert again.find("resp_1", "alice") == UNKNOWN
    store(again, "resp_2")
    again.close()
    assert ids_in(file) == 1


def test_the_ids_of_a_file_are_limited(make, file, monkeypatch):
    monkeypatch.setattr(response_owners, "MAX_ROWS", 50)
    known = make()
    for number in range(200):
        store(known, f"resp_{number}")
    known.close()
    assert ids_in(file) == 50
    assert make().find("resp_0", "alice") == UNKNOWN
    assert make().find("resp_199", "alice").endpoint_id == "endpoint-1"


def test_files_contain_no_usable_ids(make, file):
    known = make()
    store(known, "resp_secret")
    known.close()
    assert b"resp_secret" not in file.read_bytes()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_damaged_file_is_replaced(make, file, caplog):
    file.parent.mkdir()
    file.write_bytes(b"no database" * 1000)
    known = make()
    assert known.find("resp_1", "alice") == UNKNOWN
    store(known, "resp_1")
    assert make(1).find("resp_1", "alice").endpoint_id == "endpoint-1"
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "0.sqlite3 cannot be read",
        "0.sqlite3 is damaged",
    ]


def test_a_full_disk_is_logged_once_and_its_ids_are_written_later(make, file, caplog, monkeypatch):
    monkeypatch.setattr(response_owners, "RETRY_SECONDS", 0.0)
    known = make()
    store(known, "resp_1")

    def open_full(self, opened=Owners._open):
        database = opened(self)
        database.execute("PRAGMA max_page_count = 4")  # SQLite then reports a full database, as for a full disk
        return database

    known.close()
    with monkeypatch.context() as full:
        full.setattr(Owners, "_open", open_full)
        for number in range(2, 500):
            store(known, f"resp_{number}")
        assert known.pending
        assert known.find("resp_499", "alice").endpoint_id == "endpoint-1"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "full" in caplog.text
    known.flush()
    assert not known.pending
    assert all(make(1).find(f"resp_{index}", "alice").endpoint_id for index in (1, 2, 250, 499))


def test_a_directory_that_cannot_be_created_fails_no_request(make, file, caplog):
    file.parent.write_bytes(b"")
    known = make()
    store(known, "resp_1", "resp_2")
    store(known, "resp_3")
    assert known.find("resp_3", "alice").endpoint_id == "endpoint-1"
    assert len(caplog.records) == 1


def test_a_locked_file_is_written_later(make, file, monkeypatch):
    monkeypatch.setattr(response_owners, "RETRY_SECONDS", 0.0)
    known = make()
    store(known, "resp_1")
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store(known, "resp_2")
    assert known.pending
    other.execute("ROLLBACK")
    other.close()
    known.flush()
    assert make(1).find("resp_2", "alice").endpoint_id == "endpoint-1"
