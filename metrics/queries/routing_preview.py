"""Preview of routing: where a request would go now, and why, from the gateways' data and with their algorithm."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from gateway.base import request_kinds
from gateway.registry import schema
from gateway.registry.schema import EndpointFacts, Model
from gateway.routing import balancer
from gateway.routing.balancer import FULL, OPEN
from metrics.queries import breakers

# Why an endpoint is excluded; the first that applies.
DISABLED, DRAINING, OFFLINE = schema.DISABLED, schema.DRAINING, schema.OFFLINE
INCAPABLE = "incapable"  # its model lacks the capability for this kind of request
IS_FULL = "full"  # all its slots are taken
BREAKER_OPEN = "breaker_open"  # and another endpoint works
LESS_HEALTHY = "less_healthy"  # another endpoint is healthier
EXCLUDED = (DISABLED, DRAINING, OFFLINE, INCAPABLE, IS_FULL, BREAKER_OPEN, LESS_HEALTHY)

WAIT = "wait"  # reason of a decision: every endpoint is full
WAIT_FOR_FASTER = "wait_for_faster"  # adaptive routing: a full endpoint costs less than those that are free
REASONS = (balancer.ONLY, balancer.LEAST, balancer.DRAWN, balancer.TRIAL, WAIT)


class DecisionPayload(TypedDict):
    endpoint_ids: list[str]
    reason: str


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
    capable: bool
    excluded: str | None


class RoutePayload(TypedDict):
    model: str
    kind: str
    decision: DecisionPayload | None
    endpoints: list[CandidatePayload]


@dataclass(frozen=True, slots=True)
class PreviewCandidate:
    """EndpointFacts that has the model, at this moment: the protocol that gateway.routing.balancer picks from."""

    facts: EndpointFacts
    model: Model
    kind: str
    in_flight: int
    due: int  # see LivePage.trial_due
    now: float

    @property
    def id(self) -> str:
        return self.facts.id

    @property
    def slots(self) -> int | None:
        return self.facts.slots

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
        return not capabilities or request_kinds.BY_NAME[self.kind].capability in capabilities

    @property
    def rank(self) -> int:
        rank = balancer.rank(self.facts.status, self.facts.operator_state)
        if not self.capable:
            return balancer.EXCLUDED
        return OPEN if rank < OPEN and self.breaker == breakers.OPEN else rank

    def excluded(self, chosen_from: bool) -> str | None:
        """Return one of EXCLUDED; None if the decision is among endpoints with this one."""
        if chosen_from:
            return None
        if self.facts.operator_state in (DISABLED, DRAINING):
            return self.facts.operator_state
        if self.facts.status == OFFLINE:
            return OFFLINE
        if not self.capable:
            return INCAPABLE
        if self.slots is not None and self.in_flight >= self.slots:
            return IS_FULL
        return BREAKER_OPEN if self.rank == OPEN else LESS_HEALTHY


def candidates(
    routes: Iterable[tuple[EndpointFacts, Model]],
    kind: str,
    in_flight: Mapping[str, int],
    trials: Mapping[str, int],
    now: float,
) -> list[PreviewCandidate]:
    """Return the candidates of the published endpoints, in any state, that have a model."""
    return [
        PreviewCandidate(facts, offered_model, kind, in_flight.get(facts.id, 0), trials.get(facts.id, 0), now)
        for facts, offered_model in routes
    ]


def route_payload(model: str, kind: str, candidates: Sequence[PreviewCandidate]) -> RoutePayload:
    """Return the decision and the candidates it is based on."""
    drawn: list[str] = []

    def all_of(names: Sequence[str]) -> str:
        """Record all endpoints that the gateways would draw from."""
        drawn.extend(names)
        return names[0]

    decision = balancer.pick(candidates, lambda candidate: candidate.in_flight, choose=all_of)
    chosen_from = {endpoint_id for endpoint_id, _ in decision.scores} if decision else set()
    return {
        "model": model,
        "kind": kind,
        "decision": None
        if decision is None
        else {
            "endpoint_ids": [] if decision is FULL else drawn or [decision.endpoint_id],
            "reason": WAIT if decision is FULL else decision.reason,
        },
        "endpoints": [_candidate(candidate, chosen_from=candidate.id in chosen_from) for candidate in candidates],
    }


def _candidate(candidate: PreviewCandidate, *, chosen_from: bool) -> CandidatePayload:
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
        "capable": candidate.capable,
        "excluded": candidate.excluded(chosen_from),
    }
