"""Requests that only count tokens never wait for the generations of others."""

import pytest

from tests.gateway.inference.helpers import busy, waiting
from tests.gateway.scripted import Talk, http_response, upstream
from tests.router import until

COUNT, TOKENIZE = "/v1/messages/count_tokens", "/v1/tokenize"


def counting(gateway, path, model):
    body = {"model": model, "prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}]}
    return gateway.post(path, body, headers={"anthropic-version": "2023-06-01"})


@pytest.mark.parametrize("balancer", ["adaptive", "least_inflight"])
@pytest.mark.parametrize("path", [COUNT, TOKENIZE])
def test_tokens_are_counted_while_all_slots_are_taken_and_others_wait(make_gateway, sim, path, balancer):
    gateway = make_gateway(ROUTERDASH_BALANCER=balancer).start()
    simulated = sim.add(fault="hang")
    with busy(gateway, simulated) as model, waiting(gateway, model):
        simulated.set(fault="")  # for later requests
        given = counting(gateway, path, model)
        assert gateway.page.waiting == 1  # the generation waits as before
        assert gateway.in_flight(model) == 1
    assert given.status == 200, given
    record = next(record for record in gateway.records() if record.kind in ("count_tokens", "tokenize"))
    assert (record.outcome, record.queue_us) == ("ok", None)


def test_a_full_queue_refuses_no_count(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_QUEUE_MAX="0").start()
    simulated = sim.add(fault="hang")
    with busy(gateway, simulated) as model:
        simulated.set(fault="")
        assert gateway.chat(model).status == 429
        assert counting(gateway, COUNT, model).status == 200


def test_a_count_fails_over_while_all_slots_are_taken(make_gateway):
    gateway = make_gateway(ROUTERDASH_QUEUE_MAX="1").start()

    def broken(talk: Talk) -> None:
        while request := talk.request():
            if b" /v1/chat" in request:
                talk.client_disconnected()
                return
            talk.send(http_response(b'{"error":{"message":"no"}}', 500))

    with upstream(broken) as one, upstream(broken) as two:
        model = gateway.add(one, two, max_concurrency=1)
        with gateway.connect() as first, gateway.connect() as second:
            first.sendall(gateway.chat_bytes(model))
            second.sendall(gateway.chat_bytes(model))
            until(lambda: len(one.requests) == len(two.requests) == 1)
            with waiting(gateway, model):
                given = counting(gateway, COUNT, model)
    until(lambda: gateway.in_flight(model) == 0)
    assert given.status == 502
    record = next(record for record in gateway.records() if record.kind == "count_tokens")
    assert [attempt.status for attempt in record.attempts] == [500, 500]
