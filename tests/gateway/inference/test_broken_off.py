"""Responses that break off count what the endpoint had read and sent: the expected prompt, and the deltas."""

import json
import socket
from types import SimpleNamespace

import msgspec
import pytest

from gateway.registry.limits import DAY, TOKENS, Budget
from tests.gateway.inference.test_budgets import Published, used
from tests.gateway.scripted import DONE, LAST, always, chunk, each_time, stream, upstream
from tests.router import until

WORDS = 20_000
LONG = [{"role": "user", "content": "word " * WORDS}]
LEAST = WORDS  # a prompt of so many words has more tokens


@pytest.fixture
def gateway(make_gateway):
    return make_gateway().start()


@pytest.fixture
def published(gateway):
    published = Published(gateway)
    published.publish(0)
    gateway.limit(budgets=(Budget("b", TOKENS, DAY, 10**9),))
    return published


def left(gateway, model, until_bytes, **fields):
    """Return the record of a request whose client leaves after these bytes."""
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model, messages=LONG, **fields))
        if until_bytes:
            received = b""
            while until_bytes not in received:
                received += connection.recv(1 << 16)
        else:
            until(lambda: gateway.in_flight(model) == 1)
    return gateway.record_soon()


def test_a_client_that_leaves_a_stream_has_used_its_prompt(gateway, sim, published):
    model = gateway.add(sim.add(tokens=1000, tokens_per_second=50))
    record = left(gateway, model, b"data: {", stream=True)
    assert (record.outcome, record.estimated) == ("cancelled", True)
    assert record.input_tokens > LEAST
    assert published.spent() == used(record) >= record.input_tokens


@pytest.mark.parametrize("fields", [{"stream": True}, {}], ids=["stream", "whole"])
def test_before_the_response_began_too(gateway, sim, published, fields):
    simulated = sim.add(fault="hang")
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(gateway.add(simulated), messages=LONG, **fields))
        until(lambda: simulated.seen.running == 1)
    record = gateway.record_soon()
    assert (record.outcome, record.output_tokens, record.estimated) == ("cancelled", None, True)
    assert published.spent() == record.input_tokens > LEAST


def test_an_endpoint_that_cuts_a_stream(gateway, published):
    with upstream(each_time(stream(chunk("a"), chunk("b"), end=False))) as server:
        gateway.chat(gateway.add(server), messages=LONG, stream=True)
    record = gateway.record()
    assert (record.outcome, record.output_tokens, record.estimated) == ("truncated", 2, True)
    assert published.spent() == used(record) > LEAST


def test_a_stream_without_usage(gateway, published):
    with upstream(always(stream(chunk("a"), chunk("b"), LAST, DONE))) as server:
        gateway.chat(gateway.add(server), messages=LONG, stream=True)
    record = gateway.record()
    assert (record.outcome, record.output_tokens, record.estimated) == ("ok", 2, True)
    assert published.spent() == used(record) > LEAST


def test_the_usage_of_the_beginning_is_none_of_the_whole(gateway, published):
    """The first event reports the prompt, and one token of output."""
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    shown = {"model": "m", "choices": [{"index": 0, "delta": {"content": "a"}}], "usage": usage}
    first = b"data: %b\n\n" % json.dumps(shown).encode()
    with upstream(each_time(stream(first, *[chunk("b")] * 8, end=False))) as server:
        gateway.chat(gateway.add(server), messages=LONG, stream=True)
    record = gateway.record()
    assert (record.input_tokens, record.output_tokens, record.estimated) == (9, 9, True)


def test_no_more_prompt_than_fits_the_model(gateway, sim, published):
    simulated = sim.add(tokens=1000, tokens_per_second=50)
    model = gateway.add(simulated)
    (endpoint,) = gateway.endpoints_of(model)
    short = msgspec.structs.replace(endpoint.models[0], max_tokens=4096)
    gateway.endpoints[endpoint.id] = msgspec.structs.replace(endpoint, models=(short,))
    gateway.publish()
    assert left(gateway, model, b"data: {", stream=True).input_tokens == 4096


def test_a_client_that_leaves_while_the_gateway_connects(gateway, published):
    """The server takes connections, but answers no handshake."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = SimpleNamespace(url=f"https://127.0.0.1:{server.getsockname()[1]}")
        model = gateway.add(silent)
        record = left(gateway, model, b"", stream=True)
    assert (record.outcome, record.input_tokens, record.estimated) == ("cancelled", None, False)
    assert published.spent() == 0


def test_an_endpoint_that_fails_has_used_nothing(gateway, sim, published):
    gateway.chat(gateway.add(sim.add(fault="500")), messages=LONG, stream=True)
    record = gateway.record()
    assert (record.outcome, record.input_tokens, record.estimated) == ("failed", None, False)
    assert published.spent() == 0
