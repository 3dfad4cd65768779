"""The measurement of loop iterations, and the bystander."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hostile import measured
from tests.hostile.measured import (
    Bystander,
    LoopIterations,
    assert_short_iterations,
    bystander,
    preloaded,
    seconds_without_processor,
)

BUSY = """
import time, uvloop
async def main():
    import asyncio
    for milliseconds in (5, 80, 5):
        await asyncio.sleep(0.001)
        until = time.thread_time() + milliseconds / 1000
        while time.thread_time() < until: pass
    await asyncio.sleep(0.001)
uvloop.run(main())
"""


def test_the_longest_loop_iteration_is_measured_by_the_cpu_clock(tmp_path, iterations_library):
    process = subprocess.Popen([sys.executable, "-c", BUSY], env=preloaded(iterations_library, tmp_path))
    assert process.wait(30) == 0
    iterations = LoopIterations(tmp_path, process.pid)
    assert iterations.count >= 3
    assert 80 <= iterations.longest_ms < 120
    assert iterations.all_ms >= 90


def test_a_bystander_counts_responses_and_their_times(measured_gateway):
    with bystander(measured_gateway).running() as client:
        pass
    client.assert_served()
    assert len(client.seconds) == len(client.statuses)
    assert client.p99_ms() > 0
    assert measured_gateway.iterations.count > 0
    assert measured_gateway.memory_mb() > 10


def test_waits_for_a_processor_are_no_part_of_a_response_time(monkeypatch):
    clock = iter([10.0, 11.0])
    waits = {"thread-self": iter([1.0, 1.25]), 7: iter([2.0, 2.5])}
    monkeypatch.setattr(measured, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(measured, "seconds_without_processor", lambda task: next(waits[task]))
    client = Bystander(1, "a key", servers=(7,))
    response = SimpleNamespace(read=lambda: b"", status=200)
    connection: Any = SimpleNamespace(request=lambda *_: None, getresponse=lambda: response)
    client.send_request(connection)
    assert (client.seconds, client.statuses) == ([0.25], [200])


def test_a_thread_waits_for_the_processor_that_another_program_has():
    """Both need the same processor, and share it."""
    processors = os.sched_getaffinity(0)
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for task in (0, other.pid):
            os.sched_setaffinity(task, {min(processors)})
        before, end = seconds_without_processor("thread-self"), time.thread_time() + 0.2
        while time.thread_time() < end:
            pass
        assert seconds_without_processor("thread-self") - before > 0.05
    finally:
        os.sched_setaffinity(0, processors)
        other.kill()
        other.wait()


@pytest.fixture
def usual_machine(monkeypatch):
    monkeypatch.setattr(measured, "slowness", lambda: 1.0)


def blocking_gateway(longest_ms):
    """Stands for a gateway whose longest loop iterations in successive runs are the given ones."""
    figures = iter(longest_ms)
    iterations = SimpleNamespace(clear=lambda: None, longest_ms=0.0)

    def run():
        iterations.longest_ms = next(figures)
        return iterations.longest_ms

    return SimpleNamespace(iterations=iterations), run


@pytest.mark.usefixtures("usual_machine")
@pytest.mark.parametrize(("longest_ms", "last"), [([20.0], 20.0), ([58.0, 7.0], 7.0), ([58.0, 50.0, 49.0], 49.0)])
def test_a_case_is_repeated_until_a_run_has_only_short_iterations(longest_ms, last):
    gateway, run = blocking_gateway(longest_ms)
    assert assert_short_iterations(gateway, run) == last


@pytest.mark.usefixtures("usual_machine")
def test_a_case_fails_after_three_runs_with_a_long_iteration():
    gateway, run = blocking_gateway([58.0, 61.0, 50.0])
    with pytest.raises(AssertionError, match=r"deep JSON: longest loop iterations 58\.0, 61\.0, 50\.0 ms, bound 50 ms"):
        assert_short_iterations(gateway, run, "deep JSON")


def test_the_bound_grows_with_the_slowness_of_the_machine(monkeypatch):
    monkeypatch.setattr(measured, "slowness", lambda: 1.5)
    gateway, run = blocking_gateway([74.0])
    assert assert_short_iterations(gateway, run) == 74.0
