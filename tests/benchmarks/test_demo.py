"""`make demo`, as a newcomer runs it."""

import signal
import subprocess
import sys
from pathlib import Path

from benchmarks import past
from benchmarks.process import ROOT, clean_environment, free_port
from gateway import journal, record
from gateway.record import RequestRecord
from metrics.fold import sound
from tests.gateway.samples import make_endpoint, make_snapshot
from tests.gateway.scripted import always, answer, upstream


def start(port: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.demo"],
        cwd=ROOT,
        env=clean_environment({"ROUTERDASH_PORT": str(port)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_it_runs_until_interrupted() -> None:
    process = start(free_port())
    assert process.stdout is not None
    told = ""
    while "The demo runs at" not in told:
        line = process.stdout.readline()
        assert line, told
        told += line
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in told + rest) == (0, False), told + rest


def test_a_taken_port_is_told_and_its_server_left_alone() -> None:
    with upstream(always(answer(b"{}"))) as somebody_else:
        process = start(somebody_else.server_address[1])
        told, _ = process.communicate(timeout=60)
        assert somebody_else.requests == []
    assert (process.returncode, "Traceback" in told) == (1, False)
    assert f"port {somebody_else.server_address[1]} cannot be used" in told


def test_its_past_is_read_as_any_journal(tmp_path: Path) -> None:
    known = make_snapshot(make_endpoint("one", "small", "large"))
    count = past.write(tmp_path, known, {"one": past.Speed(0.2, 50.0)}, 1_790_000_000.0)
    (writer,) = journal.writers(tmp_path)
    entries = journal.read(tmp_path / writer, journal.START, 100_000).entries
    records = [it for it in entries if isinstance(it, RequestRecord)]
    assert (len(records), all(map(sound, records))) == (count, True)
    assert {it.outcome for it in records} == {record.OK, record.FAILED, record.CANCELLED}
