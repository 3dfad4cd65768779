"""`manage.py journal`: the state of each writer, and each entry on a line."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core.management import CommandError, call_command

from gateway.ipc import journal, record
from gateway.ipc.record import SegmentHead, Unrecorded
from tests.metrics.memory.test_journal_reader import newer_frame
from tests.metrics.records import NOW, A, request
from tests.metrics.world import World, own_database, without
from tests.router import ROOT

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

Run = Callable[..., str]


@pytest.fixture
def run(settings: Any, tmp_path: Path) -> Run:
    """Run the command on this test's journals and return its output; errors are in `run.stderr`."""
    settings.ROUTERDASH = replace(settings.ROUTERDASH, data_dir=tmp_path)

    def call(*arguments: str) -> str:
        stdout, stderr = io.StringIO(), io.StringIO()
        with time_machine.travel(NOW, tick=False):
            call_command("journal", *arguments, stdout=stdout, stderr=stderr)
        call.stderr = stderr.getvalue()  # type: ignore[attr-defined]
        return stdout.getvalue()

    return call


def only_writer(run: Run) -> dict[str, Any]:
    """Return the only writer of the list."""
    (writer,) = json.loads(run("--json"))["writers"]
    reported_writer: dict[str, Any] = writer
    return reported_writer


def dumped(run: Run, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("dump", *arguments).splitlines()]


def types(lines: list[dict[str, Any]]) -> list[str]:
    return [line["type"] for line in lines]


# The list


def test_without_journals_the_total_is_zero(run: Run) -> None:
    assert run() == "total: 0 writers (0 alive), 0 segments, 0 bytes; waiting: 0 records, 0 bytes\n"


def test_records_without_a_position_wait_from_the_start(world: World, run: Run) -> None:
    own_database()
    world.gateway(request(ago=90), request(ago=30))
    writer = only_writer(run)
    size = writer["segments"][0]["bytes"]
    assert (writer["alive"], writer["belongs_to"], writer["position"]) == (True, "this database", None)
    assert writer["waiting"] == {"records": 2, "bytes": size, "damaged_bytes": 0, "oldest_secs": 90.0}


def test_written_records_do_not_wait(world: World, run: Run) -> None:
    gateway = world.gateway(request())
    world.write()
    end = journal.segment_path(world.path(gateway), 1).stat().st_size
    gateway.append(request(ago=5))
    writer = only_writer(run)
    assert writer["position"] == f"1:{end}"
    assert writer["waiting"]["records"] == 1
    assert writer["waiting"]["bytes"] == writer["segments"][0]["bytes"] - end


def test_segments_after_the_position_are_counted(world: World, run: Run) -> None:
    own_database()
    gateway = world.gateway(*[request() for _ in range(6)], segment_bytes=600)
    writer = only_writer(run)
    assert [segment["segment"] for segment in writer["segments"]] == journal.segments(world.path(gateway))
    assert len(writer["segments"]) > 1
    assert writer["waiting"]["records"] == 6
    assert writer["waiting"]["bytes"] == sum(segment["bytes"] for segment in writer["segments"])


def test_damage_after_the_position_is_counted(world: World, run: Run) -> None:
    own_database()
    gateway = world.gateway(request())
    with journal.segment_path(world.path(gateway), 1).open("ab") as segment:
        segment.write(b"garbage")
    gateway.append(request())
    assert only_writer(run)["waiting"]["damaged_bytes"] == 7
    assert ", 7 damaged bytes" in run()


def test_a_writer_without_its_lock_has_ended(world: World, run: Run) -> None:
    own_database()
    gateway = world.gateway(request())
    assert f"{gateway.name}  alive, this database" in run()
    name = gateway.name
    gateway.close()
    assert f"{name}  ended, this database" in run()


def test_the_command_does_not_change_journals_or_locks(world: World, run: Run) -> None:
    gateway = world.gateway(request())
    world.write()
    run()
    assert gateway.append(request())
    gateway.close()
    run()
    world.write()
    assert journal.writers(world.root) == []  # control removed it after its death


