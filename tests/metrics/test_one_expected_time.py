"""There is one formula of the expected time: whoever replaces it changes everything that is computed with it."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.base.config import ADAPTIVE
from gateway.routing.adaptive import pick, row
from gateway.routing.expected_time import Parameters
from metrics.learning import fit, slowdown
from metrics.learning.past import past_sample
from metrics.learning.samples import UNKNOWN, SpeedSample
from metrics.queries.requests.explanation import DECODE, PREFILL, RESPONSE
from metrics.replay.nodes import residual
from metrics.replay.run import RunSetting, play
from tests.gateway.routing import candidates
from tests.metrics.queries.requests.test_explanation import explained
from tests.metrics.queries.routing.test_adaptive_preview import FAST, SLOW, preview
from tests.metrics.queries.routing.test_routing_preview import endpoint
from tests.metrics.records import A, B
from tests.metrics.replay.traffic import FLEET, LENGTHS, chats

SAMPLES = [
    SpeedSample(number, number, 900_000 + 9000 * number, 100, 0, 20 + number, 1_000_000, 0, 0, 0, UNKNOWN, 0)
    for number in range(40)
]
FITTED = Parameters(0.01, 0.001, 0.02, 0.005)


def choice() -> object:
    endpoints = candidates.Endpoint("fast"), candidates.Endpoint("slow")
    rows = [row(of, speeds, "vllm") for of, speeds in zip(endpoints, (candidates.FAST, candidates.SLOW), strict=True)]
    decision = pick(rows, candidates.CHAT)
    assert decision is not None
    return decision.endpoint_id


def previewed() -> object:
    payload = preview(endpoint(A), endpoint(B), speeds={A: FAST, B: SLOW})
    return payload["decision"]["endpoint_ids"]


def usual(*parts: str, **fields: Any) -> object:
    return [part.usual_ms for part in explained(**fields).parts if part.what in parts]


def replayed() -> object:
    return [one.node for one in play(RunSetting(FLEET, LENGTHS, ADAPTIVE, noise=False), chats(20))]


ALL: dict[str, Callable[[], object]] = {
    "choice": choice,
    "preview": previewed,
    "explanation of a stream": lambda: usual(PREFILL, DECODE),
    "explanation of a response": lambda: usual(RESPONSE, first_token_ms=None),
    "replay": replayed,
    "a replay's request alone": lambda: FLEET[0].behaviours["tiny", "chat_completions"].seconds_alone(100, 10),
    "residual of a replay's fit": lambda: residual(SAMPLES[0], FITTED),
    "residual of learning": lambda: fit.fit(SAMPLES, "vllm"),
    "residual of a slow-down": lambda: slowdown.log_ratio(FITTED, past_sample(SAMPLES[0]), 1.0),
}


@pytest.mark.parametrize("name", ALL)
def test_all_follow_another_formula(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it, slow endpoints are the fast ones."""
    before = ALL[name]()
    prefill, token = Parameters.prefill, Parameters.token
    monkeypatch.setattr(Parameters, "prefill", lambda of, tokens: 0.1 / prefill(of, tokens))
    monkeypatch.setattr(Parameters, "token", lambda of, in_flight: 1e-4 / token(of, in_flight))
    assert ALL[name]() != before
