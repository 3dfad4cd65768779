"""Figures of recorded and of replayed requests. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from metrics.replay.server import Played
from metrics.replay.traffic import PastRequest


class Quantiles(NamedTuple):
    """In seconds."""

    p50: float
    p95: float
    p99: float


class Times(NamedTuple):
    """The times of a request, in seconds. `first` is None if it is not known."""

    key: str
    endpoint: str
    output: int
    whole: float  # from its arrival to its end
    queued: float
    first: float | None  # from its arrival to its first token


@dataclass(frozen=True, slots=True)
class RunFigures:
    """Figures of a run, or of what happened."""

    requests: int
    per_token: Quantiles | None  # time of a request per output token; None if none has any
    first: Quantiles | None  # time to first token
    queued: Quantiles
    by_key: Mapping[str, Quantiles]  # time per output token by API key
    by_endpoint: Mapping[str, float]  # share of the requests


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values."""
    return values[min(len(values) - 1, int(share * len(values)))]


def usual(values: Iterable[float]) -> float:
    """Return the geometric mean of the middle half. A median may jump between a fast and a slow endpoint."""
    found = sorted(values)
    middle = found[len(found) // 4 : 3 * len(found) // 4 + 1]
    return math.exp(sum(math.log(max(1e-9, it)) for it in middle) / len(middle))


def quantiles(values: Iterable[float]) -> Quantiles | None:
    found = sorted(values)
    return Quantiles(quantile(found, 0.5), quantile(found, 0.95), quantile(found, 0.99)) if found else None


def recorded_times(requests: Iterable[PastRequest]) -> list[Times]:
    return [
        Times(
            it.key,
            it.endpoint,
            it.output,
            it.ended - it.arrived,
            it.sent - it.arrived,
            it.first - it.arrived if it.first else None,
        )
        for it in requests
    ]


def played_times(played: Iterable[Played], endpoints: Sequence[str], streamed: Sequence[bool] = ()) -> list[Times]:
    """Return the times of replayed requests. `endpoints`: ids by number. `streamed`: by number of the request."""
    return [
        Times(
            it.turn.key,
            endpoints[it.node],
            it.turn.output,
            it.ended - it.arrived,
            it.sent - it.arrived,
            it.first - it.arrived if not streamed or streamed[it.turn.number] else None,
        )
        for it in played
        if it.ended
    ]


def per_token(times: Iterable[Times]) -> list[float]:
    """Return the time of each request per output token."""
    return [it.whole / it.output for it in times if it.output]


def run_figures(times: Sequence[Times]) -> RunFigures:
    by_key: dict[str, list[Times]] = {}
    for it in times:
        by_key.setdefault(it.key, []).append(it)
    shares = Counter(it.endpoint for it in times)
    keys = {key: found for key, of_key in by_key.items() if (found := quantiles(per_token(of_key))) is not None}
    return RunFigures(
        len(times),
        quantiles(per_token(times)),
        quantiles(it.first for it in times if it.first is not None),
        quantiles(it.queued for it in times) or Quantiles(0.0, 0.0, 0.0),
        keys,
        {endpoint: count / len(times) for endpoint, count in shares.most_common()},
    )