def test_records_of_another_database_do_not_wait_for_this_one(world: World, run: Run) -> None:
    own_database()
    world.gateway(request(), database_id="another")
    writer = only_writer(run)
    assert (writer["belongs_to"], writer["waiting"]) == ("another database", None)
    assert "waiting: 0 records" in run()


@pytest.mark.parametrize(
    ("first", "belongs_to"),
    [
        (newer_frame(), "a newer release"),
        (b"garbage", "unreadable head"),
        (b"", "unreadable head"),
        (journal.frame(SegmentHead("x", "another")), "a copy of another"),
    ],
)
def test_unreadable_journals_are_reported(world: World, run: Run, first: bytes, belongs_to: str) -> None:
    own_database()
    directory = world.root / "odd"
    directory.mkdir(parents=True)
    journal.segment_path(directory, 1).write_bytes(first)
    assert (only_writer(run)["belongs_to"], only_writer(run)["waiting"]) == (belongs_to, None)


def test_a_journal_continued_by_a_newer_release_is_reported(world: World, run: Run) -> None:
    own_database()
    with journal.segment_path(world.path(world.gateway(request())), 1).open("ab") as segment:
        segment.write(newer_frame())
    assert (only_writer(run)["belongs_to"], only_writer(run)["waiting"]) == ("a newer release", None)


