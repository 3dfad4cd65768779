"""Restrictions of API keys in a real gateway: what a key may not use is refused, skipped and not listed."""

import contextlib
import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec
import pytest

from gateway.base.queue_class import BULK
from gateway.registry.key_rules import KeyRules
from tests.gateway.inference.helpers import error_of, refuses
from tests.gateway.model_names.test_chains import Names, holding, publish, replies, served
from tests.gateway.process import KEY, GatewayProcess, read_to_end
from tests.gateway.scripted import upstream
from tests.http import Response
from tests.router import until

GUEST = "sk_" + "GuestsKey11" * 3
_models = count(1)


@pytest.fixture(scope="module", params=["adaptive", "least_inflight"])
def gateways(tmp_path_factory: pytest.TempPathFactory, request: Any) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("rules"), ROUTERDASH_BALANCER=request.param)
    process.add_key(GUEST)
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


@pytest.fixture
def model(gateway: GatewayProcess) -> Iterator[str]:
    with upstream(replies()) as server:
        yield gateway.add(server)


@pytest.fixture
def other(gateway: GatewayProcess) -> Iterator[str]:
    with upstream(replies()) as server:
        yield gateway.add(server)


def restrict(gateway: GatewayProcess, rules: KeyRules | None = None, **fields: Any) -> None:
    """Change the guest's key."""
    key = gateway.keys[GUEST[3:11]]
    gateway.keys[key.id] = msgspec.structs.replace(key, rules=rules, **fields)
    gateway.publish()
    gateway.wait_until_followed()


def ask(gateway: GatewayProcess, model: str, **fields: Any) -> Response:
    return gateway.post("/v1/chat/completions", {"model": model, "messages": [], **fields}, key=GUEST)


def listed(gateway: GatewayProcess, path: str = "/v1/models", *, key: str = GUEST) -> set[str]:
    listing = json.loads(gateway.get(path, key=key).body)
    return {entry["id"] if "id" in entry else entry["model"] for entry in listing.get("data", listing.get("models"))}


def test_a_model_that_is_not_allowed_is_refused_and_consumes_nothing(gateway, model, other):
    restrict(gateway, KeyRules(models=(model,)))
    assert ask(gateway, model).status == 200
    for refused in (other, "no-such-model"):  # one cannot tell which models exist
        assert error_of(ask(gateway, refused)) == (403, "model_not_allowed")
    assert [record.outcome for record in gateway.records()] == ["ok", "rejected", "rejected"]


def test_the_lists_have_what_the_key_may_use(gateway, names, model, other):
    restrict(gateway, KeyRules(models=(model, name := names.add(other))))
    hidden = names.add(model)
    assert listed(gateway) == {model, name}
    assert {tagged.removesuffix(":latest") for tagged in listed(gateway, "/ollama/api/tags")} == {model, name}
    assert listed(gateway, key=KEY) >= {model, other, name, hidden}
    assert gateway.get(f"/v1/models/{model}", key=GUEST).status == 200
    for unknown in (other, hidden):
        assert gateway.get(f"/v1/models/{unknown}", key=GUEST).status == 404
    restrict(gateway, KeyRules(models=(other,)))
    assert listed(gateway) == {other}


def test_a_name_allows_its_targets_through_that_name_only(gateway, names, model):
    restrict(gateway, KeyRules(models=(name := names.add(model),)))
    assert served(ask(gateway, name)) == (200, model, "1")
    assert error_of(ask(gateway, model)) == (403, "model_not_allowed")
    assert error_of(ask(gateway, names.add(model))) == (403, "model_not_allowed")


def test_a_forbidden_model_wins_over_every_name(gateway, names, model, other):
    restrict(gateway, KeyRules(forbidden_models=(model,)))
    assert error_of(ask(gateway, names.add(model))) == (403, "model_not_allowed")
    assert error_of(ask(gateway, names.add(names.add(model)))) == (403, "model_not_allowed")
    gateway.records()
    assert served(ask(gateway, names.add(model, other))) == (200, other, "2")
    assert list(gateway.record().left_steps) == [(1, "not_allowed")]


