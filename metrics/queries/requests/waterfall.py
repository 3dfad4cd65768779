"""Phases of one request's time: the queue, each attempt, the time to the first token and the stream."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gateway.ipc import record
from metrics.queries.requests.payload import AttemptPayload, RequestPayload

QUEUE, ATTEMPT, FIRST_TOKEN, STREAM = "queue", "attempt", "first_token", "stream"


@dataclass(frozen=True, slots=True)
class WaterfallBar:
    """Part of a request's time, in milliseconds from its arrival. `what` is one of the four phases above."""

    what: str
    start_ms: float
    length_ms: float
    attempt: int = 0  # its number, from 1
    outcome: str = ""  # of the attempt


def waterfall_bars(request: RequestPayload) -> Iterator[WaterfallBar]:
    """Yield the bars of a request in the order of their starts."""
    attempts = list(_attempts(request["attempts"]))
    bars = [] if request["queue_ms"] is None else [_queue(request, request["queue_ms"], attempts)]
    for bar in attempts:
        first = request["first_token_ms"] if bar is attempts[-1] else None
        end = bar.start_ms + bar.length_ms
        if first is None or not bar.start_ms <= first <= end:
            bars.append(bar)
        else:
            bars.append(replace(bar, what=FIRST_TOKEN, length_ms=first - bar.start_ms))
            bars.append(replace(bar, what=STREAM, start_ms=first, length_ms=end - first))
    yield from sorted(bars, key=lambda bar: bar.start_ms)


def _attempts(attempts: Sequence[AttemptPayload]) -> Iterator[WaterfallBar]:
    end = 0.0
    for number, attempt in enumerate(attempts, 1):
        start = attempt["at_ms"] or end  # rows of former releases have no start
        end = start + attempt["duration_ms"]
        yield WaterfallBar(ATTEMPT, start, attempt["duration_ms"], number, attempt["outcome"])


def _queue(request: RequestPayload, queue_ms: float, attempts: list[WaterfallBar]) -> WaterfallBar:
    """Place the wait at the end of the widest gap between attempts: its start is not recorded."""
    starts = [bar.start_ms for bar in attempts] + [request["duration_ms"]]
    ends = [0.0] + [bar.start_ms + bar.length_ms for bar in attempts]
    end = max(zip(starts, ends, strict=True), key=lambda gap: gap[0] - gap[1])[0]
    return WaterfallBar(QUEUE, max(0.0, end - queue_ms), queue_ms)


def total_ms(request: RequestPayload) -> float:
    """Return the length of the whole chart: the request's duration, or a later end where clocks differ a little."""
    return max([request["duration_ms"], *(bar.start_ms + bar.length_ms for bar in waterfall_bars(request))])


def is_failure(outcome: str) -> bool:
    return outcome in (record.FAILED, record.TRUNCATED)
