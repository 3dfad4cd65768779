"""Comparison of the targets of one step of a model name, from the history: a canary beside what it may replace.

Intervals have a confidence of 95 %. Shares: Wilson's score interval; the difference of two shares: Newcombe's hybrid
score interval (Newcombe, Statistics in Medicine 17, 1998, methods 3 and 10). Percentiles: order statistics, whose ranks
follow from the binomial distribution by its normal approximation (Conover, Practical Nonparametric Statistics, 3.2).
Two percentiles count as different only if their intervals do not overlap, which is stricter than 95 %.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, TypedDict

from django.utils import timezone

from endpoints.model_names.name_cache import NameEntry
from endpoints.openapi.payload_fields import Choices, Help, UuidText
from endpoints.registry import registry
from gateway.ipc import record
from gateway.model_names.plan import Leaf, leaves_of
from gateway.registry.schema import Target
from metrics.counting.stored_attempt import StoredAttempt, stored_attempts
from metrics.model_names.states import NameView
from metrics.models import RequestHistory
from metrics.queries.figures import Moment
from metrics.queries.model_catalogue import Catalogue

SPANS = {"1h": timedelta(hours=1), "6h": timedelta(hours=6), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
DEFAULT_SPAN = "24h"
MAX_REQUESTS = 20_000  # the newest of the span
MIN_REQUESTS = 30  # of each target, below which nothing is called different
Z = 1.959963984540054  # of the normal distribution, for 95 %
FIGURES = ("error_share", "duration_p50", "duration_p95", "first_token_p50", "first_token_p95", "tokens_per_second")
COUNTED = frozenset((record.OK, record.FAILED, record.TRUNCATED))


# A value with its 95 % interval; bounds are None if there are too few requests for them.
class IntervalPayload(TypedDict):
    value: float | None
    low: Annotated[float | None, Help("Of the 95 % interval; null: too few requests.")]
    high: float | None
    requests: int


# One target. Times in seconds.
class SidePayload(TypedDict):
    model: str
    endpoint_id: UuidText | None
    endpoint_name: str | None
    tag: str | None
    weight: int
    requests: Annotated[int, Help("Attempts at this target that succeeded or failed.")]
    failed: int
    error_share: IntervalPayload
    duration_p50: Annotated[IntervalPayload, Help("Seconds.")]
    duration_p95: Annotated[IntervalPayload, Help("Seconds.")]
    first_token_p50: Annotated[IntervalPayload, Help("Seconds.")]
    first_token_p95: Annotated[IntervalPayload, Help("Seconds.")]
    tokens_per_second: Annotated[IntervalPayload, Help("Median of output tokens per second.")]


# One figure of a target beside that of the first target. `significant` is None if there are too few requests.
class DifferencePayload(TypedDict):
    target: Annotated[int, Help("Index of the target that is compared with the first one.")]
    figure: Annotated[str, Choices(FIGURES)]
    significant: Annotated[bool | None, Help("null: too few requests.")]


# All targets of a step. The first target is what the others are compared with.
class ComparisonPayload(TypedDict):
    name: str
    step: int
    span: Annotated[str, Choices(list(SPANS))]
    complete: Annotated[bool, Help("False: only the newest requests of the span were compared.")]
    too_few: Annotated[bool, Help("A target has fewer than min_requests.")]
    min_requests: int
    targets: list[SidePayload]
    differences: list[DifferencePayload]


@dataclass(slots=True)
class _Side:
    attempts: int = 0
    errors: int = 0
    durations: list[float] = field(default_factory=list)  # seconds, of successful attempts
    first_tokens: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)


def wilson(errors: int, total: int) -> tuple[float, float]:
    """Return Wilson's interval of a share."""
    if not total:
        return 0.0, 1.0
    share, square = errors / total, Z * Z
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = Z * math.sqrt(share * (1 - share) / total + square / (4 * total * total)) / (1 + square / total)
    return (0.0 if not errors else max(0.0, middle - half), 1.0 if errors == total else min(1.0, middle + half))


