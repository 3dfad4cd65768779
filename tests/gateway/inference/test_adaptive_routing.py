"""Adaptive routing in a real gateway: what control has published decides, and a request may wait for a better one."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gateway.ipc.live_page import EndpointWork
from gateway.registry.schema import Lengths, Speeds
from gateway.registry.writer import Changes
from gateway.routing.adaptive import FASTEST, PROBE, WAITED
from gateway.routing.balancer import ONLY
from tests.gateway.inference.helpers import add_equals, closes, outcomes, refuses, waiting
from tests.gateway.process import KEY, GatewayProcess, read_until
from tests.gateway.scripted import DONE, LAST, Talk, chunk, http_response, stream, upstream
from tests.router import until

FAST = Speeds(setup=0.01, read=0.0001, write=0.01, share=0.001, completions=256)
SLOW = Speeds(setup=0.01, read=0.001, write=0.1, share=0.005, completions=256)
CHAT = "chat_completions"


@pytest.fixture(scope="module")
def adaptive_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("adaptive"), ROUTERDASH_BALANCER="adaptive")
    process.start()
    yield process
    log = process.log()
    process.end()
    assert "Traceback" not in log


@pytest.fixture
def gateway(adaptive_gateway: GatewayProcess) -> GatewayProcess:
    adaptive_gateway.records()
    return adaptive_gateway


def learn(gateway: GatewayProcess, model: str, *speeds: Speeds, kind: str = CHAT) -> list[str]:
    """Publish speeds of the endpoints of a model, in their order, and return the ids of the endpoints."""
    ids = [endpoint.id for endpoint in gateway.endpoints_of(model)]
    gateway.apply(
        Changes(speeds={(endpoint_id, model, kind): learned for endpoint_id, learned in zip(ids, speeds, strict=True)})
    )
    return ids


def pending(gateway: GatewayProcess, model: str) -> int:
    work = EndpointWork(gateway.page)
    return sum(work.pending(endpoint.slot) for endpoint in gateway.endpoints_of(model))


def chosen(record: Any) -> tuple[str, str]:
    return record.attempts[-1].endpoint_id, record.attempts[-1].reason


# What was learned decides


def test_the_faster_endpoint_gets_the_requests(gateway, sim):
    model = add_equals(gateway, sim.add(), sim.add())
    slow, fast = learn(gateway, model, SLOW, FAST)
    for _ in range(5):
        assert gateway.chat(model).status == 200
    records = gateway.records()
    assert [chosen(record) for record in records] == [(fast, FASTEST)] * 5
    attempt = records[0].attempts[0]
    assert attempt.scores == ()
    assert [name for name, _ in attempt.costs] == [fast, slow]
    assert attempt.costs[0][1] < attempt.costs[1][1]


@pytest.mark.parametrize("streamed", [False, True])
def test_responses_explain_a_choice_between_two(gateway, sim, streamed):
    """Of two alike either is chosen, the one with the least cost or the other."""
    model = add_equals(gateway, sim.add(), sim.add())
    learn(gateway, model, FAST, msgspec.structs.replace(FAST, setup=0.012))
    names = {endpoint.id: endpoint.name for endpoint in gateway.endpoints_of(model)}
    seen = set()
    for _ in range(100):
        headers = gateway.chat(model, stream=streamed).headers
        (attempt,) = gateway.record().attempts
        costs = dict(attempt.costs)
        own = costs.pop(attempt.endpoint_id)
        (other,) = costs.values()
        assert headers["x-routerdash-reason"] == f"fastest;cost={own};next={other}"
        assert headers["x-routerdash-endpoint"] == names[attempt.endpoint_id]
        assert headers["x-request-id"]
        assert (headers["x-routerdash-attempts"], headers["x-routerdash-queue-ms"]) == ("1", "0")
        seen.add(own < other)
        if len(seen) == 2:
            return
    raise AssertionError("the same one was always chosen")


def test_new_speeds_change_the_choice(gateway, sim):
    model = add_equals(gateway, sim.add(), sim.add())
    first, second = learn(gateway, model, FAST, SLOW)
    assert gateway.chat(model).status == 200
    learn(gateway, model, SLOW, FAST)
    assert gateway.chat(model).status == 200
    assert [chosen(record)[0] for record in gateway.records()] == [first, second]


def test_each_kind_of_request_has_its_own_speeds(gateway, sim):
    model = add_equals(gateway, sim.add(), sim.add())
    first, second = learn(gateway, model, FAST, SLOW)
    learn(gateway, model, SLOW, FAST, kind="completions")
    assert gateway.chat(model).status == 200
    assert gateway.post("/v1/completions", {"model": model, "prompt": ""}).status == 200
    assert [chosen(record)[0] for record in gateway.records()] == [first, second]


def test_an_endpoint_without_slots_is_published_with_slots(gateway, sim):
    """Its rows are made again when its slots change."""
    model = add_equals(gateway, sim.add(fault="hang"), sim.add())
    fast, slow = learn(gateway, model, FAST, SLOW)
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model))
        until(lambda: gateway.in_flight(model) == 1)
        for endpoint in gateway.endpoints_of(model):
            gateway.endpoints[endpoint.id] = _with_slots(endpoint, 1)
        gateway.publish()
        learn(gateway, model, FAST, FAST)
        assert gateway.chat(model).status == 200
    assert chosen(next(record for record in gateway.records() if record.outcome == "ok")) == (slow, ONLY)
    assert fast != slow


def _with_slots(endpoint: Any, slots: int) -> Any:
    return msgspec.structs.replace(endpoint, max_concurrency=slots)


# Lengths


def test_prompt_tokens_come_from_the_size_of_the_body(gateway, sim):
    model = add_equals(gateway, sim.add())
    for _ in range(2):
        gateway.chat(model, user="x" * 1000)
        gateway.apply(Changes(lengths={(model, None): Lengths(30.0, 2.0)}))
    before, after = gateway.records()
    assert before.body_bytes == after.body_bytes > 1000
    assert [record.attempts[0].work.prompt_tokens for record in (before, after)] == [
        before.body_bytes // 4,
        before.body_bytes // 2,
    ]
    assert [record.attempts[0].work.output_tokens for record in (before, after)] == [200, 30]


def test_the_output_is_the_mean_of_the_key_or_the_limit_of_the_request(gateway, sim):
    model = add_equals(gateway, sim.add())
    gateway.apply(Changes(lengths={(model, None): Lengths(30.0, 2.0), (model, KEY[3:11]): Lengths(50.0, 2.0)}))
    gateway.chat(model)
    gateway.chat(model, max_tokens=7)
    gateway.chat(model, max_completion_tokens=70)
    gateway.post("/v1/embeddings", {"model": model, "input": "x"})
    assert [record.attempts[0].work.output_tokens for record in gateway.records()] == [50, 7, 50, 0]


# Waiting for a better endpoint


@contextlib.contextmanager
def fast_one_busy(gateway: GatewayProcess, fast: Speeds = FAST, slow: Speeds = SLOW) -> Iterator[tuple[str, Any]]:
    """A fast endpoint with one slot, which a request holds until it is released, and a free slow endpoint."""
    released = threading.Event()

    def hold(talk: Talk) -> None:
        while talk.request():
            released.wait(30)
            talk.send(http_response(b'{"model":"m","choices":[]}'))

    def answer(talk: Talk) -> None:
        while talk.request():
            talk.send(http_response(b'{"model":"m","choices":[]}'))

    with upstream(hold) as fast_server, upstream(answer) as slow_server:
        model = add_equals(gateway, fast_server, slow_server, max_concurrency=1)
        learn(gateway, model, fast, slow)
        with gateway.connect() as connection:
            connection.sendall(gateway.chat_bytes(model))
            until(lambda: gateway.in_flight(model) == 1)
            try:
                yield model, released
            finally:
                released.set()


def test_a_request_waits_for_a_better_endpoint(gateway):
    with fast_one_busy(gateway) as (model, released), waiting(gateway, model) as connection:
        released.set()
        read_until(connection, b"}")
    fast, _ = (endpoint.id for endpoint in gateway.endpoints_of(model))
    first, second = until(lambda: (records := gateway.records()) and len(records) == 2 and records)
    assert (first.queue_us, chosen(second)) == (None, (fast, WAITED))
    assert second.queue_us > 0
    assert gateway.page.waiting == pending(gateway, model) == 0


def test_short_requests_of_a_key_do_not_wait_for_long_ones_of_others(gateway):
    with fast_one_busy(gateway) as (model, _):
        gateway.apply(Changes(lengths={(model, None): Lengths(5000.0, 2.0), (model, KEY[3:11]): Lengths(4.0, 2.0)}))
        assert gateway.chat(model).status == 200
        _, free = (endpoint.id for endpoint in gateway.endpoints_of(model))
        record = gateway.record()
        assert (record.attempts[-1].endpoint_id, record.queue_us) == (free, None)


def test_a_request_does_not_wait_longer_than_the_free_endpoint_takes(gateway):
    slow = Speeds(setup=0.3, read=0.0, write=1e-6, share=0.0, completions=256)
    fast = Speeds(setup=0.01, read=0.0, write=1e-6, share=0.0, completions=256)
    with fast_one_busy(gateway, fast, slow) as (model, _):
        assert gateway.chat(model).status == 200  # the fast one is never released meanwhile
        _, free = (endpoint.id for endpoint in gateway.endpoints_of(model))
        record = gateway.record()
        assert chosen(record) == (free, ONLY)
        assert record.queue_us >= 250_000


def test_a_waiting_request_does_not_hold_up_others_that_want_the_free_endpoint(gateway):
    """A short request finds the slow endpoint good enough, although a long one waits in the same line."""
    slow = Speeds(setup=0.001, read=0.0, write=1.0, share=0.0, completions=256)
    fast = Speeds(setup=0.5, read=0.0, write=0.01, share=0.0, completions=256)
    with fast_one_busy(gateway, fast, slow) as (model, released), waiting(gateway, model) as connection:
        assert gateway.chat(model, max_tokens=0).status == 200
        assert gateway.page.waiting == 1
        released.set()
        read_until(connection, b"}")


def test_a_request_takes_the_free_endpoint_if_it_may_not_wait(make_gateway):
    gateway = make_gateway(ROUTERDASH_BALANCER="adaptive", ROUTERDASH_QUEUE_MAX="1").start()
    with fast_one_busy(gateway) as (model, released), waiting(gateway, model) as connection:
        assert gateway.chat(model).status == 200
        assert gateway.page.waiting == 1
        released.set()
        read_until(connection, b"}")


def test_the_queue_timeout_ends_the_wait_at_the_free_endpoint(make_gateway):
    gateway = make_gateway(ROUTERDASH_BALANCER="adaptive", ROUTERDASH_QUEUE_TIMEOUT_SECS="1").start()
    with fast_one_busy(gateway) as (model, _):
        assert gateway.chat(model).status == 200
    assert gateway.records()[0].queue_us >= 900_000


def test_a_waiting_client_that_leaves_frees_its_place(gateway):
    with fast_one_busy(gateway) as (model, _), waiting(gateway, model):
        pass
    until(lambda: gateway.page.waiting == 0 and gateway.in_flight(model) == 0)
    assert pending(gateway, model) == 0


# Failures and new endpoints


def test_a_failure_is_tried_on_the_next_best_endpoint(gateway, sim):
    with upstream(refuses(500)) as server:
        model = add_equals(gateway, server, sim.add())
        failing, good = learn(gateway, model, FAST, SLOW)
        assert gateway.chat(model).status == 200
    record = gateway.record()
    assert outcomes(record) == [("failed", 500), ("ok", 200)]
    assert [attempt.endpoint_id for attempt in record.attempts] == [failing, good]
    assert all(attempt.work is not None for attempt in record.attempts)
    assert pending(gateway, model) == 0


def test_fast_errors_attract_no_traffic(gateway, sim):
    with upstream(refuses(500)) as server:
        model = add_equals(gateway, server, sim.add())
        failing, _ = learn(gateway, model, FAST, SLOW)
        for _ in range(30):
            assert gateway.chat(model).status == 200
    attempts = Counter(attempt.endpoint_id for record in gateway.records() for attempt in record.attempts)
    assert attempts[failing] <= 6  # then its circuit breaker is open


def test_a_new_endpoint_gets_few_requests_at_once(gateway, sim):
    """At most 1 + 2 * completions, however good it looks."""
    new, old = sim.add(ttft=0.2), sim.add(ttft=0.01)
    model = add_equals(gateway, new, old)
    for completions in (0, 1, 2):
        new.seen.peak = 0
        learned = Speeds(setup=0.0, read=0.0, write=0.0001, share=0.0, completions=completions)
        learn(gateway, model, learned, SLOW)
        threads = [threading.Thread(target=gateway.chat, args=(model,)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= new.seen.peak <= 1 + 2 * completions
    reasons = {chosen(record)[1] for record in gateway.records()}
    assert PROBE in reasons


# Counts return to zero after every end of a request


def test_a_prompt_is_pending_until_the_first_token(gateway):
    may_begin, may_end = threading.Event(), threading.Event()

    def script(talk: Talk) -> None:
        talk.request()
        may_begin.wait(30)
        head, _, rest = stream(chunk("x"), LAST, DONE).partition(b"\r\n\r\n")
        first, end, last = rest.partition(b"\n\n\r\n")
        talk.send(head + b"\r\n\r\n" + first + end)
        may_end.wait(30)
        talk.send(last)

    with upstream(script) as server:
        model = add_equals(gateway, server)
        thread = threading.Thread(target=gateway.chat, args=(model,), kwargs={"stream": True})
        thread.start()
        size = until(lambda: pending(gateway, model))
        assert size > 10
        may_begin.set()
        until(lambda: pending(gateway, model) == 0)
        assert gateway.in_flight(model) == 1
        may_end.set()
        thread.join()
    assert gateway.record().outcome == "ok"


@pytest.mark.parametrize("fault", ["hang", "reset", "error"])
def test_no_prompt_stays_pending_after_an_end(gateway, sim, fault):
    simulated = sim.add(fault="hang") if fault == "hang" else None
    script = {"reset": Talk.reset, "error": refuses(500)}.get(fault)
    with contextlib.ExitStack() as stack:
        server = simulated or stack.enter_context(upstream(script or closes))
        model = add_equals(gateway, server)
        if simulated:
            with gateway.connect() as connection:
                connection.sendall(gateway.chat_bytes(model))
                until(lambda: pending(gateway, model))
        else:
            assert gateway.chat(model).status >= 500
        until(lambda: gateway.in_flight(model) == 0)
    assert pending(gateway, model) == 0


# The work of an attempt


def test_the_record_has_what_its_endpoint_did_meanwhile(gateway, sim):
    model = add_equals(gateway, sim.add(ttft=0.3))
    learn(gateway, model, FAST)
    threads = [threading.Thread(target=gateway.chat, args=(model,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, two = sorted(gateway.records(), key=lambda record: record.attempts[0].work.pending_tokens)
    first, second = one.attempts[0], two.attempts[0]
    size = first.work.prompt_tokens
    assert (first.work.was_idle, second.work.was_idle) == (True, False)
    assert (first.work.pending_tokens, second.work.pending_tokens) == (0, size)
    assert (first.work.read_tokens, second.work.read_tokens) == (size, 0)
    for attempt in (first, second):
        assert attempt.work.shared_us > 1.1 * attempt.duration_us
        assert attempt.work.shared_us <= 2 * attempt.duration_us + 2000
    assert first.work.expected_us == int((0.01 + 0.0001 * size + 200 * 0.011) * 1e6)


def test_workers_count_together(tmp_path, sim):
    """A request of another worker makes an endpoint busy, and is work beside which this one's runs."""
    settings = {"ROUTERDASH_WORKERS": "2", "ROUTERDASH_BALANCER": "adaptive"}
    one, two = GatewayProcess(tmp_path, **settings), GatewayProcess(tmp_path, **settings)
    two.worker = 1
    hanging, other = sim.add(fault="hang"), sim.add()
    with contextlib.ExitStack() as stack:
        stack.callback(one.end)
        stack.callback(two.end)
        model = add_equals(one, hanging, other)
        one.start(published=False)
        two.start(published=False)
        until(lambda: one.page.rows == 2)
        slower = Speeds(setup=0.01, read=0.001, write=0.01, share=0.01, completions=256)
        faster = Speeds(setup=0.01, read=0.001, write=0.009, share=0.009, completions=256)
        _, idle = learn(one, model, faster, slower)
        until(lambda: not one.page.behind(one.page.version))
        connection = stack.enter_context(two.connect())
        connection.sendall(two.chat_bytes(model))
        until(lambda: hanging.seen.running == 1)
        assert one.chat(model).status == 200
        assert chosen(one.record()) == (idle, FASTEST)
        assert pending(one, model) > 0


def test_cached_tokens_are_recorded(gateway):
    def script(talk: Talk) -> None:
        while request := talk.request():
            details = b',"prompt_tokens_details":{"cached_tokens":8}' if b'"told"' in request else b""
            usage = b'"usage":{"prompt_tokens":9,"completion_tokens":1%b}' % details
            talk.send(http_response(b'{"model":"m","choices":[],%b}' % usage))

    with upstream(script) as server:
        model = add_equals(gateway, server)
        gateway.chat(model, user="told")
        gateway.chat(model)
    assert [record.cached_tokens for record in gateway.records()] == [8, None]
