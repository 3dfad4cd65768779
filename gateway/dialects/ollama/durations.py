"""Durations in the last object of Ollama's responses, as RouterDash measures them."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

NANOSECONDS = 1_000_000_000


def created_at() -> str:
    """Return the present time as Ollama writes it (RFC 3339)."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Stopwatch:
    """Measures one response. All times are seconds of a monotonic clock."""

    __slots__ = ("_arrived", "_clock", "_first", "_sent")

    def __init__(self, arrived: float, sent: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`arrived`: the request at RouterDash; `sent`: to the endpoint."""
        self._arrived = arrived
        self._sent = sent
        self._clock = clock
        self._first: float | None = None

    def note_token(self) -> None:
        """Note the time of the first token."""
        if self._first is None:
            self._first = self._clock()

    def durations(self, timings: Any = None) -> Mapping[str, int]:
        """Return durations in nanoseconds. `timings`: those of llama.cpp, in milliseconds.

        The prompt takes from sending the request until the first token, as `prompt_eval_duration`. Of a response that
        was no stream, that time is not known, and is a part of `eval_duration`.
        """
        now = self._clock()
        durations_ns = {"total_duration": _nanoseconds(now - self._arrived), "load_duration": 0}
        read, generated = _of_llamacpp(timings)
        if read is not None and generated is not None:
            return {**durations_ns, "prompt_eval_duration": read, "eval_duration": generated}
        if self._first is not None:
            durations_ns["prompt_eval_duration"] = _nanoseconds(self._first - self._sent)
        return {**durations_ns, "eval_duration": _nanoseconds(now - (self._first or self._sent))}


def _of_llamacpp(timings: Any) -> tuple[int | None, int | None]:
    if not isinstance(timings, dict):
        return None, None
    return _milliseconds(timings.get("prompt_ms")), _milliseconds(timings.get("predicted_ms"))


def _milliseconds(value: Any) -> int | None:
    return int(value * 1e6) if type(value) in (int, float) and 0 <= value < 1e9 else None


def _nanoseconds(seconds: float) -> int:
    return max(0, int(seconds * NANOSECONDS))