def shares_differ(errors: int, total: int, other_errors: int, other_total: int) -> bool:
    """Return True if Newcombe's interval of the difference does not contain 0."""
    share, other = errors / total, other_errors / other_total
    (low, high), (other_low, other_high) = wilson(errors, total), wilson(other_errors, other_total)
    difference = share - other
    lower = difference - math.hypot(share - low, other_high - other)
    upper = difference + math.hypot(high - share, other - other_low)
    return lower > 0 or upper < 0


def percentile(values: Sequence[float], share: float) -> IntervalPayload:
    """Return a percentile of sorted values, with the interval of its order statistics."""
    count = len(values)
    if not count:
        return {"value": None, "low": None, "high": None, "requests": 0}
    half = Z * math.sqrt(count * share * (1 - share))
    low, high = math.ceil(count * share - half), math.ceil(count * share + half)  # ranks from 1
    return {
        "value": values[max(0, math.ceil(count * share) - 1)],
        "low": values[low - 1] if low >= 1 else None,
        "high": values[high - 1] if high <= count else None,
        "requests": count,
    }


def intervals_differ(one: IntervalPayload, other: IntervalPayload) -> bool | None:
    """Return True if two intervals do not overlap; None if one of them is unknown."""
    if min(one["requests"], other["requests"]) < MIN_REQUESTS:
        return None
    if one["low"] is None or one["high"] is None or other["low"] is None or other["high"] is None:
        return None
    return one["high"] < other["low"] or other["high"] < one["low"]


def compare(name: NameEntry, number: int, span: str) -> ComparisonPayload:
    """Return the comparison of a step's targets. `number`: of the step, from 1."""
    targets = name.steps[number - 1].targets
    sides = [_Side() for _ in targets]
    since = timezone.now() - SPANS[span]
    rows = RequestHistory.objects.filter(completed_at__gte=since)
    rows = rows.filter(model=name.name) if "*" not in name.name else rows.filter(model__startswith=_head(name.name))
    columns = ("model", "attempts", "outcome", "first_token_us", "output_tokens", "tokens_estimated")
    requests = list(rows.order_by("-completed_at").values_list(*columns)[: MAX_REQUESTS + 1])
    matching = _Matching(name, number)
    for model, attempts, outcome, first_token_us, output_tokens, _estimated in requests[:MAX_REQUESTS]:
        if matching.is_other(model):
            continue
        made = [each for each in stored_attempts(attempts) if each.step == number and each.outcome in COUNTED]
        for attempt in made:
            index = matching.target(attempt, model)
            if index is not None:
                last = attempt is made[-1] and outcome == record.OK
                _count(sides[index], attempt, first_token_us if last else None, output_tokens if last else None)
    payloads = [_payload(target, side) for target, side in zip(targets, sides, strict=True)]
    return {
        "name": name.name,
        "step": number,
        "span": span,
        "complete": len(requests) <= MAX_REQUESTS,
        "too_few": any(side.attempts < MIN_REQUESTS for side in sides),
        "min_requests": MIN_REQUESTS,
        "targets": payloads,
        "differences": list(_differences(payloads)),
    }


def _head(pattern: str) -> str:
    return pattern.partition("*")[0]


