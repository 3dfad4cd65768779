"""Bulk requests use only a part of the limits that they share with interactive ones."""

import contextlib

import msgspec
import pytest

from gateway.ipc.counters.limit_counters import LimitCounters
from gateway.ipc.counters.other_waits import OtherWaits
from gateway.ipc.counters.plan import Allowance, Charge
from gateway.ipc.wake import BY_GATEWAY, WakePipe
from gateway.registry.limits import CONCURRENCY, EVERYONE_LEVEL, TOKENS, USER_LEVEL
from tests.gateway.inference.helpers import CHAT, error_of, held_server
from tests.gateway.limits.helpers import LimitedKey, counted, limit_headers
from tests.router import until

BULK = {"x-routerdash-class": "bulk"}
OWNER = "owner"


def chat(key, model, *, bulk=False, **fields):
    body = {"model": model, "messages": [], **fields}
    return key.post(CHAT, body, headers=BULK if bulk else None)


@pytest.fixture
def served(gateway):
    with held_server(gateway) as (server, model):
        yield server, model


@pytest.fixture
def open_requests():
    with contextlib.ExitStack() as stack:
        yield stack


def come(stack, key, model, user, *, bulk=False):
    """Send a request of a key whose response is not awaited."""
    made = key.chat_bytes(model, user=user, max_tokens=1)
    if bulk:
        made = made.replace(b"\r\n", b"\r\nx-routerdash-class: bulk\r\n", 1)
    connection = stack.enter_context(key.gateway.connect())
    connection.sendall(made)


@pytest.mark.parametrize(("level", "subject"), [("key", None), (USER_LEVEL, OWNER), (EVERYONE_LEVEL, "")])
def test_bulk_requests_use_a_part_of_the_requests_a_minute(request, gateway, sim, level, subject):
    model, key = gateway.add(sim.add()), LimitedKey(gateway, owner_id=OWNER)
    subject = key.id if subject is None else subject
    gateway.limit(level, subject, requests=5)
    request.addfinalizer(lambda: gateway.limit(level, subject))  # others use the same gateway
    given = [chat(key, model, bulk=True) for _ in range(5)]
    assert [response.status for response in given] == [200, 200, 200, 200, 429]
    assert limit_headers(given[0])["x-ratelimit-limit-requests"] == "4"
    assert limit_headers(given[0])["x-ratelimit-remaining-requests"] == "3"
    assert error_of(given[4]) == (429, "rate_limit_exceeded")
    message = given[4].json()["error"]["message"]
    assert "of which bulk requests may use 80 %: Limit 4, Used 4, Requested 1." in message
    assert given[4].headers["x-routerdash-limit"] == f"{level}; requests"
    interactive = chat(key, model)
    assert interactive.status == 200
    assert limit_headers(interactive)["x-ratelimit-limit-requests"] == "5"
    assert counted(gateway, level, subject)[1] == 5
    assert "bulk" not in chat(key, model).json()["error"]["message"]


def test_what_interactive_requests_use_counts_for_bulk_requests(gateway, sim):
    model, key = gateway.add(sim.add()), LimitedKey(gateway, requests=10)
    assert {chat(key, model).status for _ in range(8)} == {200}
    assert chat(key, model, bulk=True).status == 429
    assert [chat(key, model).status for _ in range(3)] == [200, 200, 429]


def test_a_key_with_bulk_requests_only_uses_the_whole_of_its_own_limits(gateway, sim):
    model, key = gateway.add(sim.add()), LimitedKey(gateway, owner_id="owner of bulk", requests=5)
    gateway.keys[key.id] = msgspec.structs.replace(gateway.keys[key.id], bulk=True)
    gateway.publish()
    assert [chat(key, model).status for _ in range(6)] == [200] * 5 + [429]
    key.limit(requests=100)
    gateway.limit(USER_LEVEL, "owner of bulk", requests=10)
    assert [chat(key, model).status for _ in range(9)] == [200] * 8 + [429]


def test_a_limit_of_one_is_for_both_classes(gateway, sim):
    model, key = gateway.add(sim.add()), LimitedKey(gateway, concurrency=1)
    assert [chat(key, model, bulk=True).status for _ in range(2)] == [200, 200]


