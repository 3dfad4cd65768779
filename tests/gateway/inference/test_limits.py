"""Limits of API keys, users and everyone, as clients of a gateway see them."""

import contextlib
import hashlib
import json
import re
import time
from datetime import UTC, datetime

import msgspec
import pytest

from gateway.ipc.counters.counter_file import MAX_SUBJECTS
from gateway.registry.limits import EVERYONE_LEVEL, USER_LEVEL
from tests.gateway.http.test_control_proxy import control_script  # noqa: F401  # a fixture
from tests.gateway.inference.helpers import CHAT, busy, error_of
from tests.gateway.limits.helpers import LimitedKey, at_once, counted, limit_headers
from tests.gateway.process import read_until
from tests.gateway.scripted import always, http_response, upstream
from tests.router import until

MESSAGES = "/v1/messages"
OF_ANTHROPIC = {"anthropic-version": "2023-06-01"}


def test_requests_a_minute(gateway, sim):
    model, key = gateway.add(sim.add()), LimitedKey(gateway, requests=2)
    first, second, third = [key.chat(model) for _ in range(3)]
    assert (first.status, second.status) == (200, 200)
    assert limit_headers(first) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "1m3s",
    }
    assert limit_headers(second)["x-ratelimit-remaining-requests"] == "0"
    assert error_of(third) == (429, "rate_limit_exceeded")
    error = third.json()["error"]
    assert error["type"] == "requests"
    assert re.fullmatch(
        r"Rate limit reached for this API key on requests per min \(RPM\): Limit 2, Used 2, Requested 1\. "
        r"Please try again in (1m\ds|5\d(\.\d+)?s)\.",
        error["message"],
    )
    assert 50 <= int(third.headers["retry-after"]) <= 63
    assert third.headers["x-routerdash-limit"] == "key; requests"
    assert "x-should-retry" not in third.headers
    assert limit_headers(third)["x-ratelimit-remaining-requests"] == "0"
    *_, rejected = gateway.records()
    assert (rejected.outcome, rejected.error, rejected.limit) == ("rejected", "rate_limit_exceeded", "key:requests")
    assert rejected.api_key_id == key.id
    assert key.counted() == (0, 2, 16 + 10)  # the refused one has consumed nothing


def test_tokens_a_minute_are_reserved_and_then_those_of_the_response(gateway, sim):
    simulated = sim.add(tokens=8, prompt_tokens=5)
    model, key = gateway.add(simulated), LimitedKey(gateway, tokens=40)
    given = [key.chat(model, max_tokens=8) for _ in range(4)]
    statuses = [response.status for response in given]
    assert statuses[0] == 200
    assert statuses[-1] == 429
    served = statuses.count(200)
    assert key.counted() == (0, served, served * 13)
    record = gateway.records()[0]
    assert record.reserved_tokens > 8
    last = given[-1]
    assert last.json()["error"]["type"] == "tokens"
    assert f"Limit 40, Used {served * 13}, Requested {record.reserved_tokens}." in last.json()["error"]["message"]
    assert limit_headers(given[0])["x-ratelimit-remaining-tokens"] == str(40 - record.reserved_tokens)


def test_a_request_that_can_never_fit_is_not_to_be_repeated(gateway, sim):
    model, key = gateway.add(sim.add()), LimitedKey(gateway, tokens=10, waiting=("tokens",))
    given = key.chat(model, messages=[{"role": "user", "content": "x" * 4000}])
    assert error_of(given) == (429, "rate_limit_exceeded")
    assert given.headers["x-should-retry"] == "false"
    assert "retry-after" not in given.headers
    assert given.json()["error"]["message"].startswith(
        "Request too large for this API key on tokens per min (TPM): Limit 10, Requested "
    )


def test_concurrency_waits(gateway, sim):
    simulated = sim.add(ttft=0.1)
    model, key = gateway.add(simulated), LimitedKey(gateway, concurrency=2)
    given = at_once(*[lambda: key.chat(model)] * 8)
    assert {response.status for response in given} == {200}
    assert simulated.seen.peak == 2
    records = gateway.records()
    assert sorted(record.limit or "" for record in records) == [""] * 2 + ["key:concurrency"] * 6
    assert sum(record.queue_us is not None for record in records) == 6
    assert key.counted() == (0, 0, 0)


