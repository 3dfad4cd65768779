"""Requests whose API key is revoked while they wait, run or still send their body."""

import contextlib
import itertools
import json
import time
from typing import Any

import msgspec
import pytest

from gateway.base.errors import Refusal
from gateway.http.clients import Peer
from gateway.http.exchange import Exchange, HttpRoute, RequestHead, RequestLine
from gateway.http.revocation import EXPIRED, MAX_ENDED, REVOKED, Revocation, ending
from gateway.registry.schema import ApiKey
from tests.gateway.ipc.test_cancellations import open_request
from tests.gateway.process import read_to_end, read_until
from tests.router import until

_numbers = itertools.count()


@pytest.fixture
def secret(gateway):
    """A key for this test only."""
    made = gateway.add_key(f"sk_{next(_numbers):08}{'Revoked0' * 3}")
    yield made
    gateway.keys.pop(made[3:11], None)
    gateway.publish()


@contextlib.contextmanager
def open_request_as(gateway, secret, model, path="/v1/chat/completions", **fields):
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
def test_a_stream_ends_when_its_key_is_revoked(gateway, sim, secret, end, error):
    simulated = sim.add(tokens=100_000, tokens_per_second=50)
    model = gateway.add(simulated)
    with (
        open_request_as(gateway, secret, model, stream=True) as connection,
        open_request(gateway, model, stream=True) as other,
    ):
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
        read_until(other, b"\n\n\r\n")  # requests of other keys continue
        assert gateway.in_flight(model) == 1
    until(lambda: gateway.in_flight(model) == 0)
    gateway.records()


def test_before_the_first_byte_the_client_gets_401(gateway, sim, secret):
    model = gateway.add(sim.add(ttft=60))
    with open_request_as(gateway, secret, model) as connection:
        until(lambda: gateway.in_flight(model) == 1)
        revoke(gateway, secret)
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401 ")
    assert json.loads(body)["error"]["message"] == "The API key of this request was revoked."
    record = gateway.record()
    assert (record.outcome, record.status) == ("cancelled", 401)


def test_a_queued_request_ends_when_its_key_is_revoked(gateway, sim, secret):
    model = gateway.add(sim.add(ttft=60), max_concurrency=1)
    with open_request(gateway, model) as first:
        until(lambda: gateway.in_flight(model) == 1)
        with open_request_as(gateway, secret, model) as second:
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
def test_a_key_that_is_revoked_while_the_body_is_received_is_refused(gateway, sim, secret, version):
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
        # The revocation may also have ended a request that was sent, and that the endpoint begins only now.
        until(lambda: gateway.in_flight(model) == 0)
        sent = sum(len(record.attempts) for record in gateway.records() if record.model == model)
        until(lambda: simulated.seen.started == sent)
        connection.sendall(body[5:])
        assert b" 401 " in read_to_end(connection).split(b"\r\n")[0]
    assert simulated.seen.started == sent


def test_a_form_whose_key_is_revoked_reaches_no_endpoint(gateway, sim, secret):
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
    with open_request_as(gateway, secret, model, stream=True) as connection:
        read_until(connection, b"\n\n\r\n")
        revoke(gateway, secret)
        assert b"[DONE]" in read_to_end(connection)


# The rule


class Request:
    def __init__(self, key_id, permission="openai.inference"):
        self.exchange = Exchange(None, RequestLine(b"POST", b"/v1/chat/completions", "1.1"), RequestHead([]), 0)  # type: ignore[arg-type]
        self.exchange.head.peer = Peer("192.0.2.1", "http")
        self.exchange.api_key = None if key_id is None else key(key_id)
        self.exchange.route = HttpRoute(b"POST", permission, None)  # type: ignore[arg-type]


def key(key_id, permissions=("openai.inference",), expires_at=None):
    return ApiKey(key_id, key_id.encode(), permissions, expires_at)


