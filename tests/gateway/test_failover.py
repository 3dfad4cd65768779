"""What a failing, full, draining or silent endpoint does to requests, through a real gateway."""

import contextlib
import json
import threading
import time
from collections import Counter

import msgspec
import pytest

from gateway import present, snapshot
from gateway.bounds import Hits
from tests.gateway.process import read_until
from tests.gateway.scripted import DONE, LAST, Talk, always, answer, chunk, opening, stream, upstream
from tests.gateway.test_inference import error_of, events, outcomes, told
from tests.router import until

CHAT = "/v1/chat/completions"


def change(gateway, model, **facts):
    """Publish all endpoints of a model with other facts."""
    for endpoint in gateway.endpoints_of(model):
        gateway.endpoints[endpoint.id] = msgspec.structs.replace(endpoint, **facts)
    gateway.publish()


def add_equals(gateway, *upstreams, **facts):
    """A model that these have, none of them better than the others."""
    model = gateway.add(*upstreams, **facts)
    change(gateway, model, status=snapshot.ONLINE)
    return model


def slot_of(gateway, model):
    (endpoint,) = gateway.endpoints_of(model)
    return endpoint.slot


# Circuit breakers


def test_five_failures_in_a_row_open_the_breaker_for_all_to_see(gateway, sim):
    model = gateway.add(sim.add(fault="500"))
    for _ in range(4):
        gateway.chat(model)
    assert gateway.page.trial_due(slot_of(gateway, model)) == 0
    gateway.chat(model)
    assert 1 <= gateway.page.trial_due(slot_of(gateway, model)) - time.time() <= 3.3


def test_an_only_endpoint_is_asked_whatever_its_breaker_says(gateway, sim):
    simulated = sim.add(fault="500")
    model = gateway.add(simulated)
    for _ in range(7):
        gateway.chat(model)
    simulated.set(fault="")
    assert gateway.chat(model).status == 200
    assert gateway.page.trial_due(slot_of(gateway, model)) == 0
    assert [record.attempts[0].reason for record in gateway.records()][-1] == "trial"


def test_an_endpoint_that_fails_fast_does_not_draw_requests(gateway, sim):
    broken, good = sim.add(fault="500"), sim.add()
    model = add_equals(gateway, broken, good)
    assert {gateway.chat(model).status for _ in range(40)} == {200}
    assert broken.seen.started <= 6  # five to open the breaker, perhaps a trial
    assert good.seen.started == 40


def test_a_refusal_of_the_clients_fault_says_nothing_of_the_endpoint(gateway, sim):
    model = gateway.add(sim.add(fault="400"))
    for _ in range(6):
        gateway.chat(model)
    assert gateway.page.trial_due(slot_of(gateway, model)) == 0


def test_an_endpoint_that_asks_for_a_pause_gets_it(gateway, sim):
    busy, good = sim.add(fault="429"), sim.add()  # with Retry-After: 1
    model = gateway.add(busy, good)
    assert [gateway.chat(model).status for _ in range(3)] == [200] * 3
    assert (busy.seen.started, good.seen.started) == (1, 3)


# A client's own mistakes


POISON = b"poison"


def touchy(*mistake: bytes):
    """A server that works, but for requests that are POISON: these get the mistake, then the connection ends."""

    def script(talk: Talk) -> None:
        while request := talk.request():
            if POISON not in request:
                talk.send(answer(b'{"choices":[]}'))
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
    return gateway.page.trial_due(endpoint.slot) > 0