def test_concurrency_refuses_if_it_is_not_to_wait(gateway, sim):
    simulated = sim.add(fault="hang")
    model, key = gateway.add(simulated), LimitedKey(gateway, concurrency=1, waiting=())
    with gateway.connect() as connection:
        connection.sendall(key.chat_bytes(model))
        until(lambda: simulated.seen.running == 1)
        given = key.chat(model)
    assert error_of(given) == (429, "rate_limit_exceeded")
    assert (given.json()["error"]["type"], given.headers["retry-after"]) == ("concurrency", "1")
    assert "Limit 1, Used 1, Requested 1." in given.json()["error"]["message"]
    assert given.headers["x-routerdash-limit"] == "key; concurrency"


def test_a_rate_may_let_requests_wait_until_the_window_has_room(gateway, sim):
    model, key = gateway.add(sim.add()), LimitedKey(gateway, requests=1, waiting=("requests",))
    assert key.chat(model).status == 200
    with gateway.connect() as connection:
        connection.sendall(key.chat_bytes(model))
        until(lambda: gateway.page.waiting == 1)
        key.limit(requests=2, waiting=("requests",))  # takes effect for a request that waits
        assert read_until(connection, b"}").startswith(b"HTTP/1.1 200")
    assert gateway.records()[-1].limit == "key:requests"


def test_a_wait_for_a_limit_ends_with_the_queue_timeout(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_QUEUE_TIMEOUT_SECS="1", ROUTERDASH_KEEPALIVE_SECS="0.2").start()
    simulated = sim.add(fault="hang")
    model, key = gateway.add(simulated), LimitedKey(gateway, concurrency=1)
    with gateway.connect() as connection:
        connection.sendall(key.chat_bytes(model))
        until(lambda: simulated.seen.running == 1)
        given, streamed = at_once(lambda: key.chat(model), lambda: key.chat(model, stream=True))
    assert error_of(given) == (429, "rate_limit_exceeded")
    assert given.json()["error"]["type"] == "concurrency"
    assert streamed.status == 200
    assert b": waiting" in streamed.body
    assert json.loads(streamed.body.rpartition(b"data: ")[2])["error"]["type"] == "concurrency"
    assert [record.limit for record in gateway.records() if record.outcome == "rejected"] == ["key:concurrency"] * 2
    assert gateway.page.waiting == 0


def test_a_held_key_delays_no_other(gateway, sim):
    """A key at its limit waits in the same line as another key, whose requests go on at once."""
    simulated = sim.add(fault="hang")
    model, key = gateway.add(simulated), LimitedKey(gateway, concurrency=1)
    other = LimitedKey(gateway)
    with contextlib.ExitStack() as stack:
        for place in range(4):
            connection = stack.enter_context(gateway.connect())
            connection.sendall(key.chat_bytes(model))
            until(lambda place=place: (simulated.seen.running, gateway.page.waiting) == (1, place))
        simulated.set(fault="")
        given = [other.chat(model) for _ in range(5)]
        assert gateway.page.waiting == 3
    assert [response.status for response in given] == [200] * 5
    assert all(int(response.headers["x-routerdash-queue-ms"]) == 0 for response in given)


def test_a_held_key_leaves_endpoints_to_others_that_wait(gateway, sim):
    simulated = sim.add(ttft=0.3)
    model, key = gateway.add(simulated, max_concurrency=2), LimitedKey(gateway, concurrency=1)
    other = LimitedKey(gateway)
    given = at_once(*[lambda: key.chat(model)] * 4, *[lambda: other.chat(model)] * 4)
    assert {response.status for response in given} == {200}
    records = gateway.records()
    spans = {
        name: sorted(
            (record.completed_us - record.attempts[0].duration_us, record.completed_us)
            for record in records
            if record.api_key_id == name
        )
        for name in (key.id, other.id)
    }
    assert all(begin > end - 20_000 for (_, end), (begin, _) in zip(spans[key.id], spans[key.id][1:], strict=False))
    beside = [
        any(begin < other_end and other_begin < end for other_begin, other_end in spans[other.id])
        for begin, end in spans[key.id]
    ]
    assert beside.count(True) >= 3  # the other key used the second slot meanwhile


