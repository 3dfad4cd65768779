"""The measuring itself: it sees what it has to see."""

import subprocess
import sys

from tests.hostile.measured import Turns, bystander, preloaded

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


def test_the_longest_turn_is_measured_by_the_cpu_clock(tmp_path, turns_library):
    process = subprocess.Popen([sys.executable, "-c", BUSY], env=preloaded(turns_library, tmp_path))
    assert process.wait(30) == 0
    turns = Turns(tmp_path, process.pid)
    assert turns.count >= 3
    assert 80 <= turns.longest_ms < 120
    assert turns.all_ms >= 90


def test_a_bystander_has_its_answers_and_their_times(measured_gateway):
    with bystander(measured_gateway).asking() as asking:
        pass
    asking.assert_served()
    assert len(asking.seconds) == len(asking.statuses)
    assert asking.p99_ms() > 0
    assert measured_gateway.turns.count > 0
    assert measured_gateway.memory_mb() > 10