MISTAKES = {
    "a 500": [answer(b'{"error":{"message":"image input is not supported"}}', 500)],
    "a broken connection": [],
    "a truncated stream": [stream(chunk("a"), end=False)],
    "an error as the first event": [stream(b'data: {"error":{"message":"no"}}\n\n')],
    "an empty answer": [answer(b"")],
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_one_keys_mistakes_do_not_open_the_breaker_while_another_key_succeeds(gateway, mistake):
    other = gateway.add_key("sk_" + "OtherKey01" * 3)
    with upstream(touchy(*mistake)) as server:
        model = gateway.add(server)
        assert chat_as(gateway, model, other).status == 200
        for _ in range(12):
            gateway.chat(model, user="poison", stream=True)
        assert not is_open(gateway, gateway.endpoints_of(model)[0])
        assert chat_as(gateway, model, other).status == 200
    assert {record.outcome for record in gateway.records()[1:-1]} <= {"failed", "truncated"}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_with_one_active_key_a_failing_endpoints_breaker_opens(gateway, mistake):
    with upstream(touchy(*mistake)) as server:
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
    with upstream(touchy()) as one, upstream(touchy()) as two, upstream(touchy()) as three:
        model = gateway.add(one, two, three)
        given = gateway.chat(model, user="poison")
        assert error_of(given) == (502, "upstream_error")
        assert len(gateway.record().attempts) == 2
        assert three.requests == []


def test_an_endpoint_that_answers_500_and_one_that_breaks_off_leave_a_third_attempt(gateway, sim):
    with upstream(touchy()) as breaks:
        model = gateway.add(sim.add(fault="500"), breaks, sim.add())
        assert gateway.chat(model, user="poison").status == 200
    assert len(gateway.record().attempts) == 3


def test_without_keys_mistakes_are_counted_by_client_address(make_gateway):
    gateway = make_gateway(ROUTERDASH_REQUIRE_API_KEY="false", ROUTERDASH_TRUSTED_PROXIES="127.0.0.1").start()

    def ask(model, address, **fields):
        headers = {"Authorization": "", "X-Forwarded-For": address, "Content-Type": "application/json"}
        return gateway.post("/v1/chat/completions", {"model": model, "messages": [], **fields}, headers=headers)

    with upstream(touchy()) as server:
        model = gateway.add(server)
        assert ask(model, "192.0.2.1").status == 200
        for host in range(8):  # of one /64
            ask(model, f"2001:db8::{host}", user="poison")
        assert not is_open(gateway, gateway.endpoints_of(model)[0])
        for network in range(5):
            ask(model, f"2001:db8:0:{network + 1}::1", user="poison")
        assert is_open(gateway, gateway.endpoints_of(model)[0])


def test_what_an_operator_breaks_off_is_no_failure_of_the_endpoint(gateway, sim):
    model = gateway.add(sim.add(tokens_per_second=5, tokens=1000))
    with contextlib.ExitStack() as stack:
        for number in range(5):
            connection = stack.enter_context(gateway.connect())
            connection.sendall(gateway.chat_bytes(model, stream=True))
            until(lambda number=number: gateway.in_flight(model) == number + 1)
        until(lambda: gateway.page.last_byte(slot_of(gateway, model)))
        change(gateway, model, operator_state=snapshot.DRAINING, drain_until=time.time() - 1)
        until(lambda: gateway.in_flight(model) == 0)
    assert not is_open(gateway, gateway.endpoints_of(model)[0])


# Retries


def test_there_are_three_attempts_and_no_more(gateway, sim):
    bad = [sim.add(fault="500") for _ in range(3)]
    good = sim.add()
    model = gateway.add(*bad)
    more = gateway.endpoints_of(model)[0]
    gateway.endpoints["more"] = msgspec.structs.replace(
        more, id="more", slot=1023, base_url=good.url, status=snapshot.ERROR
    )
    change(gateway, model)
    gateway.chat(model)
    assert len(gateway.record().attempts) == 3


@pytest.mark.parametrize("fault", ["500", "503", "429", "refuse"])
def test_twelve_of_twelve_with_one_endpoint_failing(gateway, sim, fault):
    model = add_equals(gateway, sim.add(), broken := sim.add())
    broken.set(fault=fault)
    assert [gateway.chat(model, stream=bool(number % 2)).status for number in range(12)] == [200] * 12
    assert {record.outcome for record in gateway.records()} == {"ok"}


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(
    "given", [answer(b""), answer(b"  \n"), answer(b"<html>", 200, "text/html")], ids=["nothing", "blanks", "a page"]
)
def test_an_empty_200_is_a_failure(gateway, sim, given, asked):
    with upstream(always(given)) as server:
        model = gateway.add(server, sim.add())
        assert gateway.chat(model, stream=asked).status == 200
    assert [outcome for outcome, _ in outcomes(gateway.record())] == ["failed", "ok"]


def test_a_key_of_ours_that_is_refused_is_not_the_clients_fault(gateway, sim):
    model = gateway.add(sim.add(api_key="other"), sim.add())
    assert gateway.chat(model).status == 200
    record = gateway.record()
    assert outcomes(record) == [("failed", 401), ("ok", 200)]
    assert record.attempts[0].error == "it refuses the key that RouterDash has for it"


def test_a_stream_that_begins_with_its_failure_is_tried_on_another_endpoint(gateway, sim):
    with upstream(always(stream(b'data: {"error":{"message":"no memory"}}\n\n'))) as server:
        given = gateway.chat(gateway.add(server, sim.add()), stream=True)
    assert events(given)[-1] == b"data: [DONE]"
    record = gateway.record()
    assert (record.outcome, record.attempts[0].error) == ("ok", "an error in its answer")


def test_a_comment_is_no_first_token(gateway, sim):
    def script(talk: Talk) -> None:
        talk.request()
        talk.send(stream(b": loading\n\n", end=False))
        with contextlib.suppress(OSError):
            while True:
                talk.send(b"b\r\n: loading\n\n\r\n")
                time.sleep(0.05)

    with upstream(script) as server:
        model = gateway.add(server, sim.add(), timeout_secs=1)
        assert events(gateway.chat(model, stream=True))[-1] == b"data: [DONE]"
    assert gateway.record().attempts[0].error == "timed out"


# Timeouts


def test_the_gap_in_a_stream_has_a_limit_of_its_own(gateway):
    with upstream(opening(stream(chunk("a"), end=False))) as server:
        given = gateway.chat(gateway.add(server, timeout_secs=60, idle_timeout_secs=0.3), stream=True)
    assert told(given)[-1]["error"]["code"] == "upstream_timeout"
    assert gateway.record().outcome == "truncated"


def test_a_stream_has_no_limit_but_one_that_is_set(gateway, sim):
    model = gateway.add(sim.add(tokens_per_second=20, tokens=1000), total_timeout_secs=0.5)
    given = gateway.chat(model, stream=True)
    assert told(given)[-1]["error"]["code"] == "upstream_timeout"
    record = gateway.record()
    assert record.outcome == "truncated"
    assert 1 <= record.output_tokens < 100


# The queue


@contextlib.contextmanager
def busy(gateway, simulated):
    """A model whose only endpoint works on as many requests as it takes: one, which hangs unless it is slow."""
    model = gateway.add(simulated, max_concurrency=1)
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model))
        until(lambda: simulated.seen.running == 1)
        yield model


