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
    ordered = sorted(values)
    middle = ordered[len(ordered) // 4 : 3 * len(ordered) // 4 + 1]
    return math.exp(sum(math.log(max(1e-9, value)) for value in middle) / len(middle))


def quantiles(values: Iterable[float]) -> Quantiles | None:
    ordered = sorted(values)
    return Quantiles(quantile(ordered, 0.5), quantile(ordered, 0.95), quantile(ordered, 0.99)) if ordered else None


def recorded_times(requests: Iterable[PastRequest]) -> list[Times]:
    return [
        Times(
            request.key,
            request.endpoint,
            request.output,
            request.ended - request.arrived,
            request.sent - request.arrived,
            request.first - request.arrived if request.first else None,
        )
        for request in requests
    ]


def played_times(played: Iterable[Played], endpoints: Sequence[str], streamed: Sequence[bool] = ()) -> list[Times]:
    """Return the times of replayed requests. `endpoints`: ids by number. `streamed`: by number of the request."""
    return [
        Times(
            request.turn.key,
            endpoints[request.node],
            request.turn.output,
            request.ended - request.arrived,
            request.sent - request.arrived,
            request.first - request.arrived if not streamed or streamed[request.turn.number] else None,
        )
        for request in played
        if request.ended
    ]


def per_token(times: Iterable[Times]) -> list[float]:
    """Return the time of each request per output token."""
    return [request_times.whole / request_times.output for request_times in times if request_times.output]


def run_figures(times: Sequence[Times]) -> RunFigures:
    by_key: dict[str, list[Times]] = {}
    for request_times in times:
        by_key.setdefault(request_times.key, []).append(request_times)
    shares = Counter(request_times.endpoint for request_times in times)
    keys = {
        key: key_quantiles
        for key, of_key in by_key.items()
        if (key_quantiles := quantiles(per_token(of_key))) is not None
    }
    return RunFigures(
        len(times),
        quantiles(per_token(times)),
        quantiles(request_times.first for request_times in times if request_times.first is not None),
        quantiles(request_times.queued for request_times in times) or Quantiles(0.0, 0.0, 0.0),
        keys,
        {endpoint: count / len(times) for endpoint, count in shares.most_common()},
    )