def test_levels_are_taken_together(gateway, sim):
    owner = "owner-of-two"
    model = gateway.add(sim.add())
    one, two = LimitedKey(gateway, owner_id=owner, requests=10), LimitedKey(gateway, owner_id=owner)
    gateway.limit(USER_LEVEL, owner, requests=2)
    assert limit_headers(one.chat(model))["x-ratelimit-remaining-requests"] == "1"  # the user's, which are fewer
    assert two.chat(model).status == 200
    given = one.chat(model)
    assert (given.status, given.headers["x-routerdash-limit"]) == (429, "user; requests")
    assert "for the user of this API key on" in given.json()["error"]["message"]
    assert one.counted()[1] == 1  # what the user's limit refuses is not counted for the key
    assert counted(gateway, USER_LEVEL, owner)[1] == 2
    assert {record.user_id for record in gateway.records() if record.outcome == "ok"} == {owner}
    gateway.limit(USER_LEVEL, owner)


def test_limits_of_everyone(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_REQUIRE_API_KEY="false").start()
    model, key = gateway.add(sim.add()), LimitedKey(gateway)
    gateway.limit(EVERYONE_LEVEL, "", requests=2)
    assert key.chat(model).status == 200
    assert gateway.post(CHAT, {"model": model, "messages": []}, key=None).status == 200
    given = gateway.post(CHAT, {"model": model, "messages": []}, key=None)
    assert (given.status, given.headers["x-routerdash-limit"]) == (429, "everyone; requests")
    assert gateway.get("/v1/models").status == 200  # lists are not limited


def test_both_values_of_a_rotated_key_are_one_key(gateway, sim):
    model, key = gateway.add(sim.add()), LimitedKey(gateway, requests=2)
    published = gateway.keys[key.id]
    new = "sk_" + "Rotated0" * 4
    digest = hashlib.sha256(new.encode()).hexdigest()
    gateway.keys[key.id] = msgspec.structs.replace(
        published, hash=digest, replaced=published.hash, replaced_until=time.time() + 60
    )
    gateway.publish()
    gateway.wait_until_followed()
    assert key.chat(model).status == 200
    key.secret = new
    assert key.chat(model).status == 200
    assert key.chat(model).status == 429


def test_edits_take_effect_at_once(gateway, sim):
    simulated = sim.add(fault="hang")
    model, key = gateway.add(simulated), LimitedKey(gateway, concurrency=3, waiting=())
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(gateway.connect()) for _ in range(3)]
        for connection in connections:
            connection.sendall(key.chat_bytes(model))
        until(lambda: simulated.seen.running == 3)
        key.limit(concurrency=1, waiting=())  # below the present use
        assert key.chat(model).status == 429
        for left in (2, 1):
            connections.pop().close()
            until(lambda left=left: key.counted()[0] == left)
            assert key.chat(model).status == 429
        connections.pop().close()
        until(lambda: key.counted()[0] == 0)
        simulated.set(fault="")
        assert key.chat(model).status == 200
    key.limit()
    assert limit_headers(key.chat(model)) == {}


def test_the_endpoints_own_limits_do_not_pass(gateway):
    own = ("x-ratelimit-limit-requests: 7", "anthropic-ratelimit-requests-limit: 7", "x-own: 1")
    body = b'{"model":"m","choices":[]}'
    with upstream(always(http_response(body, 200, "application/json", *own))) as server:
        model, key = gateway.add(server), LimitedKey(gateway, requests=10)
        for _ in range(3):  # the header block is repeated
            assert limit_headers(gateway.chat(model)) == {
                "x-ratelimit-limit-requests": "7",
                "anthropic-ratelimit-requests-limit": "7",
            }
            given = key.chat(model)
            assert given.headers["x-ratelimit-limit-requests"] == "10"
            assert "anthropic-ratelimit-requests-limit" not in given.headers
    with upstream(always(http_response(b'{"error":{"message":"no"}}', 400, "application/json", *own))) as server:
        given = key.chat(gateway.add(server))
    assert (given.status, given.headers["x-ratelimit-limit-requests"]) == (400, "10")