@contextlib.contextmanager
def waiting(gateway, model, *headers, place=1):
    """The connection of a client that waits in the queue."""
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model, *headers))
        until(lambda: gateway.page.waiting == place)
        yield connection


def test_a_request_waits_for_a_free_slot(gateway, sim):
    simulated = sim.add(ttft=0.3)
    with busy(gateway, simulated) as model, waiting(gateway, model) as connection:
        read_until(connection, b"}")
    first, second = gateway.records()
    assert (first.queue_us, gateway.page.waiting, simulated.seen.peak) == (None, 0, 1)
    assert second.queue_us > 50_000
    assert second.attempts[0].at_us >= second.queue_us * 0.9


def test_endpoints_never_get_more_than_they_take(gateway, sim):
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


def test_who_waits_too_long_is_told_so(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_QUEUE_TIMEOUT_SECS="1").start()
    with busy(gateway, sim.add(fault="hang")) as model:
        given = gateway.chat(model)
    assert error_of(given) == (503, "queue_timeout")
    assert gateway.page.waiting == 0
    record = next(record for record in gateway.records() if record.outcome == "queue")
    assert record.queue_us >= 900_000


def test_a_client_that_leaves_the_queue_frees_its_place(gateway, sim):
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
            talk.send(answer(b'{"model":"m","choices":[]}'))

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
        assert order == [b"own", b"own", b"other"]  # the one that was running, one that came before, and then its turn
        free.release(100)
        statuses = Counter(connection.recv(12) for connection in connections)
    assert statuses == {b"HTTP/1.1 200": 52, b"HTTP/1.1 429": 49}


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
    assert served.index(other[3:11]) <= 2  # behind the one that ran, and one that waited


