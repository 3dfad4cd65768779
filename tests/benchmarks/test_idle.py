"""The measurement of an idle installation: memory that processes share counts once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import idle
from tests.router import ROOT

MEBIBYTES = 32
SHARED = f"""
import os, sys
data = b"x" * ({MEBIBYTES} << 20)
forked = os.fork() if sys.argv[1:] else 0
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def running(*arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
    command = [sys.executable, "-c", SHARED, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(2 if arguments else 1):
            process.stdout.readline()
        yield process
        process.communicate()


def test_pages_that_two_processes_share_count_once() -> None:
    with running() as process:
        _, one = idle.memory(idle.processes(process.pid))
    with running("fork") as process:
        processes = idle.processes(process.pid)
        _, both = idle.memory(processes)
    assert len(processes) == 2
    assert MEBIBYTES << 10 < one < both < one + (8 << 10)


def test_each_process_has_its_share_of_a_page() -> None:
    with running("fork") as process:
        shares, _ = idle.memory(idle.processes(process.pid))
    assert len(shares) == 2
    assert all(MEBIBYTES << 9 < share < (MEBIBYTES << 9) + (12 << 10) for share in shares.values())


def test_cpu_time_and_wake_ups_are_those_of_the_process() -> None:
    before, woken = idle.cpu_seconds(os.getpid()), idle.wake_ups(os.getpid())
    while idle.cpu_seconds(os.getpid()) < before + 0.05:
        pass
    with running() as process:
        assert idle.cpu_seconds(process.pid) < 5
    assert idle.wake_ups(os.getpid()) > woken
