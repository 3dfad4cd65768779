"""Where the time of one request went: in the queue, in each attempt, before its first token and behind it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from gateway import record

QUEUE, ATTEMPT, FIRST_TOKEN, STREAM = "queue", "attempt", "first_token", "stream"


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a request's time, in milliseconds from its arrival."""

    what: str
    start_ms: float
    length_ms: float
    attempt: int = 0  # its number, from 1
    outcome: str = ""  # of the attempt


def spans(told: dict[str, Any]) -> Iterator[Span]:
    """Of a request as metrics.history tells it, in the order in which they began."""
    tries = list(_attempts(told["attempts"]))
    parts = [] if told["queue_ms"] is None else [_wait(told, tries)]
    for it in tries:
        first = told["first_token_ms"] if it is tries[-1] else None
        end = it.start_ms + it.length_ms
        if first is None or not it.start_ms <= first <= end:
            parts.append(it)
        else:
            parts.append(replace(it, what=FIRST_TOKEN, length_ms=first - it.start_ms))
            parts.append(replace(it, what=STREAM, start_ms=first, length_ms=end - first))
    yield from sorted(parts, key=lambda it: it.start_ms)


def _attempts(attempts: list[dict[str, Any]]) -> Iterator[Span]:
    end = 0.0
    for number, attempt in enumerate(attempts, 1):
        start = attempt["at_ms"] or end  # rows of former releases do not say when it began
        end = start + attempt["duration_ms"]
        yield Span(ATTEMPT, start, attempt["duration_ms"], number, attempt["outcome"])


def _wait(told: dict[str, Any], tries: list[Span]) -> Span:
    """In the widest gap before, between and behind the attempts, at its end: nobody has noted where it was."""
    starts = [it.start_ms for it in tries] + [told["duration_ms"]]
    ends = [0.0] + [it.start_ms + it.length_ms for it in tries]
    end = max(zip(starts, ends, strict=True), key=lambda gap: gap[0] - gap[1])[0]
    return Span(QUEUE, max(0.0, end - told["queue_ms"]), told["queue_ms"])


def total_ms(told: dict[str, Any]) -> float:
    """What all of it is drawn on: the request's time, and what clocks that differ by a little put behind it."""
    whole: float = told["duration_ms"]
    return max([whole, *(it.start_ms + it.length_ms for it in spans(told))])


def went_wrong(outcome: str) -> bool:
    return outcome in (record.FAILED, record.TRUNCATED)
