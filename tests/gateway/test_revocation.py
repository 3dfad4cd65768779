"""Requests whose API key goes while they wait, run, or still send their body."""

import contextlib
import itertools
import json
import time
from typing import Any

import msgspec
import pytest

from gateway import snapshot
from gateway.exchange import Exchange, Head
from gateway.handler import Route
from gateway.peer import Peer
from gateway.revocation import AT_ONCE, EXPIRED, REVOKED, Revocation, ending
from tests.gateway.process import read_to_end, read_until
from tests.gateway.test_cancels import asking
from tests.router import until

_numbers = itertools.count()


@pytest.fixture
def secret(gateway):
    """A key of the test's own."""
    made = gateway.add_key(f"sk_{next(_numbers):08}{'Revoked0' * 3}")
    yield made
    gateway.keys.pop(made[3:11], None)
    gateway.publish()


@contextlib.contextmanager
def asking_as(gateway, secret, model, path="/v1/chat/completions", **fields):
    body = json.dumps({"model": model, "messages": [], "input": "", "max_tokens": 100_000, **fields}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with gateway.connect() as connection:
        connection.sendall(head.encode() + body)
        yield connection


def revoke(gateway, secret):
    del gateway.keys[secret[3:11]]
    gateway.publish()


def lose_permission(gateway, secret):
    key = gateway.keys[secret[3:11]]
    gateway.keys[key.id] = msgspec.structs.replace(key, permissions=("openai.models.read",))
    gateway.publish()


def expire_in_a_moment(gateway, secret):
    key = gateway.keys[secret[3:11]]
    gateway.keys[key.id] = msgspec.structs.replace(key, expires_at=time.time() + 0.3)
    gateway.publish()


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (revoke, "its API key was revoked"),
        (lose_permission, "its API key was revoked"),
        (expire_in_a_moment, "its API key has expired"),
    ],
)
def test_a_stream_ends_when_its_key_goes(gateway, sim, secret, end, error):
    simulated = sim.add(tokens=100_000, tokens_per_second=50)
    model = gateway.add(simulated)
    with asking_as(gateway, secret, model, stream=True) as connection, asking(gateway, model, stream=True) as other:
        read_until(connection, b"\n\n\r\n")
        read_until(other, b"\n\n\r\n")
        end(gateway, secret)
        received = read_to_end(connection)
        last = received.removesuffix(b"\r\n0\r\n\r\n").split(b"\r\n")[-1]
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "invalid_api_key"
        record = gateway.record()
        assert (record.outcome, record.status, record.error) == ("cancelled", 200, error)
        assert record.api_key_id == secret[3:11]
        assert record.output_tokens > 0
        until(lambda: simulated.seen.cancelled == 1)
        read_until(other, b"\n\n\r\n")  # another key's goes on
        assert gateway.in_flight(model) == 1
    until(lambda: gateway.in_flight(model) == 0)
    gateway.records()


def test_before_the_first_byte_the_client_gets_401(gateway, sim, secret):
    model = gateway.add(sim.add(ttft=60))
    with asking_as(gateway, secret, model) as connection:
        until(lambda: gateway.in_flight(model) == 1)
        revoke(gateway, secret)
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401 ")
    assert json.loads(body)["error"]["message"] == "The API key of this request was revoked."
    record = gateway.record()
    assert (record.outcome, record.status) == ("cancelled", 401)


def test_a_waiting_request_leaves_the_queue_when_its_key_goes(gateway, sim, secret):
    model = gateway.add(sim.add(ttft=60), max_concurrency=1)
    with asking(gateway, model) as first:
        until(lambda: gateway.in_flight(model) == 1)
        with asking_as(gateway, secret, model) as second:
            until(lambda: gateway.page.waiting == 1)
            revoke(gateway, secret)
            assert read_to_end(second).startswith(b"HTTP/1.1 401 ")
        until(lambda: gateway.page.waiting == 0)
        record = gateway.record()
        assert (record.outcome, record.attempts, record.error) == ("cancelled", (), "its API key was revoked")
        first.close()
        until(lambda: gateway.in_flight(model) == 0)
    gateway.records()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_key_that_goes_while_the_body_comes_is_refused(gateway, sim, secret, version):
    simulated = sim.add()
    model = gateway.add(simulated)
    body = json.dumps({"model": model, "messages": []}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/{version}\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\n"
        f"Connection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with gateway.connect() as connection:
        connection.sendall(head.encode() + body[:5])
        until(lambda: gateway.chat_with(model, {"Authorization": f"Bearer {secret}"}).status == 200)
        revoke(gateway, secret)
        until(lambda: gateway.chat_with(model, {"Authorization": f"Bearer {secret}"}).status == 401)
        started = simulated.seen.started
        connection.sendall(body[5:])
        assert b" 401 " in read_to_end(connection).split(b"\r\n")[0]
    assert simulated.seen.started == started


def test_a_form_whose_key_goes_while_it_comes_reaches_no_endpoint(gateway, sim, secret):
    simulated = sim.add()
    model = gateway.add(simulated)
    form = (
        f'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n--b\r\n'
        'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\nsound\r\n--b--\r\n'
    ).encode()
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\n"
        f"Connection: close\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(form)}\r\n\r\n"
    )
    with gateway.connect() as connection:
        connection.sendall(head.encode() + form[:5])
        until(lambda: gateway.chat_with(model, {"Authorization": f"Bearer {secret}"}).status == 200)
        revoke(gateway, secret)
        until(lambda: gateway.chat_with(model, {"Authorization": f"Bearer {secret}"}).status == 401)
        connection.sendall(form[5:])
        assert read_to_end(connection).startswith(b"HTTP/1.1 401 ")
    assert "/v1/audio/transcriptions" not in simulated.seen.paths


