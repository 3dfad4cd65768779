"""Limits that real processes share, while some of them are killed."""

import random
import struct
import subprocess
import sys
import time

from gateway.ipc.counters.limit_counters import LimitCounters
from gateway.ipc.counters.plan import Allowance
from gateway.ipc.live_page import LivePage
from tests.gateway.ipc.counters.conftest import most
from tests.router import ROOT

ONE_AT_A_TIME = """
import sys, time
from pathlib import Path
from gateway.ipc.counters.limit_counters import LimitCounters
from gateway.ipc.counters.plan import Allowance, Charge
from gateway.ipc.live_page import LivePage, memory_barrier
page = LivePage(Path(sys.argv[1]))
row = page.claim_row()
counters = LimitCounters(page, row)
plan = counters.plan((counters.subject("key", "a"), Allowance(concurrency=1)))
holders = row.cells(4)
print(flush=True)
sys.stdin.readline()
admitted = at_once = 0
until = time.monotonic() + 2.0
while time.monotonic() < until:
    for _ in range(100):
        charge = plan.take()
        if isinstance(charge, Charge):
            admitted += 1
            holders[0] = 1
            memory_barrier()
            at_once = max(at_once, page.in_flight(4))
            holders[0] = 0
            charge.settle()
print(admitted, at_once)
"""

FASTER = 20  # times
REQUESTS = 60
REQUESTS_A_MINUTE = """
import os, sys, struct, time
from pathlib import Path
from gateway.ipc.counters.limit_counters import LimitCounters
from gateway.ipc.counters.plan import Allowance, Charge
from gateway.ipc.live_page import LivePage
path, log, faster, requests = sys.argv[1:]
log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
page = LivePage(Path(path))
clock = page.counters.clock = lambda: time.monotonic() * int(faster)
counters = LimitCounters(page, page.claim_row())
plan = counters.plan((counters.subject("key", "a"), Allowance(concurrency=3, requests=int(requests))))
print(flush=True)
while True:
    before = clock()
    charge = plan.take()
    if isinstance(charge, Charge):
        os.write(log, struct.pack("dd", before, clock()))
        time.sleep(0.01)
        charge.settle()
"""


def start(program, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_four_processes_are_never_two_at_once_and_none_is_left_out(tmp_path):
    processes = [start(ONE_AT_A_TIME, tmp_path / "live") for _ in range(4)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    results = [[int(word) for word in process.communicate(timeout=60)[0].split()] for process in processes]
    assert all(at_once == 1 for _, at_once in results), results
    assert sum(admitted for admitted, _ in results) > 10, results  # one that was stopped may have held the place


def test_requests_a_minute_hold_while_processes_are_killed(tmp_path):
    """The clock is 20 times as fast. Each process logs the times before and after it took a request."""
    chance = random.Random(17)
    log = tmp_path / "log"
    page = LivePage(tmp_path / "live")
    page.counters.clock = lambda: time.monotonic() * FASTER
    arguments = (REQUESTS_A_MINUTE, tmp_path / "live", log, FASTER, REQUESTS)
    processes = [start(*arguments) for _ in range(4)]
    try:
        for _ in range(15):
            victim = chance.randrange(4)
            processes[victim].kill()
            processes[victim].communicate()
            page.clear_dead_rows()
            processes[victim] = start(*arguments)
            time.sleep(0.2)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    page.clear_dead_rows()
    times = sorted(struct.iter_unpack("dd", log.read_bytes()))
    for begin, _ in times:
        assert sum(begin <= before and after < begin + 60 for before, after in times) <= REQUESTS
    assert len(times) > REQUESTS
    # No place is lost: after a minute, all of the limit is there.
    later = page.counters.clock() + 63
    page.counters.clock = lambda: later
    row = page.claim_row()
    assert most(LimitCounters(page, row), Allowance(concurrency=REQUESTS, requests=REQUESTS)) == REQUESTS
    row.release()
