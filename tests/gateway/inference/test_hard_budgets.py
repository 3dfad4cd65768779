"""A hard budget holds whatever way a client asks for tokens in."""

import json
from typing import Any

import pytest

from gateway.registry.limits import DAY, TOKENS, Budget
from tests.gateway.inference.helpers import error_of
from tests.gateway.inference.test_budgets import Published
from tests.gateway.limits.helpers import LimitedKey
from tests.gateway.model_names.test_chains import Names

LEFT = 3_000
CHAT, COMPLETIONS, OLLAMA = "/v1/chat/completions", "/v1/completions", "/ollama/api/chat"
PROMPTS = ["a"] * 100


@pytest.fixture
def gateway(make_gateway):
    return make_gateway().start()


@pytest.fixture
def model(gateway, sim):
    Published(gateway).publish(0)
    gateway.limit(budgets=(Budget("b", TOKENS, DAY, LEFT, hard=True),))
    return gateway.add(sim.add(tokens=1))


PASSED: dict[str, tuple[str, dict[str, Any]]] = {
    "two names": (CHAT, {"max_tokens": 10, "max_completion_tokens": 50_000}),
    "the name of Responses": (CHAT, {"max_tokens": 10, "max_output_tokens": 50_000}),
    "the name of llama.cpp": (CHAT, {"max_tokens": 10, "n_predict": 50_000}),
    "no limit at llama.cpp": (CHAT, {"max_tokens": 10, "n_predict": -1}),
    "a long number": (CHAT, {"max_tokens": 10, "max_completion_tokens": 50_000.000000000001}),
    "n as text": (CHAT, {"max_tokens": 10, "n": "1000"}),
    "n as a float": (CHAT, {"max_tokens": 10, "n": 1000.0}),
    "n over 1,000": (CHAT, {"max_tokens": 10, "n": 1001}),
    "n of llama.cpp": (CHAT, {"max_tokens": 10, "n_cmpl": 1000}),
    "best_of": (COMPLETIONS, {"prompt": "a", "max_tokens": 100, "best_of": 100}),
    "prompts": (COMPLETIONS, {"prompt": PROMPTS, "max_tokens": 100}),
    "prompts of tokens": (COMPLETIONS, {"prompt": [[1]] * 100, "max_tokens": 100}),
    "prompts, n and best_of": (COMPLETIONS, {"prompt": PROMPTS[:10], "max_tokens": 100, "n": 2, "best_of": 10}),
    "messages": ("/v1/messages", {"max_tokens": 50_000}),
    "num_predict": (OLLAMA, {"options": {"num_predict": 50_000}}),
    "num_predict beside another name": (OLLAMA, {"max_tokens": 10, "options": {"num_predict": -1}}),
}


@pytest.mark.parametrize("name", PASSED)
def test_no_way_to_ask_passes_a_hard_budget(gateway, model, name):
    path, fields = PASSED[name]
    messages = {} if path == COMPLETIONS else {"messages": [{"role": "user", "content": "a"}]}
    refused = gateway.post(path, {"model": model, **messages, **fields})
    assert refused.status in (400, 429), refused.body
    if path == CHAT and refused.status == 429:
        assert error_of(refused) == (429, "insufficient_quota")


@pytest.mark.parametrize("padding", [150 << 10, 3 << 20])
def test_nor_in_a_big_body(gateway, sim, padding):
    model = gateway.add(sim.add(tokens=1))
    Published(gateway).publish(0)
    gateway.limit(budgets=(Budget("b", TOKENS, DAY, padding + LEFT, hard=True),))
    for fields in ({"n": 1000.0}, {"max_completion_tokens": 50_000}, {"n_predict": 50_000}, {"prompt": PROMPTS}):
        body = json.dumps({"model": model, "max_tokens": 100, "messages": "x" * padding, **fields})
        assert gateway.post(CHAT, body.encode()).status in (400, 429)


def test_what_fits_is_served(gateway, model):
    fits = (
        (CHAT, {"messages": [], "max_tokens": 10, "max_completion_tokens": 100, "n": 2}),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 10}),
        (COMPLETIONS, {"prompt": ["a", "b"], "max_tokens": 10, "best_of": 2}),
        (COMPLETIONS, {"prompt": [1] * 100, "max_tokens": 10}),
    )
    for path, fields in fits:
        assert gateway.post(path, {"model": model, **fields}).status == 200


def test_the_parameters_of_a_model_name_count(gateway, sim):
    model, names = gateway.add(sim.add(tokens=1)), Names(gateway)
    raised, dropped = names.add(model, overrides={"max_tokens": 50_000}), names.add(model, dropped=("max_tokens",))
    Published(gateway).publish(0)
    gateway.limit(budgets=(Budget("b", TOKENS, DAY, LEFT, hard=True),))
    for name in (raised, dropped):
        assert gateway.chat(name, max_tokens=10).status == 429


def test_a_limit_on_tokens_reserves_for_each_response(gateway, sim):
    model, key = gateway.add(sim.add(tokens=1)), LimitedKey(gateway, tokens=1_000_000)
    reserved = []
    for fields in ({}, {"n": 4}, {"best_of": 4}, {"prompt": ["a"] * 4}):
        assert key.post(COMPLETIONS, {"model": model, "prompt": "a", "max_tokens": 10, **fields}).status == 200
        reserved.append(gateway.records()[-1].reserved_tokens)
    assert [tokens - reserved[0] for tokens in reserved[1:]] == [pytest.approx(30, abs=9)] * 3
