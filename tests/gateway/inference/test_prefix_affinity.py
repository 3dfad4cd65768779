"""Prefix affinity in a real gateway: turns of a conversation return to the endpoint that has their beginning."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.base.config import AFFINITY_HEADER, AFFINITY_OFF
from gateway.registry.schema import Lengths, ModelName, Speeds, Step, Target
from gateway.registry.writer import Changes
from gateway.routing.adaptive import KEPT_PREFIX
from tests.gateway.inference.helpers import add_equals
from tests.gateway.process import GatewayProcess


def start(directory: Path, **environment: str) -> GatewayProcess:
    process = GatewayProcess(directory, ROUTERDASH_BALANCER="adaptive", **environment)
    process.start()
    return process


@pytest.fixture(scope="module")
def affine_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = start(tmp_path_factory.mktemp("affine"))
    yield process
    log = process.log()
    process.end()
    assert "Traceback" not in log


@pytest.fixture
def gateway(affine_gateway: GatewayProcess) -> GatewayProcess:
    affine_gateway.records()
    return affine_gateway


def conversation(number: int, turns: int, size: int = 4_000) -> list[dict[str, str]]:
    messages = [{"role": "user", "content": f"{number} " + "x" * size}]
    for turn in range(1, turns):
        messages += [{"role": "assistant", "content": "a" * 100}, {"role": "user", "content": f"{turn}"}]
    return messages


def ask(gateway: GatewayProcess, model: str, messages: list[Any], **headers: str) -> Any:
    body = {"model": model, "max_tokens": 5, "messages": messages}
    assert gateway.post("/v1/chat/completions", body, headers=headers or None).status == 200
    return gateway.record()


def test_turns_return_to_their_endpoint(gateway, sim):
    model = add_equals(gateway, sim.add(), sim.add(), sim.add())
    chosen = []
    for number in range(12):
        first, second, third = (ask(gateway, model, conversation(number, turns)) for turns in (1, 2, 3))
        assert first.endpoint_id == second.endpoint_id == third.endpoint_id
        assert third.attempts[0].reason == KEPT_PREFIX
        assert first.attempts[0].work.prefix_tokens == 0
        for later in (second, third):
            work = later.attempts[0].work
            assert 0.75 * work.prompt_tokens < work.prefix_tokens < work.prompt_tokens
            assert work.prefix_age == 0
        chosen.append(first.endpoint_id)
    assert len(Counter(chosen)) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_responses_tell_the_reason_and_what_was_kept(gateway, sim, stream):
    model = add_equals(gateway, sim.add(), sim.add())
    headers = []
    for turns in (1, 2):
        body = {"model": model, "max_tokens": 5, "stream": stream, "messages": conversation(1, turns)}
        headers.append(gateway.post("/v1/chat/completions", body).headers)
        record = gateway.record()
    (attempt,) = record.attempts
    costs = dict(attempt.costs)
    (other,) = costs.keys() - {attempt.endpoint_id}
    assert headers[1]["x-routerdash-reason"] == f"kept_prefix;cost={costs[attempt.endpoint_id]};next={costs[other]}"
    assert "x-routerdash-affinity" not in headers[0]
    kept = int(headers[1]["x-routerdash-affinity"].removeprefix("kept="))
    assert 0 < kept <= attempt.work.prefix_tokens


def test_turns_have_the_conversation_in_their_records(gateway, sim):
    model = add_equals(gateway, sim.add())
    keys = [ask(gateway, model, conversation(number, turns)).conversation for number in (1, 2) for turns in (1, 2)]
    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert len(bytes.fromhex(keys[0])) == 8
    assert ask(gateway, model, conversation(1, 1, size=10)).conversation is None


@pytest.mark.parametrize("header", ["x-session-id", "X-OpenWebUI-Chat-Id", "session_id"])
def test_a_session_returns_to_its_endpoint(gateway, sim, header):
    model = add_equals(gateway, sim.add(), sim.add(), sim.add())
    first = ask(gateway, model, conversation(1, 1, size=10), **{header: "s"})
    for number in range(2, 8):
        later = ask(gateway, model, conversation(number, 1, size=10), **{header: "s"})
        assert later.conversation == first.conversation
        assert later.attempts[0].work.prefix_tokens > 0
    assert ask(gateway, model, conversation(1, 1, size=10), **{header: "t"}).attempts[0].work.prefix_tokens == 0


def test_short_prompts_of_fast_endpoints_go_anywhere(gateway, sim):
    """Their prefix caches would save less than a millisecond. Those of a long prompt save more."""
    model = add_equals(gateway, sim.add(), sim.add())
    fast = Speeds(0.001, 1e-7, 0.001, 0.0001, completions=256)
    speeds = {(endpoint.id, model, "chat_completions"): fast for endpoint in gateway.endpoints_of(model)}
    gateway.apply(Changes(speeds=dict(speeds)))
    ask(gateway, model, conversation(1, 1))  # after it, the speeds are known
    first, second = (ask(gateway, model, conversation(2, turns)) for turns in (1, 2))
    assert first.conversation == second.conversation is not None
    assert second.attempts[0].work.prefix_tokens == 0
    first, second = (ask(gateway, model, conversation(3, turns, 200_000)) for turns in (1, 2))
    assert first.endpoint_id == second.endpoint_id
    assert second.attempts[0].work.prefix_tokens > 0


@pytest.mark.parametrize("size", [200_000, 3_000_000])
def test_big_bodies_have_affinity_too(gateway, sim, size):
    model = add_equals(gateway, sim.add(), sim.add(), sim.add())
    first, second = (ask(gateway, model, conversation(1, turns, size)) for turns in (1, 2))
    assert first.endpoint_id == second.endpoint_id
    assert first.conversation == second.conversation
    assert second.attempts[0].work.prefix_tokens > 100_000 / 4 * 0.75


def test_another_key_has_no_part_in_it(gateway, sim, monkeypatch):
    model = add_equals(gateway, sim.add(), sim.add())
    ask(gateway, model, conversation(1, 1))
    other = gateway.add_key("sk_" + "AnotherKey0" * 3)
    gateway.publish()
    monkeypatch.setattr(gateway, "key", other)
    record = ask(gateway, model, conversation(1, 2))
    assert record.attempts[0].work.prefix_tokens == 0


def test_a_restart_keeps_it(tmp_path, sim):
    process = start(tmp_path)
    try:
        model = add_equals(process, sim.add(), sim.add(), sim.add())
        first = ask(process, model, conversation(1, 1))
        process.kill()
        process.start()
        second = ask(process, model, conversation(1, 2))
        assert second.endpoint_id == first.endpoint_id
        assert second.attempts[0].work.prefix_tokens > 0
        assert second.conversation == first.conversation
    finally:
        process.end()


@pytest.mark.parametrize(("setting", "has_session"), [(AFFINITY_HEADER, True), (AFFINITY_OFF, False)])
def test_the_setting_restricts_it(tmp_path, sim, setting, has_session):
    process = start(tmp_path, ROUTERDASH_AFFINITY=setting)
    try:
        model = add_equals(process, sim.add(), sim.add())
        records = [ask(process, model, conversation(1, turns)) for turns in (1, 2)]
        assert [record.conversation for record in records] == [None, None]
        assert records[1].attempts[0].work.prefix_tokens == 0
        records = [ask(process, model, conversation(1, turns), session_id="s") for turns in (1, 2)]
        assert (records[1].conversation is not None) is has_session
        assert (records[1].attempts[0].work.prefix_tokens > 0) is has_session
    finally:
        process.end()
    assert (tmp_path / "affinity").exists() is has_session


# Model names


def test_conversations_return_through_a_model_name(gateway, sim):
    """The prefix cache belongs to the model, so that requests for the name and for the model share it."""
    model = add_equals(gateway, sim.add(), sim.add(), sim.add())
    name = ModelName(id="affine", name="affine-name", steps=(Step((Target(model),)),))
    gateway.apply(Changes(model_names={"affine": name}))
    for number in range(100, 106):
        first = ask(gateway, "affine-name", conversation(number, 1))
        second = ask(gateway, "affine-name", conversation(number, 2))
        third = ask(gateway, model, conversation(number, 3))
        assert first.endpoint_id == second.endpoint_id == third.endpoint_id
        assert first.conversation == second.conversation is not None
        assert {record.attempts[0].reason for record in (second, third)} == {KEPT_PREFIX}
    gateway.apply(Changes(model_names={"affine": None}))


def test_a_name_without_known_lengths_has_those_of_its_model(gateway, sim):
    model = add_equals(gateway, sim.add(), sim.add())
    names = {name: ModelName(id=name, name=name, steps=(Step((Target(model),)),)) for name in ("known", "unknown")}
    lengths = {(model, None): Lengths(70.0, 3.0), ("known", None): Lengths(30.0, 3.0)}
    gateway.apply(Changes(model_names=dict(names), lengths=dict(lengths)))
    expected = {}
    for requested in ("known", "unknown", model):
        assert gateway.chat(requested).status == 200
        expected[requested] = gateway.record().attempts[0].work.output_tokens
    assert expected == {"known": 30, "unknown": 70, model: 70}
    gateway.apply(Changes(model_names=dict.fromkeys(names)))