def test_who_waits_for_one_endpoint_does_not_hold_up_who_can_go_to_another(gateway, sim):
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


def test_a_waiting_request_whose_endpoint_goes_is_told_so(gateway, sim):
    with (
        busy(gateway, sim.add(fault="hang")) as model,
        waiting(gateway, model, "Connection: close") as connection,
    ):
        change(gateway, model, operator_state=snapshot.DISABLED)
        assert b"no_capable_endpoints" in read_until(connection, b"}}")


# Silence


def test_the_client_of_a_silent_stream_hears_a_comment(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_KEEPALIVE_SECS="0.2").start()
    given = gateway.chat(gateway.add(sim.add(ttft=1.0)), stream=True)
    assert given.body.startswith(b": waiting\n\n")
    assert given.headers["content-type"] == "text/event-stream"
    assert given.body.endswith(DONE)
    record = gateway.record()
    assert (record.outcome, record.status) == ("ok", 200)
    assert record.first_token_us > 900_000


def test_after_a_comment_another_endpoint_may_still_be_asked(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_KEEPALIVE_SECS="0.2").start()
    given = gateway.chat(gateway.add(sim.add(fault="hang"), sim.add(), timeout_secs=1), stream=True)
    assert given.body.startswith(b": waiting\n\n")
    assert given.body.endswith(DONE)
    assert outcomes(gateway.record()) == [("failed", 0), ("ok", 200)]


def test_after_a_comment_a_failure_is_told_in_the_stream(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_KEEPALIVE_SECS="0.2").start()
    given = gateway.chat(gateway.add(sim.add(fault="hang"), timeout_secs=1), stream=True)
    assert given.status == 200
    assert json.loads(events(given)[-1].removeprefix(b"data: "))["error"]["code"] == "upstream_timeout"
    assert gateway.record().outcome == "failed"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_after_a_comment_a_refusal_is_told_in_the_stream(make_gateway, path):
    gateway = make_gateway(ROUTERDASH_KEEPALIVE_SECS="0.2").start()

    def script(talk: Talk) -> None:
        talk.request()
        time.sleep(0.6)
        talk.send(answer(b'{"error":{"message":"too long"}}', 400))

    with upstream(script) as server:
        fields = {"messages": [], "input": "", "max_tokens": 1, "stream": True}
        given = gateway.post(path, {"model": gateway.add(server), **fields})
    assert given.body.startswith(b": waiting\n\n")
    assert b"too long" in events(given)[-1]
    record = gateway.record()
    assert (record.outcome, record.attempts[0].status) == ("refused", 400)


def test_who_asked_for_no_stream_gets_no_comment(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_KEEPALIVE_SECS="0.2").start()
    assert gateway.chat(gateway.add(sim.add(ttft=0.7))).json()["object"] == "chat.completion"


# Drain


def drain(gateway, model, until_when):
    change(gateway, model, operator_state=snapshot.DRAINING, drain_until=until_when)


def test_a_draining_endpoint_ends_its_streams_and_takes_nothing_new(gateway, sim):
    simulated = sim.add(tokens_per_second=20, tokens=12)
    model = gateway.add(simulated)
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model, "Connection: close", stream=True))
        read_until(connection, b"\n\n\r\n")
        drain(gateway, model, None)
        until(lambda: gateway.chat(model).status == 503)
        assert read_until(connection, DONE + b"\r\n0\r\n\r\n")
    assert [record.outcome for record in gateway.records() if record.streamed] == ["ok"]


def test_at_the_deadline_what_still_runs_is_ended(gateway, sim):
    model = gateway.add(sim.add(tokens_per_second=20, tokens=10_000))
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model, "Connection: close", stream=True))
        read_until(connection, b"\n\n\r\n")
        drain(gateway, model, time.time() + 0.2)
        assert b"broke off" in read_until(connection, b"\r\n0\r\n\r\n")
    record = gateway.record_soon()
    assert (record.outcome, record.error) == ("truncated", "the endpoint was drained")
    assert gateway.in_flight(model) == 0