def test_of_several_models_those_that_are_not_allowed_are_skipped(gateway, model, other):
    restrict(gateway, KeyRules(models=(other,)))
    assert served(ask(gateway, model, models=[model, other]))[:2] == (200, other)
    assert error_of(ask(gateway, model, models=[model])) == (403, "model_not_allowed")


def test_a_key_reaches_its_endpoints_alone(gateway):
    model = f"shared-{next(_models)}"
    with upstream(replies()) as mine, upstream(replies()) as others:
        own = publish(gateway, mine.url, model, tags=("rack a",))
        publish(gateway, others.url, model)
        for rules in (KeyRules(endpoints=(own,)), KeyRules(tags=("Rack A",))):
            restrict(gateway, rules)
            for _ in range(5):
                assert ask(gateway, model).status == 200
        assert [record.endpoint_id for record in gateway.records()] == [own] * 10
        restrict(gateway, KeyRules(tags=("rack b",)))
        assert error_of(ask(gateway, model)) == (403, "model_not_allowed")


def test_failover_stays_at_the_endpoints_of_the_key(gateway):
    model = f"shared-{next(_models)}"
    with upstream(refuses(500)) as failing, upstream(replies()) as others:
        own = publish(gateway, failing.url, model)
        publish(gateway, others.url, model)
        restrict(gateway, KeyRules(endpoints=(own,)))
        assert ask(gateway, model).status >= 500
        assert others.requests == []


def test_other_kinds_of_requests_are_refused(gateway, model):
    restrict(gateway, KeyRules(kinds=("embeddings",)))
    assert error_of(ask(gateway, model)) == (403, "kind_not_allowed")


def test_other_networks_are_refused(gateway, model):
    restrict(gateway, KeyRules(networks=("192.0.2.0/24",)))
    assert error_of(ask(gateway, model)) == (403, "network_not_allowed")
    assert gateway.get("/v1/models", key=GUEST).status == 403
    restrict(gateway, KeyRules(networks=("127.0.0.0/8", "::1/128")))
    assert ask(gateway, model).status == 200


def test_a_disabled_key_is_refused_until_it_is_enabled(gateway, model):
    restrict(gateway, enabled=False)
    assert error_of(ask(gateway, model)) == (401, "key_disabled")
    restrict(gateway, enabled=True)
    assert ask(gateway, model).status == 200


def test_requests_of_a_bulk_key_are_bulk_requests(gateway, model):
    restrict(gateway, bulk=True)
    assert ask(gateway, model).status == 200
    assert gateway.record().queue_class == BULK
    restrict(gateway, bulk=False)


@contextlib.contextmanager
def waiting(gateway: GatewayProcess, model: str) -> Iterator[Any]:
    """A request of the guest that waits for a slot."""
    body = json.dumps({"model": model, "messages": []}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {GUEST}\r\n"
        f"Connection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    before = gateway.page.waiting
    with gateway.connect() as connection:
        connection.sendall(head.encode() + body)
        until(lambda: gateway.page.waiting == before + 1)
        yield connection


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"rules": KeyRules(forbidden_models=("*",))}, b"model_not_allowed"),
        ({"enabled": False}, b"key_disabled"),
    ],
)
def test_a_waiting_request_follows_a_change_of_its_key(gateway, change, code):
    restrict(gateway, enabled=True)
    with holding(gateway, model := f"full-{next(_models)}"), waiting(gateway, model) as connection:
        restrict(gateway, **change)
        assert code in read_to_end(connection)
    restrict(gateway, enabled=True)


def test_a_request_does_not_wait_behind_one_that_may_use_fewer_endpoints(gateway):
    with holding(gateway, model := f"two-{next(_models)}"), upstream(replies()) as free:
        (full,) = gateway.endpoints_of(model)
        restrict(gateway, KeyRules(endpoints=(full.id,)))
        with waiting(gateway, model):
            publish(gateway, free.url, model)
            assert gateway.post("/v1/chat/completions", {"model": model, "messages": []}, key=KEY).status == 200