class Keys:
    """The API keys of a process, as Revocation sees them."""

    def __init__(self, *keys):
        self.keys_version = 0
        self.next_expiry = min((api_key.expires_at for api_key in keys if api_key.expires_at), default=float("inf"))
        self.is_readable = True
        self.known = {api_key.digest: api_key for api_key in keys}
        self.changed: dict[str, ApiKey | None] | None = {}

    def change(self, **changed):
        self.keys_version += 1
        self.changed = {**(self.changed or {}), **changed}
        for key_id, now in changed.items():
            self.known[key_id.encode()] = now

    def key_of(self, digest):
        if not self.is_readable:
            raise Refusal(503, "not_ready", "later")
        return self.known.get(digest)

    def take_changed_keys(self):
        changed, self.changed = self.changed, {}
        return changed

    def forget_expiry(self):
        self.keys_version += 1
        self.next_expiry = float("inf")


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        (key("a"), None),
        (None, REVOKED),
        (key("b"), REVOKED),
        (key("a", ()), REVOKED),
        (key("a", expires_at=100.0), EXPIRED),
        (key("a", expires_at=100.5), None),
    ],
)
def test_when_a_request_must_end(current, expected):
    assert ending(Request("a").exchange, key("a"), current, 100.0) is expected


def test_a_chat_of_the_playground_ends_only_with_its_users_key():
    """The route of the request needs no key permission."""
    chat = Request("a", permission="").exchange
    assert ending(chat, key("a"), key("a", ()), 0.0) is None
    assert ending(chat, key("a"), None, 0.0) is REVOKED


class UnreadableList(list[Any]):
    def __iter__(self):
        raise AssertionError("the requests were read")


def test_requests_are_not_checked_while_nothing_changes():
    looked, keys = Revocation[Request](), Keys(key("a"))
    looked.due(keys, [], 0.0)
    assert looked.due(keys, UnreadableList([Request("a")]), 1e12) == []


def test_a_request_without_a_key_continues():
    looked, keys = Revocation[Request](), Keys()
    keys.changed = None
    assert looked.due(keys, [Request(None)], 0.0) == []


def test_only_requests_of_changed_keys_are_looked_up():
    looked, keys = Revocation[Request](), Keys(key("a"), key("b"))
    requests = [Request("a"), Request("b")]
    looked.due(keys, requests, 0.0)
    keys.known.clear()  # no lookup would find them
    keys.change(a=None)
    assert looked.due(keys, requests, 0.0) == [(requests[0], REVOKED)]


def test_if_any_key_may_have_changed_all_are_looked_up():
    looked, keys = Revocation[Request](), Keys(key("a"))
    requests = [Request("a"), Request("b")]
    keys.changed = None
    assert looked.due(keys, requests, 0.0) == [(requests[1], REVOKED)]


def test_requests_continue_while_keys_cannot_be_looked_up():
    looked, keys = Revocation[Request](), Keys()

    keys.changed, keys.is_readable = None, False
    assert looked.due(keys, [Request("a")], 0.0) == []


def test_many_requests_are_ended_over_several_iterations():
    looked, requests = Revocation[Request](), [Request("a") for _ in range(2 * MAX_ENDED + 1)]
    keys = Keys(key("a"))
    looked.due(keys, requests, 0.0)
    keys.change(a=None)
    ended = [looked.due(keys, requests, 0.0) for _ in range(4)]
    assert [len(some) for some in ended] == [MAX_ENDED, MAX_ENDED, 1, 0]
    assert [request for some in ended for request, _ in some] == requests


def test_a_key_is_checked_again_when_it_expires():
    looked, requests = Revocation[Request](), [Request("a")]
    keys = Keys(key("a", expires_at=50.0))
    assert looked.due(keys, requests, 49.0) == []
    assert looked.due(keys, requests, 50.0) == [(requests[0], EXPIRED)]
    assert looked.due(keys, requests, 51.0) == []
