"""Responses in the background: each is counted once, by one process."""

import os
import threading
import time

import pytest

from gateway.ipc.background_responses import MAX_AGE_DAYS, BackgroundResponses, Uncounted

FACTS = Uncounted("asked", "own-id", "canonical")


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "responses" / "background"


def test_one_of_all_processes_counts_it(directory):
    BackgroundResponses(directory).add("e", "resp_a", FACTS)
    claimed = []
    claims = [lambda: claimed.append(BackgroundResponses(directory).claim("e", "resp_a"))] * 8
    threads = [threading.Thread(target=claim) for claim in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [facts for facts in claimed if facts is not None] == [FACTS]


def test_only_that_of_the_endpoint(directory):
    BackgroundResponses(directory).add("e", "resp_a", FACTS)
    assert BackgroundResponses(directory).claim("other", "resp_a") is None
    assert BackgroundResponses(directory).claim("e", "resp_b") is None
    assert BackgroundResponses(directory).claim("e", "resp_a") == FACTS


def test_a_second_note_is_none(directory):
    responses = BackgroundResponses(directory)
    for model in ("asked", "another"):
        responses.add("e", "resp_a", Uncounted(model, "own-id"))
    assert responses.claim("e", "resp_a") == Uncounted("asked", "own-id")
    assert responses.claim("e", "resp_a") is None


def test_files_are_private_and_have_no_ids(directory):
    BackgroundResponses(directory).add("e", "resp_secret", FACTS)
    (path,) = directory.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "resp_secret" not in path.name + path.read_text()


def test_old_ones_are_removed(directory):
    BackgroundResponses(directory).add("e", "old", FACTS)
    (path,) = directory.iterdir()
    then = time.time() - MAX_AGE_DAYS * 86400 - 1
    os.utime(path, (then, then))
    BackgroundResponses(directory).add("e", "new", FACTS)
    assert BackgroundResponses(directory).claim("e", "old") is None
    assert BackgroundResponses(directory).claim("e", "new") == FACTS


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    (tmp_path / "responses").write_text("a file")
    responses = BackgroundResponses(tmp_path / "responses" / "background")
    for number in range(3):
        responses.add("e", f"resp_{number}", FACTS)
    assert responses.claim("e", "resp_0") is None
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "responses in the background are not counted"
    ]