def test_many_batches_are_counted_to_the_end(world: World, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics.reconcile.journal_report.BATCH", 2)
    own_database()
    world.gateway(*[request() for _ in range(7)], Unrecorded(3), segment_bytes=900)
    assert only_writer(run)["waiting"]["records"] == 7
    assert len(dumped(run)) == 7 + 1 + len(only_writer(run)["segments"])


def test_a_segment_deleted_during_the_command_is_skipped(world: World, run: Run) -> None:
    gateway = world.gateway(*[request() for _ in range(6)], segment_bytes=600)
    own_database()
    journal.segment_path(world.path(gateway), 1).unlink()
    assert 0 < only_writer(run)["waiting"]["records"] < 6


def test_the_total_is_over_all_writers(world: World, run: Run) -> None:
    own_database()
    world.gateway(request(ago=12))
    world.gateway(request(ago=7), request()).close()
    total = json.loads(run("--json"))["total"]
    assert (total["writers"], total["alive"], total["segments"]) == (2, 1, 2)
    assert (total["waiting"]["records"], total["waiting"]["oldest_secs"]) == (3, 12.0)
    assert run().splitlines()[-1].startswith("total: 2 writers (1 alive), 2 segments, ")


@pytest.mark.django_db(transaction=True)
def test_without_the_database_positions_are_unknown(world: World, run: Run) -> None:
    gateway = world.gateway(request())
    with without("journal_positions"):
        text = run()
        report = json.loads(run("--json"))
    assert "the database is unavailable, so the positions are unknown: " in run.stderr  # type: ignore[attr-defined]
    assert f"{gateway.name}  alive, database the database of this test" in text
    assert "  position  unknown" in text
    assert "segments  1 (" in text
    assert "waiting: unknown" in text
    assert report["database"] == {"reached": False, "id": None}
    assert report["total"]["waiting"] is None


def test_the_command_does_not_create_a_database_id(world: World, run: Run) -> None:
    world.gateway(request())
    assert only_writer(run)["belongs_to"] == "another database"
    assert json.loads(run("--json"))["database"] == {"reached": True, "id": None}


# Entries


def test_each_entry_is_a_line(world: World, run: Run) -> None:
    made = request(record.FAILED, error="HTTP 502", request_body='{"model": "tiny"}')
    gateway = world.gateway(made, Unrecorded(4))
    head, first, second = dumped(run)
    assert head["entry"] == {"database_id": "the database of this test", "writer": gateway.name}
    assert {head["writer"], first["writer"]} == {gateway.name}
    assert (head["position"], head["type"], first["type"]) == ("1:0", "head", "request")
    assert (first["entry"]["id"], first["entry"]["completed_us"]) == (made.id, made.completed_us)
    assert first["entry"]["request_body"] == '{"model": "tiny"}'
    assert first["entry"]["attempts"] == [
        {
            "endpoint_id": A,
            "outcome": "failed",
            "status": 502,
            "duration_us": 2_000_000,
            "error": None,
            "at_us": 0,
            "reason": "",
            "scores": [],
            "said": None,
            "costs": [],
            "work": None,
            "connect_us": None,
            "served": None,
            "canonical": None,
            "step": 0,
        }
    ]
    assert (second["type"], second["entry"]) == ("unrecorded", {"count": 4})


def test_entries_of_one_writer(world: World, run: Run) -> None:
    gateway = world.gateway(request())
    world.gateway(request())
    assert len(dumped(run)) == 4
    assert {line["writer"] for line in dumped(run, str(gateway.name))} == {gateway.name}


def test_reading_from_the_position_of_a_line_starts_with_that_line(world: World, run: Run) -> None:
    gateway = world.gateway(*[request() for _ in range(4)], segment_bytes=600)
    lines = dumped(run)
    assert lines[-1]["position"].partition(":")[0] > "1"
    for number, line in enumerate(lines):
        assert dumped(run, str(gateway.name), "--from", line["position"]) == lines[number:]


def test_no_more_than_the_limit(world: World, run: Run) -> None:
    world.gateway(request(), request())
    world.gateway(request())
    assert types(dumped(run, "--limit", "4")) == ["head", "request", "request", "head"]
    assert dumped(run, "--limit", "0") == []


def test_only_waiting_entries(world: World, run: Run) -> None:
    gateway = world.gateway(request())
    world.write()
    assert dumped(run, "--waiting") == []
    late = request()
    gateway.append(late)
    world.gateway(request(), database_id="another")
    assert [line["entry"]["id"] for line in dumped(run, "--waiting")] == [late.id]


@pytest.mark.django_db(transaction=True)
def test_waiting_entries_are_unknown_without_the_database(world: World, run: Run) -> None:
    world.gateway(request())
    with without("journal_positions"):
        assert len(dumped(run)) == 2
        with pytest.raises(CommandError, match="the database is unavailable, so the positions are unknown"):
            run("dump", "--waiting")


def test_damage_is_reported_on_stderr(world: World, run: Run) -> None:
    gateway = world.gateway()
    gateway.open()
    with journal.segment_path(world.path(gateway), 1).open("ab") as segment:
        segment.write(b"garbage")
    gateway.append(request())
    assert types(dumped(run)) == ["head", "request"]
    assert f"{gateway.name}: 7 damaged bytes" in run.stderr  # type: ignore[attr-defined]


def test_entries_of_a_newer_release_are_skipped(world: World, run: Run) -> None:
    directory = world.root / "1-newer"
    directory.mkdir(parents=True)
    journal.segment_path(directory, 1).write_bytes(newer_frame())
    world.gateway(request())
    assert types(dumped(run)) == ["head", "request"]
    assert "1-newer was written by a newer release" in run.stderr  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nobody"], "there is no writer nobody"),
        (["../journal"], "there is no writer ../journal"),
        (["nobody", "--from", "1"], "'1' does not have the form SEGMENT:OFFSET"),
        (["nobody", "--from=-1:0"], "'-1:0' does not have the form SEGMENT:OFFSET"),
        (["--from", "1:0"], "--from needs a writer"),
        (["nobody", "--from", "1:0", "--waiting"], "--from needs a writer, and cannot be combined with --waiting"),
        (["--limit", "few"], "'few' is not a number"),
    ],
)
def test_errors_are_one_line(run: Run, arguments: list[str], complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        run("dump", *arguments)


def test_a_missing_segment_is_not_a_start_position(world: World, run: Run) -> None:
    gateway = world.gateway(request())
    with pytest.raises(CommandError, match="has no segment 7"):
        run("dump", str(gateway.name), "--from", "7:0")


def test_a_closed_pipe_ends_the_command_quietly(world: World, tmp_path: Path) -> None:
    world.gateway(*[request(request_body="x" * 1000) for _ in range(500)])
    command = [sys.executable, "manage.py", "journal", "dump"]
    environment = {"ROUTERDASH_DATA_DIR": str(tmp_path), "PATH": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:  # type: ignore[call-overload]
        assert json.loads(process.stdout.readline())["type"] == "head"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
