"""Preview of adaptive routing: where a request would go now and its expected time, with the gateways' algorithm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.base import request_kinds
from gateway.registry.schema import Lengths, Speeds
from gateway.routing import adaptive
from gateway.routing.adaptive import UNKNOWN_OUTPUT
from gateway.routing.balancer import FULL, MAX_RECORDED_SCORES, OPEN, Decision
from gateway.routing.expected_time import Demand, Row, expected_time
from gateway.routing.routes import has_free
from metrics.queries.routing.routing_preview import (
    MEASURING,
    SPILLING,
    WAIT,
    WAIT_FOR_FASTER,
    CostPartsPayload,
    PreviewCandidate,
    RouteEndpointPayload,
    RoutePayload,
    candidate_payload,
)

NOT_MEASURED = Speeds(0.0, 0.0, 0.0, 0.0)
ASSUMED_PROMPT = 1000  # tokens, unless others are given


@dataclass(frozen=True, slots=True)
class PreviewLoad:
    """What was learned and what runs: speeds by endpoint id, and requests that wait in the queue."""

    speeds: Mapping[str, Speeds]
    waiting: int = 0
    spill_after: float = adaptive.NEVER  # seconds: see gateway.routing.adaptive.row
    loads: Mapping[str, float] = field(
        default_factory=dict
    )  # seconds until an endpoint has loaded the model, by its id


def demand_of(kind: str, lengths: Lengths, prompt: int | None, output: int | None) -> Demand:
    """Return what a request is expected to need. Tokens that are not given are assumed or learned."""
    typical = UNKNOWN_OUTPUT if lengths.output is None else lengths.output
    if kind not in request_kinds.GENERATING:
        typical, output = 0.0, None
    return Demand(
        prompt=float(ASSUMED_PROMPT if prompt is None else prompt),
        output=typical if output is None else float(output),
        typical=typical,
    )


def adaptive_payload(
    model: str, kind: str, candidates: Sequence[PreviewCandidate], load: PreviewLoad, demand: Demand
) -> RoutePayload:
    """Return the decision of the adaptive policy, and the candidates with their expected times."""
    capable = [candidate for candidate in candidates if candidate.capable]
    fleet = [load.speeds.get(candidate.id, NOT_MEASURED) for candidate in capable]
    loads = [load.loads.get(candidate.id, 0.0) for candidate in capable]
    rows = adaptive.rows_of(capable, fleet, load.spill_after, loads)
    decisions = [_pick(rows, demand, load.waiting, draw) for draw in _DRAWS]
    decision = decisions[0]
    by_id = {row.id: row for row in rows}
    return {
        "model": model,
        "kind": kind,
        "decision": None
        if decision is None
        else {
            "endpoint_ids": []
            if decision is FULL
            else list(
                dict.fromkeys(drawn.endpoint_id for drawn in decisions if drawn is not None and drawn is not FULL)
            ),
            "reason": _reason(decision, rows),
        },
        "demand": {"prompt_tokens": round(demand.prompt), "output_tokens": round(demand.output)},
        "endpoints": [
            _candidate(candidate, by_id.get(candidate.id), decision, by_id, load, demand) for candidate in candidates
        ],
    }


# Draws that find each of up to MAX_RECORDED_SCORES endpoints that a gateway would draw from.
_DRAWS = tuple((number + 0.5) / MAX_RECORDED_SCORES for number in range(MAX_RECORDED_SCORES))


def _pick(rows: Sequence[Row[PreviewCandidate]], demand: Demand, waiting: int, draw: float) -> Decision | None:
    return adaptive.pick(rows, demand, waiting=waiting, draw=lambda: draw)


def _reason(decision: Decision, rows: Sequence[Row[PreviewCandidate]]) -> str:
    if decision is not FULL:
        return decision.reason
    return WAIT_FOR_FASTER if has_free(rows, None) else WAIT


def _candidate(
    candidate: PreviewCandidate,
    row: Row[PreviewCandidate] | None,
    decision: Decision | None,
    rows: Mapping[str, Row[PreviewCandidate]],
    load: PreviewLoad,
    demand: Demand,
) -> RouteEndpointPayload:
    best = rows[decision.endpoint_id].candidate.rank if decision and decision.endpoint_id else None
    payload = candidate_payload(candidate, chosen_from=_chosen_from(candidate, row, decision, rows), best=best)
    if row is None or candidate.rank > OPEN:
        return payload
    if payload["excluded"] is not None and not candidate.is_full:
        if row.few <= candidate.in_flight:
            payload["excluded"] = MEASURING
        elif best is not None and candidate.rank < best:
            payload["excluded"] = SPILLING
    time = expected_time(row, demand, candidate.in_flight, candidate.pending, load.waiting)
    shown: CostPartsPayload = {
        "own_ms": 1000 * time.own,
        "harm_ms": 1000 * time.delay,
        "cold_ms": 1000 * time.load,
        "wait_ms": 1000 * time.wait,
        "factor": time.factor,
        "weight": time.weight,
    }
    return {
        **payload,
        "cost_ms": 1000 * time.total,
        "cost_parts": shown,
        "is_measured": _is_measured(load, row),
        "kept_tokens": round(demand.kept.get(row.id, 0.0)),
    }


def _is_measured(load: PreviewLoad, row: Row[PreviewCandidate]) -> bool:
    return load.speeds.get(row.id, NOT_MEASURED).write > 0


def _chosen_from(
    candidate: PreviewCandidate,
    row: Row[PreviewCandidate] | None,
    decision: Decision | None,
    rows: Mapping[str, Row[PreviewCandidate]],
) -> bool:
    """Return True if the decision was among endpoints with this one."""
    if row is None or decision is None or candidate.is_full:
        return False
    if decision is FULL:  # a free one was compared with the full one, if it is of the same rank
        return candidate.rank < OPEN and candidate.in_flight < row.few
    chosen = rows[decision.endpoint_id]
    if candidate.rank != chosen.candidate.rank:
        return False
    return candidate.in_flight < row.few or chosen.candidate.in_flight >= chosen.few
