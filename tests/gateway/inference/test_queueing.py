"""Requests that wait for a slot of an endpoint."""

import contextlib
import json
import threading
from collections import Counter

import msgspec

from gateway.ipc.bound_hits import Hits
from gateway.registry import schema
from tests.gateway.inference.helpers import (
    CHAT,
    add_equals,
    busy,
    change,
    error_of,
    waiting,
)
from tests.gateway.process import KEY, GatewayProcess, read_until
from tests.gateway.scripted import Talk, http_response, upstream
from tests.router import until


def test_a_request_waits_for_a_free_slot(gateway, sim):
    simulated = sim.add(ttft=0.3)
    with busy(gateway, simulated) as model, waiting(gateway, model) as connection:
        read_until(connection, b"}")
    first, second = gateway.records()
    assert (first.queue_us, gateway.page.waiting, simulated.seen.peak) == (None, 0, 1)
    assert second.queue_us > 50_000
    assert second.attempts[0].at_us >= second.queue_us * 0.9


def test_endpoints_never_get_more_requests_than_slots(gateway, sim):
    first, second = sim.add(ttft=0.02), sim.add(ttft=0.02)
    model = add_equals(gateway, first, second, max_concurrency=2)
    threads = [threading.Thread(target=gateway.chat, args=(model,)) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record.outcome for record in gateway.records()} == {"ok"}
    assert max(first.seen.peak, second.seen.peak) <= 2
    assert gateway.in_flight(model) == gateway.page.waiting == 0


def test_a_full_queue_refuses_at_once(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_QUEUE_MAX="1").start()
    with busy(gateway, sim.add(fault="hang")) as model, waiting(gateway, model):
        given = gateway.chat(model)
    assert error_of(given) == (429, "queue_full")
    assert given.headers["retry-after"] == "1"
    record = next(record for record in until(gateway.records) if record.outcome == "queue")
    assert (record.status, record.attempts) == (429, ())


def test_the_queue_timeout_is_a_refusal(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_QUEUE_TIMEOUT_SECS="1").start()
    with busy(gateway, sim.add(fault="hang")) as model:
        given = gateway.chat(model)
    assert error_of(given) == (503, "queue_timeout")
    assert gateway.page.waiting == 0
    record = next(record for record in gateway.records() if record.outcome == "queue")
    assert record.queue_us >= 900_000


def test_a_client_disconnect_frees_a_place_in_the_queue(gateway, sim):
    with busy(gateway, sim.add(fault="hang")) as model:
        with waiting(gateway, model):
            pass
        until(lambda: gateway.page.waiting == 0)
        (record,) = until(gateway.records)
        assert (record.outcome, record.attempts, record.status) == ("cancelled", (), 0)
        assert record.queue_us is not None
        assert gateway.in_flight(model) == 1


def test_one_key_cannot_fill_the_queue_and_the_next_turn_is_another_keys(make_gateway):
    gateway = make_gateway().start()
    other = gateway.add_key("sk_" + "AnotherKey" * 4)
    free = threading.Semaphore(0)
    order = []

    def script(talk: Talk) -> None:
        while request := talk.request():
            order.append(b"other" if b"from-other" in request else b"own")
            free.acquire(timeout=60)
            talk.send(http_response(b'{"model":"m","choices":[]}'))

    with upstream(script) as server, contextlib.ExitStack() as stack:
        model = gateway.add(server, max_concurrency=1)
        connections = [stack.enter_context(gateway.connect()) for _ in range(101)]
        for connection in connections:
            connection.sendall(gateway.chat_bytes(model))
        until(lambda: Hits(gateway.page).totals() == {"queue_of_key": 49})
        until(lambda: order and gateway.page.waiting == 51)
        threading.Thread(target=lambda: gateway.post(CHAT, {"model": model, "from-other": 1}, key=other)).start()
        until(lambda: gateway.page.waiting == 52)
        free.release(2)
        until(lambda: len(order) == 3)
        assert order == [b"own", b"own", b"other"]  # the running request, an earlier one, and then this one
        free.release(100)
        statuses = Counter(connection.recv(12) for connection in connections)
    assert statuses == {b"HTTP/1.1 200": 52, b"HTTP/1.1 429": 49}