def test_without_required_keys_nothing_is_ended(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_REQUIRE_API_KEY="false").start()
    secret = gateway.add_key("sk_" + "Revoked001" * 3)
    model = gateway.add(sim.add(tokens=30, tokens_per_second=30))
    with asking_as(gateway, secret, model, stream=True) as connection:
        read_until(connection, b"\n\n\r\n")
        revoke(gateway, secret)
        assert b"[DONE]" in read_to_end(connection)


# The rule


class Request:
    def __init__(self, key_id, permission="openai.inference"):
        self.exchange = Exchange(None, b"POST", b"/v1/chat/completions", Head([]), 0, "1.1")  # type: ignore[arg-type]
        self.exchange.peer = Peer("192.0.2.1", "http")
        self.exchange.api_key = None if key_id is None else key(key_id)
        self.exchange.route = Route(b"POST", permission, None)  # type: ignore[arg-type]


def key(key_id, permissions=("openai.inference",), expires_at=None):
    return snapshot.ApiKey(key_id, "", permissions, expires_at)


def by_id(*keys):
    return {it.id: it for it in keys}


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ([key("a")], None),
        ([key("a"), key("b")], None),
        ([], REVOKED),
        ([key("b")], REVOKED),
        ([key("a", ())], REVOKED),
        ([key("a", expires_at=100.0)], EXPIRED),
        ([key("a", expires_at=100.5)], None),
    ],
)
def test_when_a_request_must_end(there, found):
    assert ending(Request("a").exchange, by_id(*there), 100.0) is found


def test_a_request_without_a_key_goes_on():
    assert ending(Request(None).exchange, {}, 0.0) is None


def test_a_chat_of_the_playground_ends_with_its_users_key_alone():
    """Its route needs no permission of a key."""
    chat = Request("a", permission="").exchange
    assert ending(chat, by_id(key("a", ())), 0.0) is None
    assert ending(chat, {}, 0.0) is REVOKED


class Untouchable(list[Any]):
    def __iter__(self):
        raise AssertionError("the requests were gone through")


def test_nothing_is_looked_at_while_nothing_changes():
    looked = Revocation[Request]()
    known = snapshot.Snapshot(version=1, database_id="")
    keys = by_id(key("a"))
    looked.look(known, keys, [], 0.0)
    assert looked.look(known, keys, Untouchable([Request("a")]), 1e12) == []


def test_many_are_ended_over_several_turns():
    looked, requests = Revocation[Request](), [Request("a") for _ in range(2 * AT_ONCE + 1)]
    looked.look(snapshot.Snapshot(version=1, database_id=""), by_id(key("a")), requests, 0.0)
    after = snapshot.Snapshot(version=2, database_id="")
    found = [looked.look(after, {}, requests, 0.0) for _ in range(4)]
    assert [len(some) for some in found] == [AT_ONCE, AT_ONCE, 1, 0]
    assert [it for some in found for it, _ in some] == requests


def test_a_key_that_expires_later_is_looked_at_then():
    looked, requests = Revocation[Request](), [Request("a")]
    known, keys = snapshot.Snapshot(version=1, database_id=""), by_id(key("a", expires_at=50.0))
    assert looked.look(known, keys, requests, 49.0) == []
    assert looked.look(known, keys, requests, 50.0) == [(requests[0], EXPIRED)]
    assert looked.look(known, keys, requests, 51.0) == []
