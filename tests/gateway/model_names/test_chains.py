"""Model names in a real gateway: each step is left for the reasons that it allows, and for no other one."""

import contextlib
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec
import pytest

from gateway.model_names import step_reasons
from gateway.registry import schema
from gateway.registry.schema import Model, ModelName, PublishedKey, Step, Target
from gateway.registry.writer import Changes
from tests.gateway.inference.helpers import closes, error_of, event_data, outcomes, refuses
from tests.gateway.process import ALL, KEY, GatewayProcess
from tests.gateway.samples import make_endpoint
from tests.gateway.scripted import Talk, always, http_response, upstream
from tests.http import Response
from tests.router import until

GUEST = "sk_" + "GuestsKey00" * 3  # it may not use external endpoints
TOO_LONG = (
    b'{"error":{"message":"This model\'s maximum context length is 10 tokens.","code":"context_length_exceeded"}}'
)
LONG = "x" * 4000  # some 1,000 tokens
_names = count(1)


class Names:
    """Publishes model names in one gateway."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway

    def add(self, *steps: Step | str, name: str = "", **fields: Any) -> str:
        """Publish a name and return it. A string is a step with this model alone."""
        made = tuple(Step((Target(step),)) if isinstance(step, str) else step for step in steps)
        number = next(_names)
        name = name or f"name-{number}"
        for key in ("defaults", "overrides"):
            values = fields.get(key, {})
            fields[key] = {field: msgspec.Raw(msgspec.msgpack.encode(value)) for field, value in values.items()}
        row = ModelName(id=f"id-{number}", name=name, steps=made, **fields)
        self.gateway.apply(Changes(model_names={row.id: row}))
        return name


@pytest.fixture(scope="module", params=["adaptive", "least_inflight"])
def gateways(tmp_path_factory: pytest.TempPathFactory, request: Any) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("chains"), ROUTERDASH_BALANCER=request.param)
    process.add_key(GUEST)
    own = process.keys[KEY[3:11]]
    process.keys[own.id] = PublishedKey(own.id, own.hash, ALL, external=True)
    process.start()
    yield process
    log = process.log()
    process.end()
    assert "Traceback" not in log


@pytest.fixture
def gateway(gateways: GatewayProcess) -> GatewayProcess:
    gateways.records()
    return gateways


@pytest.fixture
def names(gateway: GatewayProcess) -> Names:
    return Names(gateway)


def served(given: Response) -> tuple[int, str, str]:
    """Return status, served model and step, as the client sees them."""
    return given.status, given.headers.get("x-routerdash-model", ""), given.headers.get("x-routerdash-step", "")


def replies(text: str = "fine"):
    return always(http_response(b'{"model":"own","choices":[{"message":{"content":"%b"}}]}' % text.encode()))


def publish(gateway: GatewayProcess, url: str, *models: Model | str, **facts: Any) -> str:
    made = make_endpoint("", *models, base_url=url, **facts)
    gateway.endpoints[made.id] = made
    gateway.publish()
    return made.id


@pytest.fixture
def good(gateway: GatewayProcess) -> Iterator[str]:
    """A model whose endpoint works."""
    with upstream(replies()) as server:
        yield gateway.add(server)


def left(gateway: GatewayProcess) -> list[tuple[int, str]]:
    return list(gateway.record().left_steps)


# An alias


def test_a_name_leads_to_a_model(gateway, names, good):
    name = names.add(good)
    given = gateway.chat(name)
    assert served(given) == (200, good, "1")
    assert given.json()["model"] == name
    record = gateway.record()
    (attempt,) = record.attempts
    assert (record.model, attempt.served, attempt.step, record.left_steps) == (name, good, 1, ())


def test_a_request_for_a_model_bears_no_step(gateway, names, good):
    names.add(good)
    given = gateway.chat(good)
    assert served(given) == (200, "", "")
    assert gateway.record().attempts[0].step == 0


def test_the_client_may_receive_the_served_model(gateway, names, sim):
    with upstream(replies()) as server:
        model = gateway.add(server)
        name = names.add(model, echo_served=True)
        assert gateway.chat(name).json()["model"] == model
        assert json.loads(server.requests[0].partition(b"\r\n\r\n")[2])["model"] == model
    assert gateway.record().model == name


@pytest.mark.parametrize("echo", [False, True])
def test_the_events_of_a_stream_bear_the_name(gateway, names, sim, echo):
    model = gateway.add(sim.add())
    name = names.add(model, echo_served=echo)
    given = gateway.chat(name, stream=True)
    assert {event["model"] for event in event_data(given)} == {model if echo else name}
    assert served(given) == (200, model, "1")
    assert gateway.record().model == name


def test_a_name_wins_over_the_model_of_this_id_and_may_lead_to_it(gateway, names, good):
    with upstream(refuses(500)) as failing:
        first = gateway.add(failing)
        names.add(first, good, name=first)
        assert served(gateway.chat(first)) == (200, good, "2")
    record = gateway.record()
    assert [(attempt.served, attempt.step) for attempt in record.attempts] == [(None, 1), (good, 2)]


def test_a_pattern_leads_the_requested_model_on(gateway, names, good):
    with upstream(replies()) as server:
        publish(gateway, server.url, "pattern-a")
        names.add("pattern-*", good, name="pattern-*")
        assert served(gateway.chat("pattern-a")) == (200, "pattern-a", "1")
        assert served(gateway.chat("pattern-b")) == (200, good, "2")
    assert [record.left_steps for record in gateway.records()] == [(), ((1, "unavailable"),)]


def test_an_edit_is_in_effect_at_once(gateway, names, good):
    with upstream(replies()) as server:
        other = gateway.add(server)
        name = names.add(good)
        row = ModelName(id="edited", name=name, steps=(Step((Target(other),)),))
        names.gateway.apply(Changes(model_names={f"id-{name.partition('-')[2]}": None, "edited": row}))
        assert served(gateway.chat(name)) == (200, other, "1")
        names.gateway.apply(Changes(model_names={"edited": None}))
    assert error_of(gateway.chat(name)) == (404, "model_not_found")


def test_a_name_of_unknown_models_is_not_found(gateway, names):
    assert error_of(gateway.chat(names.add("no-such-model"))) == (404, "model_not_found")


def test_a_target_may_be_one_endpoint_or_those_with_a_tag(gateway, names):
    with upstream(replies()) as server:
        model = f"tagged-{next(_names)}"
        ids = [publish(gateway, server.url, model, tags=tags) for tags in ((), ("gpu",), ("cpu",))]
        one = names.add(Step((Target(model, endpoint_id=ids[2]),)))
        tagged = names.add(Step((Target(model, tag="gpu"),)))
        for name in (one, tagged) * 3:
            gateway.chat(name)
    assert [record.endpoint_id for record in gateway.records()] == [ids[2], ids[1]] * 3


# Why a step is left


@contextlib.contextmanager
def situation(gateway: GatewayProcess, reason: str) -> Iterator[str]:
    """A model that cannot serve a request for this reason."""
    script = {step_reasons.FAILED: refuses(500), step_reasons.TOO_LONG: always(http_response(TOO_LONG, 400))}
    with upstream(script.get(reason, replies())) as server, contextlib.ExitStack() as stack:
        status = schema.OFFLINE if reason == step_reasons.UNAVAILABLE else schema.ONLINE
        model = f"{reason}-{next(_names)}"
        if reason == step_reasons.FULL:
            released = stack.enter_context(holding(gateway, model))
            yield model
            released.set()
            return
        publish(gateway, server.url, model, status=status)
        yield model


@contextlib.contextmanager
def holding(gateway: GatewayProcess, model: str) -> Iterator[threading.Event]:
    """Publish a model whose only slot is taken until the event is set."""
    released = threading.Event()

    def hold(talk: Talk) -> None:
        while talk.request():
            released.wait(30)
            talk.send(http_response(b'{"model":"m","choices":[]}'))

    with upstream(hold) as server, gateway.connect() as connection:
        publish(gateway, server.url, model, max_concurrency=1)
        connection.sendall(gateway.chat_bytes(model))
        until(lambda: gateway.in_flight(model) == 1)
        try:
            yield released
        finally:
            released.set()
            until(lambda: gateway.in_flight(model) == 0)
            until(gateway.records)


def only(reason: str) -> dict[str, Any]:
    """The conditions of a step that is left for this reason alone."""
    return {
        "if_unavailable": reason == step_reasons.UNAVAILABLE,
        "if_full_secs": 0.0 if reason == step_reasons.FULL else None,
        "if_failed": reason == step_reasons.FAILED,
        "if_too_long": reason == step_reasons.TOO_LONG,
    }


@pytest.mark.parametrize("reason", step_reasons.CONDITIONS)
def test_a_step_is_left_for_its_reason(gateway, names, good, reason):
    with situation(gateway, reason) as model:
        name = names.add(Step((Target(model),), **only(reason)), good)
        assert served(gateway.chat(name)) == (200, good, "2")
        assert left(gateway) == [(1, reason)]


@pytest.mark.parametrize("reason", [step_reasons.UNAVAILABLE, step_reasons.FAILED, step_reasons.TOO_LONG])
def test_a_step_is_left_for_no_other_reason(gateway, names, good, reason):
    others: dict[str, Any] = {
        "if_unavailable": True, "if_full_secs": 0.0, "if_failed": True, "if_too_long": True,
    }  # fmt: skip
    others |= {key: value for key, value in only(reason).items() if value not in (False, None)}
    excluded = {step_reasons.UNAVAILABLE: "if_unavailable", step_reasons.FAILED: "if_failed"}
    others[excluded.get(reason, "if_too_long")] = False
    with situation(gateway, reason) as model:
        given = gateway.chat(names.add(Step((Target(model),), **others), good))
    expected = {step_reasons.UNAVAILABLE: 503, step_reasons.FAILED: 502, step_reasons.TOO_LONG: 400}
    assert given.status == expected[reason]
    assert left(gateway) == []


def test_a_full_step_keeps_a_request_that_may_not_leave_it(gateway, names, good):
    with holding(gateway, model := f"full-{next(_names)}") as released:
        name = names.add(Step((Target(model),)), good)
        with gateway.connect() as connection:
            connection.sendall(gateway.chat_bytes(name))
            until(lambda: gateway.page.waiting == 1)
            released.set()
            assert b"x-routerdash-step: 1" in connection.recv(65536)


def test_a_request_waits_as_long_as_a_full_step_allows(gateway, names, good):
    with holding(gateway, model := f"full-{next(_names)}"):
        name = names.add(Step((Target(model),), if_full_secs=0.2), good)
        assert served(gateway.chat(name)) == (200, good, "2")
        record = gateway.record()
        assert record.queue_us is not None
        assert record.queue_us >= 200_000
        assert record.left_steps == ((1, "full"),)


def test_a_full_step_is_not_left_for_one_that_is_unavailable(gateway, names):
    with holding(gateway, model := f"full-{next(_names)}") as released:
        name = names.add(Step((Target(model),), if_full_secs=0.0), "no-such-model")
        with gateway.connect() as connection:
            connection.sendall(gateway.chat_bytes(name))
            until(lambda: gateway.page.waiting == 1)
            released.set()
            assert b"x-routerdash-step: 1" in connection.recv(65536)


def test_an_open_circuit_breaker_makes_a_step_unavailable(gateway, names, good):
    with upstream(refuses(503)) as failing:
        model = gateway.add(failing)
        name = names.add(Step((Target(model),), if_failed=False), good)
        (endpoint,) = gateway.endpoints_of(model)
        while not gateway.page.breakers.trial_due(endpoint.slot):
            gateway.chat(model)
        gateway.records()
        assert served(gateway.chat(name)) == (200, good, "2")
    assert left(gateway) == [(1, "unavailable")]


def test_a_prompt_that_seems_too_long_is_not_sent(gateway, names, good):
    with upstream(replies()) as server:
        small = f"small-{next(_names)}"
        publish(gateway, server.url, Model(small, max_tokens=100))
        name, strict = names.add(small, good), names.add(Step((Target(small),), if_too_long=False), good)
        assert served(gateway.chat(name, user=LONG)) == (200, good, "2")
        assert served(gateway.chat(name)) == (200, small, "1")
        assert served(gateway.chat(strict, user=LONG)) == (200, small, "1")
        assert served(gateway.chat(names.add(small), user=LONG)) == (200, small, "1")
    assert [record.left_steps for record in gateway.records()] == [((1, "too_long"),), (), (), ()]


def test_a_too_long_prompt_is_no_fault_of_the_endpoint(gateway, names, good):
    with upstream(always(http_response(TOO_LONG, 400))) as server:
        small = gateway.add(server)
        name = names.add(small, good)
        for _ in range(8):
            assert gateway.chat(name).status == 200
        assert len(server.requests) == 8  # its circuit breaker stays closed
    assert {tuple(outcomes(record)) for record in gateway.records()} == {(("refused", 400), ("ok", 200))}


def test_content_that_a_filter_blocks_leaves_no_step(gateway, names, good):
    blocked = b'{"error":{"message":"blocked","code":"content_filter"}}'
    with upstream(always(http_response(blocked, 400))) as server:
        filtering = gateway.add(server)
        given = gateway.chat(names.add(filtering, good))
    assert error_of(given) == (400, "content_filter")
    record = gateway.record()
    assert (record.outcome, record.left_steps, len(record.attempts)) == ("refused", (), 1)


def test_the_client_receives_the_error_if_every_model_is_too_small(gateway, names):
    with upstream(always(http_response(TOO_LONG, 400))) as server:
        given = gateway.chat(names.add(gateway.add(server), gateway.add(server)))
    assert (given.status, given.json()) == (400, json.loads(TOO_LONG))
    assert gateway.record().outcome == "refused"


def test_a_model_that_cannot_do_the_kind_is_skipped(gateway, names, good):
    with upstream(replies()) as server:
        embedding = f"embedding-{next(_names)}"
        publish(gateway, server.url, Model(embedding, capabilities=("embeddings",)))
        assert served(gateway.chat(names.add(embedding, good))) == (200, good, "2")
        assert left(gateway) == [(1, "not_capable")]
        assert error_of(gateway.chat(names.add(embedding))) == (400, "model_not_capable")


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}}
TOOL = {"type": "function", "function": {"name": "f"}}
NEEDS = [
    ("tools", {"tools": [TOOL]}, "no_tools", "cannot call tools,"),
    ("vision", {"messages": [{"role": "user", "content": [PICTURE]}]}, "no_vision", "cannot read images,"),
]


@pytest.mark.parametrize(("lack", "fields", "reason", "text"), NEEDS)
def test_a_model_that_lacks_what_the_request_needs_is_skipped(gateway, names, good, lack, fields, reason, text):
    with upstream(replies()) as server:
        poor = f"poor-{next(_names)}"
        publish(gateway, server.url, Model(poor, lacks=(lack,)))
        name = names.add(poor, good)
        assert served(gateway.chat(name, **fields)) == (200, good, "2")
        assert left(gateway) == [(1, reason)]
        assert served(gateway.chat(name)) == (200, poor, "1")  # it needs nothing
        for only in (names.add(poor), poor):
            refused = gateway.chat(only, **fields)
            assert error_of(refused) == (400, "model_not_capable")
            assert text in refused.json()["error"]["message"]


# Attempts


def test_there_are_five_attempts_over_all_steps(gateway, names):
    with upstream(refuses(500)) as failing:
        models = [gateway.add(failing) for _ in range(7)]
        assert gateway.chat(names.add(*models)).status == 502
    assert [attempt.step for attempt in gateway.record().attempts] == [1, 2, 3, 4, 5]


def test_all_endpoints_of_a_step_come_before_the_next_step(gateway, names, good):
    with upstream(refuses(500)) as failing:
        model = gateway.add(failing, failing)
        assert served(gateway.chat(names.add(model, good))) == (200, good, "2")
    assert [attempt.step for attempt in gateway.record().attempts] == [1, 1, 2]


def test_another_model_at_the_same_endpoint_may_be_tried(gateway, names):
    def script(talk: Talk) -> None:
        while request := talk.request():
            big = b'"model":"big' in request
            talk.send(http_response(b"{}", 500) if big else http_response(b'{"model":"x","choices":[]}'))

    with upstream(script) as server:
        number = next(_names)
        publish(gateway, server.url, f"big-{number}", f"small-{number}")
        assert served(gateway.chat(names.add(f"big-{number}", f"small-{number}"))) == (200, f"small-{number}", "2")


def test_an_endpoint_that_cannot_be_reached_is_tried_once(gateway, names, good):
    with upstream(replies()) as server:
        closed = server.url
    number = next(_names)
    publish(gateway, closed, f"big-{number}", f"small-{number}")
    assert served(gateway.chat(names.add(f"big-{number}", f"small-{number}", good))) == (200, good, "3")
    assert len(gateway.record().attempts) == 2


def test_no_step_is_left_after_the_first_byte(gateway, names, good, sim):
    model = gateway.add(sim.add(fault="die"))
    given = gateway.chat(names.add(model, good), stream=True)
    assert served(given) == (200, model, "1")
    record = gateway.record()
    assert (record.outcome, [attempt.step for attempt in record.attempts]) == ("truncated", [1])


def test_a_request_that_breaks_two_connections_ends(gateway, names, good):
    with upstream(closes) as server:
        models = [gateway.add(server) for _ in range(3)]
        assert gateway.chat(names.add(*models, good)).status == 502
    assert len(gateway.record().attempts) == 2


# Weights


def test_targets_get_their_shares(gateway, names):
    with upstream(replies()) as server:
        heavy, light = gateway.add(server), gateway.add(server)
        name = names.add(Step((Target(heavy, 3), Target(light, 1))))
        shares = Counter(served(gateway.chat(name))[1] for _ in range(200))
    assert abs(shares[heavy] - 150) < 4 * (200 * 0.75 * 0.25) ** 0.5
    gateway.records()


def test_the_other_targets_are_tried_before_the_step_is_left(gateway, names, good):
    with upstream(refuses(500)) as failing:
        model = gateway.add(failing)
        name = names.add(Step((Target(model, 1), Target(good, 0)), if_failed=False))
        assert served(gateway.chat(name)) == (200, good, "1")
    assert [attempt.step for attempt in gateway.record().attempts] == [1, 1]


# Embeddings


def test_embeddings_never_leave_to_another_model(gateway, names):
    with upstream(refuses(500)) as failing, upstream(replies()) as server:
        first, other = gateway.add(failing), gateway.add(server)
        apart, equal = names.add(first, other), names.add(first, other, same_vectors=True)
        assert gateway.post("/v1/embeddings", {"model": apart, "input": "x"}).status == 502
        given = gateway.post("/v1/embeddings", {"model": equal, "input": "x"})
        assert served(given) == (200, other, "2")
        weighted = names.add(Step((Target(other, 1), Target(first, 1000))))
        for _ in range(5):
            assert served(gateway.post("/v1/embeddings", {"model": weighted, "input": "x"})) == (200, other, "1")


def test_embeddings_may_go_to_another_endpoint_with_the_model(gateway, names):
    with upstream(refuses(500)) as failing, upstream(replies()) as server:
        model = f"embedding-{next(_names)}"
        first = publish(gateway, failing.url, Model("own", model))
        second = publish(gateway, server.url, Model("theirs", model))
        name = names.add(Step((Target(model, endpoint_id=first),)), Step((Target(model, endpoint_id=second),)))
        assert served(gateway.post("/v1/embeddings", {"model": name, "input": "x"})) == (200, "theirs", "2")


# Parameters


@pytest.mark.parametrize("size", [0, 200_000, 3_000_000])
def test_parameters_are_set_and_dropped(gateway, names, size):
    with upstream(replies()) as server:
        name = names.add(
            gateway.add(server),
            defaults={"top_p": 0.5, "seed": 7},
            overrides={"temperature": 0, "stop": ["a"], "model": "not this"},
            dropped=("logit_bias", "user"),
        )
        body = {
            "user": "me",
            "temperature": 1,
            "seed": 1,
            "logit_bias": {"1": 2},
            "messages": "x" * size,
            "n": 1,
        }
        given = gateway.post("/v1/chat/completions", {"model": name, **body})
        assert given.json()["model"] == name
        sent = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])
    assert {**sent, "messages": "", "model": ""} == {
        "temperature": 0, "seed": 1, "messages": "", "n": 1, "top_p": 0.5, "stop": ["a"], "model": "",
    }  # fmt: skip
    assert sent["model"].startswith("model-")
    assert len(sent["messages"]) == size


# Several models in a request


@pytest.mark.parametrize("size", [0, 200_000, 3_000_000])
def test_a_request_may_name_several_models(gateway, good, size):
    with upstream(refuses(500)) as failing, upstream(replies()) as server:
        first, last = gateway.add(failing), gateway.add(server)
        given = gateway.chat(first, models=["no-such-model", last, good], messages="x" * size)
        assert served(given) == (200, last, "3")
        assert given.json()["model"] == first
        sent = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])
    assert (sent["model"], "models" in sent, len(sent["messages"])) == (last, False, size)
    assert left(gateway) == [(1, "failed"), (2, "unavailable")]


def test_the_list_may_stand_alone(gateway, good):
    given = gateway.post("/v1/chat/completions", {"models": [good], "messages": []})
    assert (served(given), given.json()["model"]) == ((200, good, "1"), good)


@pytest.mark.parametrize("models", [[], "m", ["a"] * 6, [1], [""], ["x" * 300], {}])
def test_a_bad_list_is_refused(gateway, good, models):
    for body in ({"model": good, "models": models}, {"models": models}):
        given = gateway.post("/v1/chat/completions", {**body, "messages": []})
        assert error_of(given) == (400, "invalid_request")


# External endpoints


def ask_as(gateway: GatewayProcess, key: str, model: str, **fields: Any) -> Response:
    return gateway.post("/v1/chat/completions", {"model": model, "messages": [], **fields}, key=key)


@pytest.fixture
def cloud(gateway: GatewayProcess) -> Iterator[str]:
    """A model that only an external endpoint has."""
    with upstream(replies("from the cloud")) as server:
        model = f"cloud-{next(_names)}"
        publish(gateway, server.url, model, kind="openai", external=True)
        yield model
        heads = [request.partition(b"\r\n")[0] for request in server.requests]
        assert len(heads) == sum(record.endpoint_id is not None for record in gateway.records())


def test_only_a_key_that_may_reaches_an_external_endpoint(gateway, names, cloud, good):
    allowed, forbidden = names.add(cloud, external=True), names.add(cloud)
    for model, fields in (
        (cloud, {}), (allowed, {}), (forbidden, {}), (f"openai:{cloud}", {}), (cloud, {"models": [cloud, allowed]}),
    ):  # fmt: skip
        assert error_of(ask_as(gateway, GUEST, model, **fields)) == (403, "external_not_allowed")
    assert error_of(ask_as(gateway, KEY, forbidden)) == (403, "external_not_allowed")
    assert gateway.records() == [] or all(record.outcome == "rejected" for record in gateway.records())
    for model in (cloud, allowed, f"openai:{cloud}"):
        assert ask_as(gateway, KEY, model).status == 200


def test_a_step_with_external_endpoints_alone_is_skipped(gateway, names, cloud, good):
    name = names.add(cloud, good, external=True)
    assert served(ask_as(gateway, GUEST, name)) == (200, good, "2")
    assert left(gateway) == [(1, "external")]


def test_failover_never_leads_to_an_external_endpoint(gateway, cloud):
    with upstream(refuses(500)) as failing:
        publish(gateway, failing.url, cloud)
        for _ in range(3):
            assert ask_as(gateway, GUEST, cloud).status in (502, 503)
    for record in gateway.records():
        assert all(gateway.endpoints[attempt.endpoint_id].external is False for attempt in record.attempts)


@pytest.mark.parametrize("by_name", [False, True])
def test_a_key_that_lost_the_permission_waits_for_no_external_endpoint(gateway, names, good, by_name):
    key = "sk_" + "LosingKey00" * 3
    published = PublishedKey(key[3:11], hashlib.sha256(key.encode()).hexdigest(), ALL, external=True)
    gateway.keys[published.id] = published
    with holding(gateway, model := f"full-{next(_names)}"):
        (endpoint,) = gateway.endpoints_of(model)
        gateway.endpoints[endpoint.id] = msgspec.structs.replace(endpoint, external=True)
        gateway.publish()
        with gateway.connect() as connection:
            requested = names.add(model, external=True) if by_name else model
            body = json.dumps({"model": requested, "messages": []}).encode()
            connection.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            until(lambda: gateway.page.waiting == 1)
            gateway.keys[published.id] = msgspec.structs.replace(published, external=False)
            gateway.publish()
            answer = connection.recv(65536)
            assert b" 403 " in answer
            assert b"external_not_allowed" in answer
