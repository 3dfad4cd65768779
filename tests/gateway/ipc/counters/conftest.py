import pytest

from gateway.ipc.counters.limit_counters import LimitCounters
from gateway.ipc.counters.plan import Allowance, Charge, Excess
from gateway.ipc.live_page import LivePage


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class World:
    """Several gateway processes in one, which share a live page and a clock."""

    def __init__(self, path):
        self.path = path
        self.clock = Clock(30_000.0)  # the begin of a cell
        self.page = self.open()
        self.rows = []

    def open(self):
        page = LivePage(self.path)
        page.counters.clock = self.clock
        return page

    def start(self):
        row = self.page.claim_row()
        self.rows.append(row)
        return LimitCounters(self.page, row)

    def restart(self, number=0):
        """End a process, and start another one in its row."""
        self.rows[number].release()
        self.rows[number] = self.page.claim_row()
        return LimitCounters(self.page, self.rows[number])

    def end(self):
        for row in self.rows:
            row.release()


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path / "live")
    yield made
    made.end()


def take(counters, allowance, tokens=0, subject="a"):
    """Take from the limits of one API key. Return the name of the limit that forbids it."""
    taken = counters.plan((counters.subject("key", subject), allowance)).take(tokens)
    return taken.limit if isinstance(taken, Excess) else taken


def taken(counters, allowance: Allowance, tokens: int = 0, subject: str = "a") -> Charge:
    charge = take(counters, allowance, tokens, subject)
    assert isinstance(charge, Charge), charge
    return charge


def most(counters, allowance, tokens=0):
    """Return how many requests are taken until a limit forbids the next one."""
    count = 0
    while isinstance(take(counters, allowance, tokens), Charge):
        count += 1
    return count