def test_messages_have_anthropics_headers_and_errors(gateway, sim):
    model, key = gateway.add(sim.add()), LimitedKey(gateway, requests=1, tokens=100_000)
    body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}]}
    first, second = [key.post(MESSAGES, body, headers=OF_ANTHROPIC) for _ in range(2)]
    assert first.status == 200, first
    names = [
        f"anthropic-ratelimit-{limit}-{what}"
        for limit in ("requests", "tokens")
        for what in ("limit", "remaining", "reset")
    ]
    assert sorted(limit_headers(first)) == sorted(names)
    reset = datetime.strptime(first.headers["anthropic-ratelimit-requests-reset"], "%Y-%m-%dT%H:%M:%SZ").replace(
        tzinfo=UTC
    )
    assert 55 < reset.timestamp() - time.time() < 66
    assert (second.status, second.json()["error"]["type"]) == (429, "rate_limit_error")
    assert "Limit 1, Used 1, Requested 1" in second.json()["error"]["message"]
    assert second.headers["anthropic-ratelimit-requests-remaining"] == "0"


def test_ollamas_api(gateway, sim):
    model, key = gateway.add(sim.add()), LimitedKey(gateway, requests=1)
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": False}
    first, second = [key.post("/ollama/api/chat", body) for _ in range(2)]
    assert first.status == 200, first
    assert second.status == 429
    assert second.json()["error"].startswith("Rate limit reached for this API key")
    assert limit_headers(first)["x-ratelimit-remaining-requests"] == "0"


def test_counts_of_tokens_are_requests_without_tokens(gateway, sim):
    simulated = sim.add(fault="hang")
    model, key = gateway.add(simulated), LimitedKey(gateway, concurrency=1, requests=3, tokens=1000)
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    with gateway.connect() as connection:
        connection.sendall(key.chat_bytes(model))
        until(lambda: simulated.seen.running == 1)
        in_flight, requests, reserved = key.counted()
        assert (in_flight, requests) == (1, 1)
        simulated.set(fault="")
        given = [key.post("/v1/messages/count_tokens", body, headers=OF_ANTHROPIC) for _ in range(3)]
        assert [response.status for response in given] == [200, 200, 429]
        assert given[0].headers["anthropic-ratelimit-requests-remaining"] == "1"
        assert key.counted() == (1, 3, reserved)


def test_the_playground_counts_for_its_user(gateway, sim, control_script):  # noqa: F811
    owner = "owner-who-plays"
    model = gateway.add(sim.add())
    gateway.limit(USER_LEVEL, owner, requests=1)
    grant = json.dumps({"api_key_id": "playground-key", "owner_id": owner}).encode()
    headers = {"Cookie": "routerdash_session=s", "X-CSRFToken": "t"}
    with control_script(always(http_response(grant))):
        given = [
            gateway.post("/api/playground/chat", {"model": model, "messages": []}, key=None, headers=headers)
            for _ in range(2)
        ]
    assert [response.status for response in given] == [200, 429]
    assert given[1].headers["x-routerdash-limit"] == "user; requests"
    gateway.limit(USER_LEVEL, owner)


def test_a_request_that_cannot_be_counted_is_refused(make_gateway, sim):
    """The table of the gateway's row has no room for another subject."""
    gateway = make_gateway().start()
    model, key = gateway.add(sim.add(tokens=1)), LimitedKey(gateway, requests=100, tokens=1 << 40)
    LimitedKey(gateway, requests=1).chat(model)  # the process has its table from here on
    file = gateway.page.counters
    used = {row: file.used(row) for row in file.counting(file.cell_number())}
    for row in used:
        file.set_used(row, MAX_SUBJECTS)
    given = key.chat(model)
    for row, number in used.items():
        file.set_used(row, number)
    assert error_of(given) == (503, "limits_unavailable")
    assert given.headers["retry-after"] == "2"
    assert gateway.in_flight(model) == 0
    assert key.chat(model).status == 200


@pytest.mark.parametrize("balancer", ["adaptive", "least_inflight"])
def test_a_full_endpoint_is_refused_before_a_wait_if_the_rate_is_reached(make_gateway, sim, balancer):
    gateway = make_gateway(ROUTERDASH_BALANCER=balancer).start()
    free, simulated = gateway.add(sim.add()), sim.add(fault="hang")
    key = LimitedKey(gateway, requests=1)
    assert key.chat(free).status == 200
    with busy(gateway, simulated) as model:
        assert key.chat(model).status == 429
        assert gateway.page.waiting == 0
