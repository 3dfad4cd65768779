"""`make demo` in a new checkout."""

import signal
import subprocess
import sys
from pathlib import Path

from benchmarks import past
from benchmarks.process import ROOT, clean_environment, free_port
from benchmarks.published import Published
from gateway.ipc import journal, record
from gateway.ipc.record import RequestRecord
from metrics.counting.plausibility import is_countable
from tests.gateway.samples import make_endpoint
from tests.gateway.scripted import always, http_response, upstream


def start(port: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.demo"],
        cwd=ROOT,
        env=clean_environment({"ROUTERDASH_PORT": str(port)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_demo_runs_until_interrupted() -> None:
    process = start(free_port())
    assert process.stdout is not None
    output = ""
    while "The demo runs at" not in output:
        line = process.stdout.readline()
        assert line, output
        output += line
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in output + rest) == (0, False), output + rest


def test_a_port_in_use_is_reported_and_its_server_not_contacted() -> None:
    with upstream(always(http_response(b"{}"))) as other_server:
        process = start(other_server.server_address[1])
        output, _ = process.communicate(timeout=60)
        assert other_server.requests == []
    assert (process.returncode, "Traceback" in output) == (1, False)
    assert f"port {other_server.server_address[1]} cannot be used" in output


def test_the_past_of_the_demo_is_read_like_any_journal(tmp_path: Path) -> None:
    known = Published(1, "database-1", (make_endpoint("one", "small", "large"),))
    count = past.write(tmp_path, known, {"one": past.Speed(0.2, 50.0)}, 1_790_000_000.0)
    (writer,) = journal.writers(tmp_path)
    entries = journal.read(tmp_path / writer, journal.START, 100_000).entries
    records = [entry for entry in entries if isinstance(entry, RequestRecord)]
    assert (len(records), all(map(is_countable, records))) == (count, True)
    assert {request.outcome for request in records} == {record.OK, record.FAILED, record.CANCELLED}