def test_what_had_not_begun_at_the_deadline_goes_elsewhere(gateway, sim):
    slow, good = sim.add(fault="hang"), sim.add()
    model = gateway.add(slow, good)
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model, "Connection: close"))
        until(lambda: slow.seen.running == 1)
        first = gateway.endpoints_of(model)[0]
        gateway.endpoints[first.id] = msgspec.structs.replace(
            first, operator_state=snapshot.DRAINING, drain_until=time.time()
        )
        gateway.publish()
        assert b"chat.completion" in read_until(connection, b"}}")
    assert outcomes(gateway.record_soon()) == [("failed", 0), ("ok", 200)]


# What answers tell of their way


def test_answers_tell_the_endpoint_the_attempts_and_the_wait(gateway, sim):
    model = gateway.add(sim.add(fault="500"), sim.add())
    change(gateway, model, name="café 2")
    headers = gateway.chat(model).headers
    assert headers["x-routerdash-endpoint"] == "caf%C3%A9 2"
    assert (headers["x-routerdash-attempts"], headers["x-routerdash-queue-ms"]) == ("2", "0")


def test_a_stream_tells_the_attempt_that_it_comes_from(gateway, sim):
    headers = gateway.chat(gateway.add(sim.add(fault="500"), sim.add()), stream=True).headers
    assert headers["x-routerdash-attempts"] == "2"


def test_refusals_of_requests_that_were_tried_tell_it_too(gateway, sim):
    assert gateway.chat(gateway.add(sim.add(fault="500"))).headers["x-routerdash-attempts"] == "1"


def test_a_setting_keeps_it_secret(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_ROUTE_HEADERS="false").start()
    headers = gateway.chat(gateway.add(sim.add())).headers
    assert not [name for name in headers if name.startswith("x-routerdash")]


# Capabilities


def test_a_request_goes_only_to_a_model_that_can_do_it(gateway, sim):
    model = gateway.add(sim.add(), sim.add())
    chats, embeds = gateway.endpoints_of(model)
    for endpoint, word in ((chats, "chat"), (embeds, "embeddings")):
        gateway.endpoints[endpoint.id] = msgspec.structs.replace(
            endpoint, models=(snapshot.Model(model, capabilities=(word,)),)
        )
    gateway.publish()
    gateway.post("/v1/embeddings", {"model": model, "input": "x"})
    gateway.chat(model)
    assert [record.endpoint_id for record in gateway.records()] == [embeds.id, chats.id]


def test_a_model_that_cannot_do_it_is_said_so(gateway, sim):
    model = gateway.add(sim.add())
    change(gateway, model, models=(snapshot.Model(model, capabilities=("embeddings",)),))
    until(lambda: gateway.chat(model).status == 400)
    given = gateway.chat(model)
    assert error_of(given) == (400, "model_not_capable")
    assert "capability chat" in given.json()["error"]["message"]


# Responses that stay at their endpoint


def made_by(gateway, model):
    return Counter(record.endpoint_id for record in gateway.records() if record.model == model)


def test_a_response_goes_on_where_the_one_before_is(gateway, sim):
    model = add_equals(gateway, sim.add(), sim.add())
    first = gateway.post("/v1/responses", {"model": model, "input": "a"}).json()["id"]
    (maker,) = made_by(gateway, model)
    for _ in range(8):
        gateway.post("/v1/responses", {"model": model, "input": "b", "previous_response_id": first})
    assert made_by(gateway, model) == {maker: 8}


def test_so_it_does_after_a_stream(gateway, sim):
    model = add_equals(gateway, sim.add(), sim.add())
    given = gateway.post("/v1/responses", {"model": model, "input": "a", "stream": True})
    first = told(given)[0]["response"]["id"]
    (maker,) = made_by(gateway, model)
    for _ in range(8):
        gateway.post("/v1/responses", {"model": model, "input": "b", "previous_response_id": first})
    assert made_by(gateway, model) == {maker: 8}


def has(response_id):
    """An endpoint that has one response."""
    found = answer(json.dumps({"id": response_id, "object": "response", "model": "m"}).encode())
    missing = answer(b'{"error":{"message":"no such response"}}', 404)

    def script(talk: Talk) -> None:
        while request := talk.request():
            talk.send(found if request.split(b" ")[1].startswith(f"/v1/responses/{response_id}".encode()) else missing)

    return script


