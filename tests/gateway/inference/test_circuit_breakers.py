"""Circuit breakers of failing endpoints, through a real gateway."""

import contextlib
import time

import pytest

from gateway.inference.failures.reading import MAX_SPACE_BYTES
from gateway.registry import schema
from tests.gateway.inference.helpers import add_equals, change, error_of, slot_of
from tests.gateway.scripted import Talk, always, chunk, http_response, stream, upstream
from tests.router import until

# Circuit breakers


def test_five_failures_in_a_row_open_the_breaker_on_the_live_page(gateway, sim):
    model = gateway.add(sim.add(fault="500"))
    for _ in range(4):
        gateway.chat(model)
    assert gateway.page.breakers.trial_due(slot_of(gateway, model)) == 0
    gateway.chat(model)
    assert 1 <= gateway.page.breakers.trial_due(slot_of(gateway, model)) - time.time() <= 3.3


def test_an_only_endpoint_is_used_even_with_an_open_breaker(gateway, sim):
    simulated = sim.add(fault="500")
    model = gateway.add(simulated)
    for _ in range(7):
        gateway.chat(model)
    simulated.set(fault="")
    assert gateway.chat(model).status == 200
    assert gateway.page.breakers.trial_due(slot_of(gateway, model)) == 0
    assert [record.attempts[0].reason for record in gateway.records()][-1] == "trial"


def test_an_endpoint_that_fails_fast_does_not_draw_requests(gateway, sim):
    broken, good = sim.add(fault="500"), sim.add()
    model = add_equals(gateway, broken, good)
    assert {gateway.chat(model).status for _ in range(40)} == {200}
    assert broken.seen.started <= 6  # five to open the breaker, perhaps a trial
    assert good.seen.started == 40


def test_a_refusal_caused_by_the_client_does_not_count_against_the_endpoint(gateway, sim):
    model = gateway.add(sim.add(fault="400"))
    for _ in range(6):
        gateway.chat(model)
    assert gateway.page.breakers.trial_due(slot_of(gateway, model)) == 0


def test_images_for_a_model_without_eyes_do_not_count_against_the_endpoint(gateway, sim):
    """llama.cpp responds to them with status 500. Another endpoint may have the projector that this one lacks."""
    body = b'{"error":{"code":500,"message":"image input is not supported - hint: mmproj","type":"server_error"}}'
    with upstream(always(http_response(body, 500))) as blind:
        model = gateway.add(blind)
        for _ in range(6):
            given = gateway.chat(model)
        assert (given.status, gateway.page.breakers.trial_due(slot_of(gateway, model))) == (400, 0)
        assert "image input is not supported" in given.json()["error"]["message"]
        assert gateway.records()[-1].outcome == "refused"
        assert gateway.chat(gateway.add(blind, sim.add())).status == 200


def test_retry_after_pauses_an_endpoint(gateway, sim):
    busy, good = sim.add(fault="429"), sim.add()  # with Retry-After: 1
    model = gateway.add(busy, good)
    assert [gateway.chat(model).status for _ in range(3)] == [200] * 3
    assert (busy.seen.started, good.seen.started) == (1, 3)


# Failures caused by a client

POISON = b"poison"


def fails_for_poison(*mistake: bytes):
    """Script of a server that fails only for requests with POISON, and then closes the connection."""

    def script(talk: Talk) -> None:
        while request := talk.request():
            if POISON not in request:
                talk.send(http_response(b'{"choices":[]}'))
                continue
            if mistake:
                talk.send(*mistake)
            talk.close()
            return

    return script


def chat_as(gateway, model, secret, **fields):
    body = {"model": model, "messages": [], **fields}
    return gateway.post("/v1/chat/completions", body, headers={"Authorization": f"Bearer {secret}"})


def is_open(gateway, endpoint):
    return gateway.page.breakers.trial_due(endpoint.slot) > 0


