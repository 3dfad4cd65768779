"""Preview of routing: where a request would go now, and why, from the gateways' data and with their algorithm."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NotRequired, TypedDict

from gateway.base import request_kinds
from gateway.dialects.needs import NO_NEEDS, Needs
from gateway.providers.table import provider_of
from gateway.registry import schema
from gateway.registry.schema import EndpointFacts, Model
from gateway.routing import adaptive, balancer
from gateway.routing.balancer import FULL, OPEN, TIERS
from gateway.routing.set_aside import AsideNote, unable_kinds
from metrics.queries import breakers

# Why an endpoint is excluded; the first that applies.
DISABLED, DRAINING, OFFLINE = schema.DISABLED, schema.DRAINING, schema.OFFLINE
PAUSED = "paused"  # its provider gets no requests for a while
INCAPABLE = "incapable"  # its model lacks the capability for this kind of request
LACKING = "lacking"  # its provider does not offer this kind of request, or it has lacked its path lately
IS_FULL = "full"  # all its slots are taken
BREAKER_OPEN = "breaker_open"  # and another endpoint works
LESS_HEALTHY = "less_healthy"  # another endpoint is healthier
WORSE_TIER = "worse_tier"  # an endpoint of a better tier gets the request
SPILLING = "spilling"  # adaptive routing: its expected wait is too long, and an endpoint of a worse tier is free
MEASURING = "measuring"  # adaptive routing: it has few responses yet, and gets no more requests at a time
EXCLUDED = (
    DISABLED, DRAINING, OFFLINE, PAUSED, INCAPABLE, LACKING, IS_FULL, SPILLING, BREAKER_OPEN, LESS_HEALTHY,
    WORSE_TIER, MEASURING,
)  # fmt: skip

WAIT = "wait"  # reason of a decision: every endpoint is full
WAIT_FOR_FASTER = "wait_for_faster"  # adaptive routing: a full endpoint costs less than those that are free
REASONS = (
    balancer.ONLY, balancer.LEAST, balancer.DRAWN, balancer.TRIAL, balancer.SPILLED, WAIT,
    adaptive.FASTEST, adaptive.KEPT_PREFIX, adaptive.PROBE, WAIT_FOR_FASTER,
)  # fmt: skip

NOT_ASIDE = AsideNote(0, None, ())


class DecisionPayload(TypedDict):
    endpoint_ids: list[str]
    reason: str


class DemandPayload(TypedDict):
    prompt_tokens: int
    output_tokens: int


class CostPartsPayload(TypedDict):
    own_ms: float
    harm_ms: float
    cold_ms: float
    wait_ms: float
    factor: float
    weight: float


class CandidatePayload(TypedDict):
    endpoint_id: str
    name: str
    model: str
    status: str
    operator_state: str
    breaker: str
    trial_due: str | None
    in_flight: int
    max_concurrency: int | None
    tier: int
    capable: bool
    excluded: str | None
    # Adaptive routing only, and only if it could get requests.
    cost_ms: NotRequired[float]
    cost_parts: NotRequired[CostPartsPayload]
    is_measured: NotRequired[bool]
    kept_tokens: NotRequired[int]


class RouteTargetPayload(TypedDict):
    model: str
    endpoint_id: str | None
    tag: str | None
    skipped: str | None
    share: float  # of the requests, now
    endpoint_ids: list[str]


class RouteStepPayload(TypedDict):
    step: int
    serves: bool
    left: str | None
    targets: list[RouteTargetPayload]


class RoutePayload(TypedDict):
    model: str
    kind: str
    decision: DecisionPayload | None
    demand: NotRequired[DemandPayload]  # adaptive routing only
    endpoints: list[CandidatePayload]
    steps: NotRequired[list[RouteStepPayload]]  # of a model name, or of several models


@dataclass(frozen=True, slots=True)
class PreviewCandidate:
    """EndpointFacts that has the model, at this moment: the protocol that gateway.routing.balancer picks from."""

    facts: EndpointFacts
    model: Model
    kind: str
    in_flight: int
    due: int  # see BreakerCells.trial_due
    now: float
    pending: int = 0  # prompt tokens whose responses have not begun
    recent_prompt: float = 0.0  # only gateways know it
    paused: bool = False
    lacking: bool = False  # it cannot serve this kind of request, not even by a translation
    needs: Needs = NO_NEEDS  # of the request
    never_tried: bool = False  # that is certain; else it is asked if no other endpoint can serve the request

    @property
    def id(self) -> str:
        return self.facts.id

    @property
    def tier(self) -> int:
        return self.facts.tier

    @property
    def slots(self) -> int | None:
        return self.facts.slots

    @property
    def is_full(self) -> bool:
        return self.slots is not None and self.in_flight >= self.slots

    @property
    def trial_due(self) -> float:
        return float(self.due)

    @property
    def breaker(self) -> str:
        return breakers.state(self.due, self.now)

    @property
    def capable(self) -> bool:
        """A model of unknown capabilities is capable of everything."""
        capabilities = self.model.capabilities
        is_able = not capabilities or request_kinds.BY_NAME[self.kind].capability in capabilities
        return is_able and self.needs.isdisjoint(self.model.lacks)

    @property
    def rank(self) -> int:
        rank = balancer.rank(self.facts.status, self.facts.operator_state, self.facts.tier)
        if self.paused or self.lacking or not self.capable:
            return balancer.EXCLUDED
        return OPEN if rank < OPEN and self.breaker == breakers.OPEN else rank

    def excluded(self, chosen_from: bool, best: int | None) -> str | None:
        """Return one of EXCLUDED; None if the decision is among endpoints with this one.

        `best`: the rank of the chosen endpoint; None if there is none.
        """
        if chosen_from:
            return None
        if self.facts.operator_state in (DISABLED, DRAINING):
            return self.facts.operator_state
        if self.facts.status == OFFLINE:
            return OFFLINE
        if self.paused:
            return PAUSED
        if not self.capable:
            return INCAPABLE
        if self.lacking:
            return LACKING
        if self.is_full:
            return IS_FULL
        if self.rank == OPEN:
            return BREAKER_OPEN
        return WORSE_TIER if best is not None and self.rank // TIERS == best // TIERS else LESS_HEALTHY


def candidates(
    routes: Iterable[tuple[EndpointFacts, Model]],
    kind: str,
    in_flight: Mapping[str, int],
    trials: Mapping[str, int],
    now: float,
    pending: Mapping[str, int] | None = None,
    aside: Mapping[str, AsideNote] | None = None,
) -> list[PreviewCandidate]:
    """Return the candidates of the published endpoints, in any state, that have a model."""
    notes, found = aside or {}, []
    for facts, offered_model in routes:
        note = notes.get(facts.id, NOT_ASIDE)
        certain = dict(unable_kinds(provider_of(facts.kind), note.kinds)).get(kind)
        found.append(
            PreviewCandidate(
                facts,
                offered_model,
                kind,
                in_flight.get(facts.id, 0),
                trials.get(facts.id, 0),
                now,
                pending.get(facts.id, 0) if pending else 0,
                paused=note.paused_until > now,
                lacking=certain is not None,
                never_tried=certain is True,
            )
        )
    return found


def with_last_resort(
    candidates: Sequence[PreviewCandidate], payload_of: Callable[[Sequence[PreviewCandidate]], RoutePayload]
) -> RoutePayload:
    """Return the route among the candidates that have the kind of the request; if there is none, among those too that
    have lacked it lately.
    """
    payload = payload_of(candidates)
    if payload["decision"] is None and any(it.lacking and not it.never_tried for it in candidates):
        return payload_of([replace(it, lacking=it.never_tried) for it in candidates])
    return payload


def route_payload(model: str, kind: str, candidates: Sequence[PreviewCandidate]) -> RoutePayload:
    """Return the decision and the candidates it is based on."""
    drawn: list[str] = []

    def all_of(names: Sequence[str]) -> str:
        """Record all endpoints that the gateways would draw from."""
        drawn.extend(names)
        return names[0]

    decision = balancer.pick(candidates, lambda candidate: candidate.in_flight, choose=all_of)
    chosen_from = {endpoint_id for endpoint_id, _ in decision.scores} if decision else set()
    best = next((it.rank for it in candidates if it.id in chosen_from), None)
    return {
        "model": model,
        "kind": kind,
        "decision": None
        if decision is None
        else {
            "endpoint_ids": [] if decision is FULL else drawn or [decision.endpoint_id],
            "reason": WAIT if decision is FULL else decision.reason,
        },
        "endpoints": [candidate_payload(it, chosen_from=it.id in chosen_from, best=best) for it in candidates],
    }


def candidate_payload(candidate: PreviewCandidate, *, chosen_from: bool, best: int | None) -> CandidatePayload:
    """Return the facts of a candidate. `chosen_from`: the decision was among endpoints with this one.

    `best`: the rank of the chosen endpoint; None if there is none.
    """
    return {
        "endpoint_id": candidate.id,
        "name": candidate.facts.name,
        "model": candidate.model.id,
        "status": candidate.facts.status,
        "operator_state": candidate.facts.operator_state,
        "breaker": candidate.breaker,
        "trial_due": breakers.trial_time(candidate.due),
        "in_flight": candidate.in_flight,
        "max_concurrency": candidate.slots,
        "tier": candidate.tier,
        "capable": candidate.capable,
        "excluded": candidate.excluded(chosen_from, best),
    }
