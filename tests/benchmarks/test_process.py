"""Free ports for programs that a program starts."""

import socket
import subprocess
import sys
from contextlib import closing
from itertools import count

from benchmarks import process
from benchmarks.process import free_port

BEGIN_THERE = "from itertools import count; from benchmarks import process; process._numbers = count(7); "


def test_a_port_in_use_is_skipped() -> None:
    port = free_port()
    with closing(socket.create_server(("127.0.0.1", port + 1))):
        assert free_port() != port + 1


def test_no_port_is_returned_twice() -> None:
    assert len({free_port() for _ in range(50)}) == 50


def test_no_two_processes_get_the_same_port(monkeypatch) -> None:
    monkeypatch.setattr(process, "_numbers", count(7))
    mine = free_port()  # no program listens on it yet
    command = [sys.executable, "-c", f"{BEGIN_THERE} print(process.free_port())"]
    its = subprocess.run(command, cwd=process.ROOT, capture_output=True, text=True, check=True)
    assert int(its.stdout) != mine