MISTAKES = {
    "a 500": [http_response(b'{"error":{"message":"failed to parse grammar"}}', 500)],
    "a broken connection": [],
    "a truncated stream": [stream(chunk("a"), end=False)],
    "an error as the first event": [stream(b'data: {"error":{"message":"no"}}\n\n')],
    "an empty response": [http_response(b"")],
    "a response that begins with very much space": [http_response(b" " * MAX_SPACE_BYTES + b"{}")],
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_failures_of_one_key_do_not_open_the_breaker_while_another_succeeds(gateway, mistake):
    other = gateway.add_key("sk_" + "OtherKey01" * 3)
    with upstream(fails_for_poison(*mistake)) as server:
        model = gateway.add(server)
        assert chat_as(gateway, model, other).status == 200
        for _ in range(12):
            gateway.chat(model, user="poison", stream=True)
        assert not is_open(gateway, gateway.endpoints_of(model)[0])
        assert chat_as(gateway, model, other).status == 200
    assert {record.outcome for record in gateway.records()[1:-1]} <= {"failed", "truncated"}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_with_one_active_key_a_failing_endpoints_breaker_opens(gateway, mistake):
    with upstream(fails_for_poison(*mistake)) as server:
        model = gateway.add(server)
        assert gateway.chat(model).status == 200
        for count in range(5):
            assert not is_open(gateway, gateway.endpoints_of(model)[0]), count
            gateway.chat(model, user="poison", stream=True)
        assert is_open(gateway, gateway.endpoints_of(model)[0])


def test_an_endpoint_that_fails_for_every_key_opens_its_breaker(gateway, sim):
    other = gateway.add_key("sk_" + "OtherKey02" * 3)
    simulated = sim.add()
    model = gateway.add(simulated)
    gateway.chat(model)
    chat_as(gateway, model, other)
    simulated.set(fault="500")
    for _ in range(3):
        gateway.chat(model)
        chat_as(gateway, model, other)
    assert is_open(gateway, gateway.endpoints_of(model)[0])


@pytest.mark.parametrize("fault", ["refuse", "hang"])
def test_refused_connections_and_timeouts_always_count(gateway, sim, fault):
    other = gateway.add_key("sk_" + "OtherKey03" * 3)
    simulated = sim.add()
    model = gateway.add(simulated, timeout_secs=0.3)
    assert chat_as(gateway, model, other).status == 200
    simulated.set(fault=fault)
    for _ in range(5):
        gateway.chat(model)
    assert is_open(gateway, gateway.endpoints_of(model)[0])


def test_a_request_that_breaks_two_connections_is_not_sent_to_a_third_endpoint(gateway):
    with (
        upstream(fails_for_poison()) as one,
        upstream(fails_for_poison()) as two,
        upstream(fails_for_poison()) as three,
    ):
        model = gateway.add(one, two, three)
        given = gateway.chat(model, user="poison")
        assert error_of(given) == (502, "upstream_error")
        assert len(gateway.record().attempts) == 2
        assert three.requests == []


def test_after_a_500_and_a_broken_connection_there_is_a_third_attempt(gateway, sim):
    with upstream(fails_for_poison()) as breaks:
        model = gateway.add(sim.add(fault="500"), breaks, sim.add())
        assert gateway.chat(model, user="poison").status == 200
    assert len(gateway.record().attempts) == 3


def test_without_keys_failures_are_counted_by_client_address(make_gateway):
    gateway = make_gateway(ROUTERDASH_REQUIRE_API_KEY="false", ROUTERDASH_TRUSTED_PROXIES="127.0.0.1").start()

    def send_request(model, address, **fields):
        headers = {"Authorization": "", "X-Forwarded-For": address, "Content-Type": "application/json"}
        return gateway.post("/v1/chat/completions", {"model": model, "messages": [], **fields}, headers=headers)

    with upstream(fails_for_poison()) as server:
        model = gateway.add(server)
        assert send_request(model, "192.0.2.1").status == 200
        for host in range(8):  # of one /64
            send_request(model, f"2001:db8::{host}", user="poison")
        assert not is_open(gateway, gateway.endpoints_of(model)[0])
        for network in range(5):
            send_request(model, f"2001:db8:0:{network + 1}::1", user="poison")
        assert is_open(gateway, gateway.endpoints_of(model)[0])


def test_a_request_cancelled_by_an_administrator_is_no_failure_of_the_endpoint(gateway, sim):
    model = gateway.add(sim.add(tokens_per_second=5, tokens=1000))
    with contextlib.ExitStack() as stack:
        for number in range(5):
            connection = stack.enter_context(gateway.connect())
            connection.sendall(gateway.chat_bytes(model, stream=True))
            until(lambda number=number: gateway.in_flight(model) == number + 1)
        until(lambda: gateway.page.last_byte(slot_of(gateway, model)))
        change(gateway, model, operator_state=schema.DRAINING, drain_until=time.time() - 1)
        until(lambda: gateway.in_flight(model) == 0)
    assert not is_open(gateway, gateway.endpoints_of(model)[0])
