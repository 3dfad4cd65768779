"""Preview of routing: where a request would go now, and why, from the gateways' data and with their algorithm."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NotRequired, TypedDict

from endpoints.models import OperatorState, Status
from endpoints.openapi.payload_fields import Choices, Help, TimeText, UuidText
from gateway.base import request_kinds
from gateway.dialects.needs import NO_NEEDS, Needs
from gateway.model_names.step_reasons import SKIPPED
from gateway.providers.table import provider_of
from gateway.registry import schema
from gateway.registry.schema import EndpointFacts, Model
from gateway.routing import adaptive, balancer
from gateway.routing.balancer import FULL, OPEN, TIERS
from gateway.routing.set_aside import AsideNote, unable_kinds
from metrics.queries import breakers
from metrics.queries.breakers import STATES

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
WAIT_FOR_FASTER = "wait_for_faster"  # adaptive routing: a full endpoint takes less time than those that are free
REASONS = (
    balancer.ONLY, balancer.LEAST, balancer.DRAWN, balancer.TRIAL, balancer.SPILLED, WAIT,
    adaptive.FASTEST, adaptive.KEPT_PREFIX, adaptive.PROBE, WAIT_FOR_FASTER,
)  # fmt: skip

NOT_ASIDE = AsideNote(0, None, ())


class RouteDecisionPayload(TypedDict):
    endpoint_ids: Annotated[list[UuidText], Help("Endpoints that may get the request, each with the same probability.")]
    reason: Annotated[str, Choices(REASONS), Help("Reason for the choice; `wait` if every endpoint is full.")]


class RouteDemandPayload(TypedDict):
    """What the request is expected to need."""

    prompt_tokens: int
    output_tokens: int


class CostPartsPayload(TypedDict):
    """Parts of a cost: their sum times `factor` and `weight` is the cost."""

    own_ms: Annotated[float, Help("Expected duration of the request.")]
    harm_ms: Annotated[float, Help("Time by which it would delay the requests that run there.")]
    cold_ms: Annotated[float, Help("Time for loading the model; 0 if it is loaded.")]
    wait_ms: Annotated[float, Help("Wait for a slot, if all are taken.")]
    factor: Annotated[float, Help("More than 1 if it has few responses yet and requests already.")]
    weight: Annotated[float, Help("The cost weight that an administrator has set for the endpoint.")]


class RouteEndpointPayload(TypedDict):
    endpoint_id: UuidText
    name: str
    model: Annotated[str, Help("The name of the model at the endpoint.")]
    status: Annotated[str, Choices(Status.choices)]
    operator_state: Annotated[str, Choices(OperatorState.choices)]
    breaker: Annotated[str, Choices(STATES)]
    trial_due: TimeText | None
    in_flight: int
    max_concurrency: Annotated[int | None, Help("Requests at a time; null means no limit.")]
    tier: Annotated[int, Help("The tier that an administrator has set; 1 is the first.")]
    capable: Annotated[
        bool, Help("Whether the model supports this kind of request; true if its capabilities are unknown.")
    ]
    excluded: Annotated[str | None, Choices(EXCLUDED), Help("Reason why the endpoint is not a candidate now.")]
    cost_ms: NotRequired[
        Annotated[float, Help("Cost of the request there. Only with adaptive routing, if it can be computed.")]
    ]
    cost_parts: NotRequired[Annotated[CostPartsPayload, Help("As `cost_ms`.")]]
    kept_tokens: NotRequired[Annotated[int, Help("As `cost_ms`: prompt tokens that are expected in its prefix cache.")]]
    is_measured: NotRequired[
        Annotated[bool, Help("Whether the cost is computed from its own responses; else it is assumed.")]
    ]


class RouteTargetPayload(TypedDict):
    """A target of a step."""

    model: str
    endpoint_id: Annotated[str | None, Help("The only endpoint that may serve it.")]
    tag: Annotated[str | None, Help("Tag of the endpoints that may serve it.")]
    skipped: Annotated[str | None, Choices(SKIPPED), Help("Why it cannot get this request.")]
    share: Annotated[float, Help("Share of the requests that would go to it now, by the weights: 0 to 1.")]
    endpoint_ids: Annotated[list[UuidText], Help("Endpoints that would get the request; none if all are full.")]


class RouteStepPayload(TypedDict):
    """A step of a model name; several with one number if a target is a name with several steps."""

    step: Annotated[int, Help("From 1.")]
    serves: Annotated[bool, Help("Whether requests would go there.")]
    left: Annotated[str | None, Choices(SKIPPED), Help("Why the request would not stay there.")]
    targets: Annotated[list[RouteTargetPayload], Help("In their order; requests draw one by weight.")]


class RoutePayload(TypedDict):
    model: str
    kind: str
    decision: Annotated[RouteDecisionPayload | None, Help("Null if no endpoint is available.")]
    demand: NotRequired[Annotated[RouteDemandPayload, Help("Only with adaptive routing.")]]
    endpoints: Annotated[list[RouteEndpointPayload], Help("Those of the target with the largest share.")]
    steps: NotRequired[Annotated[list[RouteStepPayload], Help("Of a model name, or of several models.")]]


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
    notes, preview_candidates = aside or {}, []
    for facts, offered_model in routes:
        note = notes.get(facts.id, NOT_ASIDE)
        certain = dict(unable_kinds(provider_of(facts.kind), note.kinds)).get(kind)
        preview_candidates.append(
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
    return preview_candidates


def with_last_resort(
    candidates: Sequence[PreviewCandidate], payload_of: Callable[[Sequence[PreviewCandidate]], RoutePayload]
) -> RoutePayload:
    """Return the route among the candidates that have the kind of the request; if there is none, among those too that
    have lacked it lately.
    """
    payload = payload_of(candidates)
    if payload["decision"] is None and any(candidate.lacking and not candidate.never_tried for candidate in candidates):
        return payload_of([replace(candidate, lacking=candidate.never_tried) for candidate in candidates])
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
    best = next((candidate.rank for candidate in candidates if candidate.id in chosen_from), None)
    return {
        "model": model,
        "kind": kind,
        "decision": None
        if decision is None
        else {
            "endpoint_ids": [] if decision is FULL else drawn or [decision.endpoint_id],
            "reason": WAIT if decision is FULL else decision.reason,
        },
        "endpoints": [
            candidate_payload(candidate, chosen_from=candidate.id in chosen_from, best=best) for candidate in candidates
        ],
    }


def candidate_payload(candidate: PreviewCandidate, *, chosen_from: bool, best: int | None) -> RouteEndpointPayload:
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
