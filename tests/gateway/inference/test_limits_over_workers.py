"""Limits that several gateway processes keep together."""

import contextlib
import threading
import time
from bisect import bisect
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.registry.limits import USER_LEVEL
from tests.gateway.limits.helpers import LimitedKey, at_once, counted
from tests.gateway.process import GatewayProcess
from tests.gateway.scripted import Talk, http_response, upstream
from tests.router import until

# Of twelve clients, one that came first waits for eleven. A process that does not run for a while loses turns.
MOST_TURNS = 24


@pytest.fixture
def gateways(tmp_path):
    """Four gateway processes of one data directory."""
    made = [GatewayProcess(tmp_path, ROUTERDASH_WORKERS="4") for _ in range(4)]
    made[0].publish()
    for worker, gateway in enumerate(made):
        gateway.worker = worker
        gateway.log_path = tmp_path / f"log-{worker}"
        gateway.start(published=False)
    until(lambda: len([1 for gateway in made if gateway.get("/v1/models").status == 200]) == 4)
    yield made
    for gateway in made:
        gateway.end()


def turns_while_waiting(records, begins):
    """For each request, the number of others that began while it waited."""
    arrivals = [record.completed_us - record.duration_us for record in records]
    return [bisect(begins, begin) - bisect(begins, arrival) for arrival, begin in zip(arrivals, begins, strict=True)]


def test_one_at_a_time_over_four_workers_and_never_idle_for_long(gateways, sim):
    """Three clients at each worker, one request after the other: never two at once, and every worker gets its part."""
    first = gateways[0]
    simulated = sim.add(ttft=0.02)
    model, key = first.add(simulated), LimitedKey(first, concurrency=1)
    until_time = time.monotonic() + 4.0
    served: Counter[int] = Counter()

    def client(worker: int) -> None:
        while time.monotonic() < until_time:
            assert key.chat(model, gateways[worker]).status == 200
            served[worker] += 1

    at_once(*[lambda worker=worker: client(worker) for worker in range(4) for _ in range(3)])
    assert simulated.seen.peak == 1
    records = sorted(first.records(), key=lambda record: record.completed_us)
    begins = [record.completed_us - record.attempts[0].duration_us for record in records]
    assert min(served[worker] for worker in range(4)) >= len(records) // 8, served  # half of an equal share
    turns = turns_while_waiting(records, begins)
    assert max(turns) <= MOST_TURNS, (served, sorted(turns)[-20:])
    assert key.counted() == (0, 0, 0)


def test_requests_a_minute_over_four_workers(gateways, sim):
    first = gateways[0]
    owner = "owner-of-many"
    model, keys = first.add(sim.add()), [LimitedKey(first, owner_id=owner, requests=30) for _ in range(2)]
    first.limit(USER_LEVEL, owner, requests=50)
    with ThreadPoolExecutor(16) as pool:
        calls = [(keys[number % 2], gateways[number % 4]) for number in range(160)]
        statuses = Counter(pool.map(lambda call: call[0].chat(model, call[1]).status, calls))
    assert statuses == {200: 50, 429: 110}
    assert counted(first, USER_LEVEL, owner)[1] == 50
    assert sum(key.counted()[1] for key in keys) == 50
    assert max(key.counted()[1] for key in keys) <= 30
    rejected = Counter(record.limit for record in first.records() if record.outcome == "rejected")
    assert sum(rejected.values()) == 110


def test_a_killed_gateway_frees_its_places(gateways, sim):
    first, victim = gateways[0], gateways[3]
    simulated = sim.add(fault="hang")
    model, key = first.add(simulated), LimitedKey(first, concurrency=2)
    with contextlib.ExitStack() as stack:
        for place in (1, 2):
            connection = stack.enter_context(victim.connect())
            connection.sendall(key.chat_bytes(model))
            until(lambda place=place: simulated.seen.running == place)
        simulated.set(fault="")
        waiting = stack.enter_context(ThreadPoolExecutor(1))
        result = waiting.submit(lambda: key.chat(model))
        until(lambda: first.page.waiting == 1)
        assert key.counted()[0] == 2
        victim.kill()
        first.page.clear_dead_rows()
        assert result.result(10).status == 200
    assert key.counted()[0] == 0


def test_the_one_that_waits_longest_goes_first_over_workers(gateways):
    """One worker is always busy with its own requests: the older one of another worker goes before them."""
    first, second = gateways[:2]
    order: list[bytes] = []
    free = threading.Semaphore(0)

    def script(talk: Talk) -> None:
        while request := talk.request():
            order.append(b"old" if b'"old"' in request else b"new")
            free.acquire(timeout=60)
            talk.send(http_response(b'{"model":"m","choices":[]}'))

    with upstream(script) as server, ThreadPoolExecutor(20) as pool:
        model, key = first.add(server), LimitedKey(first, concurrency=1)
        results = [pool.submit(key.chat, model, first)]
        until(lambda: len(order) == 1)
        results.append(pool.submit(lambda: key.chat(model, second, user="old")))
        until(lambda: first.page.waiting == 1)
        time.sleep(0.4)  # the head start that others have to respect
        for place in range(2, 10):
            results.append(pool.submit(key.chat, model, first))
            until(lambda place=place: first.page.waiting == place)
        for number in range(2, 11):
            free.release()
            until(lambda number=number: len(order) == number)
        free.release()
        assert {result.result(30).status for result in results} == {200}
    assert order.index(b"old") <= 2, order