def test_one_key_has_half_of_the_places_over_all_workers(tmp_path, sim):
    """Both workers together keep the limits; a killed one gives its places back."""
    settings = {"ROUTERDASH_WORKERS": "2", "ROUTERDASH_QUEUE_MAX": "6"}
    one, two = GatewayProcess(tmp_path, **settings), GatewayProcess(tmp_path, **settings)
    two.worker = 1
    other = one.add_key("sk_" + "AnotherKey" * 4)
    with contextlib.ExitStack() as stack:
        stack.callback(one.end)
        stack.callback(two.end)
        model = one.add(sim.add(fault="hang"), max_concurrency=1)
        one.start(published=False)
        two.start(published=False)
        running = stack.enter_context(one.connect())
        running.sendall(one.chat_bytes(model))
        until(lambda: one.in_flight(model) == 1)
        for place, gateway in enumerate((two, one, two, one), 1):
            stack.enter_context(waiting(gateway, model, place=place))
        assert [error_of(gateway.chat(model)) for gateway in (one, two)] == [(429, "queue_full")] * 2
        for place in (5, 6):
            connection = stack.enter_context(two.connect())
            connection.sendall(two.chat_bytes(model).replace(KEY.encode(), other.encode()))
            until(lambda place=place: one.page.waiting == place)
        authorization = {"Authorization": f"Bearer {other}"}
        assert error_of(one.chat_with(model, authorization)) == (429, "queue_full")
        assert Hits(one.page).totals() == {"queue_of_key": 2, "queue": 1}
        two.kill()
        one.page.clear_dead_rows()
        for place in (3, 4):
            stack.enter_context(waiting(one, model, place=place))
        assert error_of(one.chat(model)) == (429, "queue_full")


def test_the_share_of_a_key_is_a_setting(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_QUEUE_MAX="16", ROUTERDASH_QUEUE_KEY_SHARE="12").start()
    gateway.add_key("sk_" + "AnotherKey" * 4)
    with busy(gateway, sim.add(fault="hang")) as model, contextlib.ExitStack() as stack:
        for place in (1, 2):
            stack.enter_context(waiting(gateway, model, place=place))
        assert error_of(gateway.chat(model)) == (429, "queue_full")


def test_the_only_key_may_fill_the_queue(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_QUEUE_MAX="3").start()
    with busy(gateway, sim.add(fault="hang")) as model, contextlib.ExitStack() as stack:
        for place in (1, 2, 3):
            stack.enter_context(waiting(gateway, model, place=place))
        assert error_of(gateway.chat(model)) == (429, "queue_full")


def test_keys_take_turns(gateway, sim):
    simulated = sim.add(ttft=1.0)
    other = gateway.add_key("sk_" + "OtherKey00" * 3)
    with busy(gateway, simulated) as model, contextlib.ExitStack() as stack:
        for place in range(1, 9):
            stack.enter_context(waiting(gateway, model, place=place))
        simulated.set(ttft=0.01)
        assert gateway.chat_with(model, {"Authorization": f"Bearer {other}"}).status == 200
    served = [record.api_key_id for record in gateway.records()]
    assert served.index(other[3:11]) <= 2  # after the running request and a waiting one


def test_requests_for_one_endpoint_do_not_delay_those_for_another(gateway, sim):
    first, second = sim.add(), sim.add()
    model = add_equals(gateway, first, second, max_concurrency=1)
    response = gateway.post("/v1/responses", {"model": model, "input": ""}).json()["id"]
    maker, other = (first, second) if first.seen.started else (second, first)
    maker.set(fault="hang")
    body = {"model": model, "input": "", "previous_response_id": response}
    with gateway.connect() as one, gateway.connect() as two:
        for connection, wanted in ((one, 0), (two, 1)):
            data = json.dumps(body).encode()
            connection.sendall(gateway.head("POST /v1/responses", f"Content-Length: {len(data)}") + data)
            until(lambda wanted=wanted: maker.seen.running == 1 and gateway.page.waiting == wanted)
        assert gateway.chat(model).status == 200
    assert other.seen.started == 1


def test_a_waiting_request_sees_an_edit(gateway, sim):
    more = sim.add()
    with busy(gateway, sim.add(fault="hang")) as model, waiting(gateway, model) as connection:
        endpoint = gateway.endpoints_of(model)[0]
        gateway.endpoints["more"] = msgspec.structs.replace(endpoint, id="more", slot=1022, base_url=more.url)
        gateway.publish()
        read_until(connection, b"}")
    del gateway.endpoints["more"]
    assert more.seen.started == 1


def test_a_queued_request_whose_endpoint_is_removed_is_refused(gateway, sim):
    with (
        busy(gateway, sim.add(fault="hang")) as model,
        waiting(gateway, model, "Connection: close") as connection,
    ):
        change(gateway, model, operator_state=schema.DISABLED)
        assert b"no_capable_endpoints" in read_until(connection, b"}}")
