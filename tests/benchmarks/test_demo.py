"""`make demo`, as a newcomer runs it."""

import signal
import subprocess
import sys

from benchmarks.process import ROOT, clean_environment, free_port
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
    assert (process.returncode, "Traceback" in told + rest) == (0, False)


def test_a_taken_port_is_told_and_its_server_left_alone() -> None:
    with upstream(always(answer(b"{}"))) as somebody_else:
        process = start(somebody_else.server_address[1])
        told, _ = process.communicate(timeout=60)
        assert somebody_else.requests == []
    assert (process.returncode, "Traceback" in told) == (1, False)
    assert f"port {somebody_else.server_address[1]} cannot be used" in told
