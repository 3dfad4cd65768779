"""Where the time of one request went: in the queue, in each attempt, before its first token and behind it."""

from collections.abc import Iterator
from dataclasses import dataclass
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
    attempts = told["attempts"]
    if told["queue_ms"] is not None:
        # It may have waited again, after an attempt: all of it stands before the first that there was.
        end = attempts[0]["at_ms"] if attempts else told["duration_ms"]
        start = max(0.0, end - told["queue_ms"])
        yield Span(QUEUE, start, told["queue_ms"])
    end = 0.0
    for number, attempt in enumerate(attempts, 1):
        start = attempt["at_ms"] or end  # rows of former releases do not say when it began
        end = start + attempt["duration_ms"]
        first = told["first_token_ms"] if number == len(attempts) else None
        if first is None or not start <= first <= end:
            yield Span(ATTEMPT, start, attempt["duration_ms"], number, attempt["outcome"])
            continue
        yield Span(FIRST_TOKEN, start, first - start, number, attempt["outcome"])
        yield Span(STREAM, first, end - first, number, attempt["outcome"])


def total_ms(told: dict[str, Any]) -> float:
    """What all of it is drawn on: the request's time, and what clocks that differ by a little put behind it."""
    whole: float = told["duration_ms"]
    return max([whole, *(it.start_ms + it.length_ms for it in spans(told))])


def went_wrong(outcome: str) -> bool:
    return outcome in (record.FAILED, record.TRUNCATED)