def test_a_bulk_request_that_is_larger_than_its_part_of_the_tokens(gateway, sim):
    model, key = gateway.add(sim.add(tokens=1)), LimitedKey(gateway, tokens=1000)
    words = "go on " * 600  # some 900 tokens
    given = key.post(CHAT, {"model": model, "prompt": words, "messages": [], "max_tokens": 1}, headers=BULK)
    assert given.status == 429
    assert given.headers["x-should-retry"] == "false"
    assert given.json()["error"]["message"].endswith("An interactive request may use the whole.")
    assert key.post(CHAT, {"model": model, "prompt": words, "messages": [], "max_tokens": 1}).status == 200


def test_requests_that_only_count_tokens_use_a_part_as_well(gateway, sim):
    model, key = gateway.add(sim.add()), LimitedKey(gateway, requests=5)
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    given = [key.post("/v1/messages/count_tokens", body, headers=BULK).status for _ in range(5)]
    assert (given.count(429), given[-1]) == (1, 429)
    assert key.post("/v1/messages/count_tokens", body).status != 429


def test_a_bulk_request_waits_at_its_part_while_interactive_ones_go_ahead(gateway, served, open_requests):
    server, model = served
    key = LimitedKey(gateway, concurrency=5)
    for number in range(4):
        come(open_requests, key, model, f"bulk {number}", bulk=True)
        until(lambda number=number: len(server.users) == number + 1)
    come(open_requests, key, model, "bulk that waits", bulk=True)
    until(lambda: gateway.page.waiting == 1)
    come(open_requests, key, model, "interactive")
    until(lambda: server.users[-1] == "interactive")
    server.respond(2)  # three are left: there is room in the part
    until(lambda: server.users[-1] == "bulk that waits")
    assert gateway.page.waiting == 0


def test_a_small_bulk_request_does_not_go_ahead_of_an_interactive_one_that_waits_for_tokens(
    gateway, served, open_requests
):
    """Otherwise bulk requests could keep the limit so full that a large interactive request never fits."""
    server, model = served
    key = LimitedKey(gateway, tokens=2000, waiting=(CONCURRENCY, TOKENS))
    running = {"messages": [{"role": "user", "content": "go on " * 400}], "max_tokens": 1, "user": "first"}
    large = {**running, "messages": [{"role": "user", "content": "go on " * 1000}], "user": "large"}
    for fields in (running, large):
        body = key.chat_bytes(model, **fields)
        open_requests.enter_context(gateway.connect()).sendall(body)
        until(lambda: server.users == ["first"])
    until(lambda: gateway.page.waiting == 1)
    come(open_requests, key, model, "small bulk", bulk=True)
    until(lambda: gateway.page.waiting == 2)
    assert server.users == ["first"], "it would fit"
    key.limit(tokens=5000, waiting=(CONCURRENCY, TOKENS))
    until(lambda: sorted(server.users) == ["first", "large", "small bulk"])


def test_a_release_that_a_waiting_bulk_request_may_not_use_wakes_an_interactive_one_elsewhere(
    make_gateway, open_requests
):
    """The gateway whose request ends has a bulk request of its own that waits for the same limit.

    The test is another gateway, in which an interactive request waits: it must be called, and the bulk request goes
    once there is room in its part.
    """
    gateway = make_gateway(ROUTERDASH_WORKERS="2").start()
    server, model = open_requests.enter_context(held_server(gateway))
    key = LimitedKey(gateway, owner_id=OWNER)
    gateway.limit(USER_LEVEL, OWNER, concurrency=5)
    for number in range(5):
        come(open_requests, key, model, f"interactive {number}")
        until(lambda number=number: len(server.users) == number + 1)
    come(open_requests, key, model, "bulk", bulk=True)
    until(lambda: gateway.page.waiting == 1)

    page = gateway.page
    row = page.claim_row()
    pipe, counters = WakePipe(row.wake_path), LimitCounters(page, row)
    subject = counters.subject(USER_LEVEL, OWNER)
    plan = counters.plan((subject, Allowance(concurrency=5, kept=(1, 0, 0))))
    since = page.counters.clock()

    def is_called():
        subject.wait_since(since)
        return pipe.drain() == bytes([BY_GATEWAY])

    try:
        assert plan.look() is not None
        assert not is_called()
        server.respond()
        until(is_called)
        taken = plan.take()
        assert isinstance(taken, Charge)
        subject.wait_no_more(since)
        server.respond()
        until(lambda: counted(gateway, USER_LEVEL, OWNER)[0] == 4)
        assert gateway.page.waiting == 1, "its part is used up"
        taken.settle()
        OtherWaits(plan, counters.waker).pass_on()
        until(lambda: server.users[-1] == "bulk")
    finally:
        pipe.close()
        counters.waker.close()
        row.release()