def test_a_response_that_nobody_remembers_is_searched_for(make_gateway):
    gateway = make_gateway(ROUTERDASH_OPEN_RESPONSES="true").start()
    with upstream(has("resp_a")) as one, upstream(has("resp_b")) as other:
        gateway.add(one)
        gateway.add(other)
        until(lambda: gateway.get("/v1/responses/resp_a").status == 200)
        given = gateway.get("/v1/responses/resp_b")
        assert (given.status, given.json()["id"]) == (200, "resp_b")
        record = gateway.records()[-1]
    assert (record.kind, record.outcome, record.model, len(record.attempts)) == ("stored_responses", "ok", "m", 1)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/responses/resp_c/cancel", 200),
        ("GET", "/v1/responses/resp_c/input_items", 200),
        ("DELETE", "/v1/responses/resp_c", 200),
        ("POST", "/v1/responses/resp_c", 405),
        ("GET", "/v1/responses/resp_c/cancel", 405),
        ("GET", "/v1/responses/resp_c/other", 404),
        ("GET", "/v1/responses/", 404),
    ],
)
def test_what_can_be_asked_about_a_response(make_gateway, method, path, status):
    gateway = make_gateway(ROUTERDASH_OPEN_RESPONSES="true").start()
    with upstream(has("resp_c")) as server:
        gateway.add(server)
        until(lambda: gateway.get("/v1/responses/resp_c").status == 200)
        assert gateway.request(method, path).status == status


def test_events_of_a_broken_response_are_of_its_dialect(gateway):
    with upstream(opening(stream(b'data: {"type":"response.output_text.delta"}\n\n', end=False))) as server:
        model = gateway.add(server, timeout_secs=1)
        given = gateway.post("/v1/responses", {"model": model, "input": "", "stream": True})
    assert events(given)[-1].startswith(b"event: error\n")
    assert b"[DONE]" not in given.body
    assert LAST not in given.body


# Big bodies


@pytest.mark.parametrize("asked", [True, False])
def test_a_big_body_gets_another_name_where_it_stands(gateway, sim, asked):
    simulated = sim.add()
    model = gateway.add(simulated, known_as="its own")
    content = "x" * 300_000
    given = gateway.chat(model, stream=asked, messages=[{"role": "user", "content": content}])
    assert given.status == 200
    body = simulated.seen.bodies[0]
    assert (body["model"], body["messages"][0]["content"]) == ("its own", content)
    assert ("stream_options" in body) is asked


# For whoever looks


def test_what_is_here_is_told_while_somebody_looks(gateway, sim):
    simulated = sim.add(tokens_per_second=20, tokens=10_000)
    model = gateway.add(simulated, max_concurrency=1)
    with gateway.connect() as one, gateway.connect() as two:
        one.sendall(gateway.chat_bytes(model, stream=True))
        read_until(one, b"\n\n\r\n")
        two.sendall(gateway.chat_bytes(model))
        until(lambda: gateway.page.waiting == 1)
        gateway.page.watched_until = 0
        present.path(gateway.config.data_dir, 0).unlink(missing_ok=True)  # of an earlier look
        time.sleep(0.7)  # more than between two tellings
        assert present.load(gateway.config.data_dir, 0) is None
        gateway.page.watched_until = int(time.time()) + 5
        found = until(lambda: present.load(gateway.config.data_dir, 0))
    (running,), (waiting,) = found.running, found.waiting
    assert (running.model, running.streamed, running.endpoint_id) == (model, True, gateway.endpoints_of(model)[0].id)
    assert (waiting.model, waiting.position, waiting.client_ip) == (model, 1, "127.0.0.1")
    assert 0 <= found.at - waiting.since <= found.at - running.since < 30
    assert running.deltas >= 1


def test_an_endpoint_that_was_published_a_moment_ago_is_asked(gateway, sim):
    good = sim.add()
    model = gateway.add(sim.add(fault="500"))
    gateway.chat(model)
    endpoint = gateway.endpoints_of(model)[0]
    gateway.endpoints["more"] = msgspec.structs.replace(endpoint, id="more", slot=1021, base_url=good.url)
    gateway.publish()
    assert gateway.chat(model).status == 200
    del gateway.endpoints["more"]
