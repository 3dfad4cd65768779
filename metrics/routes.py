"""Where a request would go now, and why: what gateways know (snapshot and live page), decided as they decide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway import balancer, kinds, snapshot
from gateway.balancer import FULL, OPEN
from gateway.snapshot import Endpoint, Model, Snapshot
from metrics import breakers

# Why an endpoint is not in question, the first that is true of it.
DISABLED, DRAINING, OFFLINE = snapshot.DISABLED, snapshot.DRAINING, snapshot.OFFLINE
INCAPABLE = "incapable"  # what it says of the model has not what the kind of request takes
IS_FULL = "full"  # it has as many requests as it takes
BREAKER_OPEN = "breaker_open"  # and another endpoint works
LESS_HEALTHY = "less_healthy"  # another endpoint is
EXCLUDED = (DISABLED, DRAINING, OFFLINE, INCAPABLE, IS_FULL, BREAKER_OPEN, LESS_HEALTHY)

WAIT = "wait"  # a decision's reason: every endpoint is full
REASONS = (balancer.ONLY, balancer.LEAST, balancer.DRAWN, balancer.TRIAL, WAIT)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint that has the model, at this moment. What gateway.balancer asks of one."""

    facts: Endpoint
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
        return self.facts.max_concurrency

    @property
    def trial_due(self) -> float:
        return float(self.due)

    @property
    def breaker(self) -> str:
        return breakers.state(self.due, self.now)

    @property
    def capable(self) -> bool:
        """Where nothing is known of a model, anything may be asked of it."""
        known = self.model.capabilities
        return not known or kinds.BY_NAME[self.kind].capability in known

    @property
    def rank(self) -> int:
        rank = balancer.rank(self.facts.status, self.facts.operator_state)
        if not self.capable:
            return balancer.EXCLUDED
        return OPEN if rank < OPEN and self.breaker == breakers.OPEN else rank

    def excluded(self, in_question: bool) -> str | None:
        if in_question:
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
    known: Snapshot, model: str, kind: str, in_flight: Mapping[str, int], trials: Mapping[str, int], now: float
) -> list[Candidate]:
    """Endpoints that have a model of this name, in any state: as Roster.routes finds them."""
    return [
        Candidate(facts, found, kind, in_flight.get(facts.id, 0), trials.get(facts.id, 0), now)
        for facts, found in _having(known, model)
    ]


def _having(known: Snapshot, model: str) -> list[tuple[Endpoint, Model]]:
    """A name as it is written goes before one that is the same but for capitals."""
    named = [(facts, *snapshot.names(facts.models)) for facts in known.endpoints]
    exact = [(facts, exact[model]) for facts, exact, _ in named if model in exact]
    name = model.casefold()
    return exact or [(facts, folded[name]) for facts, _, folded in named if name in folded]


def told(model: str, kind: str, found: Sequence[Candidate]) -> dict[str, Any]:
    """The decision and what it rests on, as the API tells them."""
    drawn: list[str] = []

    def all_of(names: Sequence[str]) -> str:
        drawn.extend(names)
        return names[0]

    decision = balancer.pick(found, lambda it: it.in_flight, choose=all_of)
    in_question = {endpoint_id for endpoint_id, _ in decision.scores} if decision else set()
    return {
        "model": model,
        "kind": kind,
        "decision": None
        if decision is None
        else {
            "endpoint_ids": [] if decision is FULL else drawn or [decision.endpoint_id],
            "reason": WAIT if decision is FULL else decision.reason,
        },
        "endpoints": [_row(it, in_question=it.id in in_question) for it in found],
    }


def _row(it: Candidate, *, in_question: bool) -> dict[str, Any]:
    return {
        "endpoint_id": it.id,
        "name": it.facts.name,
        "model": it.model.id,
        "status": it.facts.status,
        "operator_state": it.facts.operator_state,
        "breaker": it.breaker,
        "trial_due": breakers.told_due(it.due),
        "in_flight": it.in_flight,
        "max_concurrency": it.slots,
        "capable": it.capable,
        "excluded": it.excluded(in_question),
    }