class _Matching:
    """Finds the target of an attempt. A target at an endpoint goes before one with a tag, and that before others."""

    def __init__(self, name: NameEntry, number: int) -> None:
        """`number`: of the step, from 1."""
        view = NameView.of(Moment.now())
        planned = view.plan(name).steps[number - 1]
        models = [
            (index, target, _all_names(view.catalogue, leaves_of(means)))
            for index, (target, (_, means)) in enumerate(zip(planned.step.targets, planned.targets, strict=True))
        ]
        models.sort(key=lambda one: (one[1].endpoint_id is None, one[1].tag is None, one[0]))
        self._models = models  # index of each target, the target, and all names of its models
        self._names = view.names
        self._pattern = name.name if "*" in name.name else None

    def is_other(self, requested: str) -> bool:
        """Return True if a request that begins like a pattern means another model name."""
        if self._pattern is None:
            return False
        meant = self._names.find(requested)
        return meant is None or meant.name != self._pattern

    def target(self, attempt: StoredAttempt, requested: str) -> int | None:
        served = {attempt.served or requested, *((attempt.canonical,) if attempt.canonical else ())}
        for index, target, names in self._models:
            is_there = target.endpoint_id in (None, attempt.endpoint_id) and _has_tag(attempt.endpoint_id, target.tag)
            if is_there and (served & names or (target.model == self._pattern and requested in served)):
                return index
        return None


def _has_tag(endpoint_id: str, tag: str | None) -> bool:
    entry = None if tag is None else registry.get(endpoint_id)
    return tag is None or (entry is not None and tag in entry.tags)


def _all_names(catalogue: Catalogue, leaves: Iterable[Leaf]) -> set[str]:
    """Return all names of the models that a target leads to."""
    names = set()
    for leaf in leaves:
        names.add(leaf.model)
        row = catalogue.find(leaf.model)
        if row is not None:
            names |= {row, *catalogue.all[row].aliases}
    return names


def _count(side: _Side, attempt: StoredAttempt, first_token_us: int | None, output_tokens: int | None) -> None:
    side.attempts += 1
    if attempt.outcome != record.OK:
        side.errors += 1
        return
    seconds = attempt.duration_us / 1e6
    side.durations.append(seconds)
    if first_token_us is not None:
        side.first_tokens.append(max(0, first_token_us - attempt.at_us) / 1e6)
    if output_tokens and seconds > 0:
        side.speeds.append(output_tokens / seconds)


def _payload(target: Target, side: _Side) -> SidePayload:
    low, high = wilson(side.errors, side.attempts)
    share = side.errors / side.attempts if side.attempts else None
    durations, first_tokens = sorted(side.durations), sorted(side.first_tokens)
    return {
        "model": target.model,
        "endpoint_id": target.endpoint_id,
        "endpoint_name": None if target.endpoint_id is None else registry.name(target.endpoint_id),
        "tag": target.tag,
        "weight": target.weight,
        "requests": side.attempts,
        "failed": side.errors,
        "error_share": {
            "value": share,
            "low": low if side.attempts else None,
            "high": high if side.attempts else None,
            "requests": side.attempts,
        },
        "duration_p50": percentile(durations, 0.5),
        "duration_p95": percentile(durations, 0.95),
        "first_token_p50": percentile(first_tokens, 0.5),
        "first_token_p95": percentile(first_tokens, 0.95),
        "tokens_per_second": percentile(sorted(side.speeds), 0.5),
    }


def _differences(sides: Sequence[SidePayload]) -> Iterable[DifferencePayload]:
    first = sides[0]
    for index, side in enumerate(sides[1:], 1):
        yield {"target": index, "figure": FIGURES[0], "significant": _errors_differ(first, side)}
        pairs = (
            (first["duration_p50"], side["duration_p50"]),
            (first["duration_p95"], side["duration_p95"]),
            (first["first_token_p50"], side["first_token_p50"]),
            (first["first_token_p95"], side["first_token_p95"]),
            (first["tokens_per_second"], side["tokens_per_second"]),
        )
        for figure, (one, other) in zip(FIGURES[1:], pairs, strict=True):
            yield {"target": index, "figure": figure, "significant": intervals_differ(one, other)}


def _errors_differ(one: SidePayload, other: SidePayload) -> bool | None:
    if min(one["requests"], other["requests"]) < MIN_REQUESTS:
        return None
    return shares_differ(one["failed"], one["requests"], other["failed"], other["requests"])
