"""Moving averages: each value is computed again from its samples, and the samples from the history."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.db import connection

from metrics import sql
from metrics.reconcile.comparison import FigureDifference, Query, where
from metrics.reconcile.history import HAS_SPEED, last_duration
from metrics.reconcile.scope import Scope, bound, moment

ALPHA = 0.2
WINDOW = 128
CLOCK_SLACK_SECONDS = 60.0
TIES = 32  # more rows with the same microsecond are not expected
NO_SAMPLES = b"\x90"
KEYS = ("endpoint_id", "model", "kind")

AverageSample = tuple[int, int, float]  # completed_us, the last twelve digits of the id, tokens per second
AverageKey = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Average:
    """One row: its stored value and samples, and the samples that it should have."""

    key: AverageKey
    value: float | None
    samples: list[AverageSample] | None  # None: unreadable
    right: "SampleWindow"

    @property
    def where(self) -> str:
        return where("moving_averages", KEYS, self.key)

    def differences(self) -> Iterator[FigureDifference]:
        if not self._samples_are_right():
            stored, right = self.samples or [], self.right.all
            yield FigureDifference("averages", "samples", self.where, *_first_difference(stored, right))
        if not self._value_is_right():
            yield FigureDifference("averages", "value", self.where, self.right.value, self.value)

    def _samples_are_right(self) -> bool:
        stored = self.samples
        if stored is None or stored != sorted({*stored}) or len(stored) > 2 * WINDOW:
            return False
        return SampleWindow.of(stored, self.right.horizon).all == self.right.all

    def _value_is_right(self) -> bool:
        """Compare the value with the averages at any earlier moment too.

        The value was computed when it was written. Samples that were in the future then may count now.
        """
        stored = self.samples or []
        ends = range(len(stored), 0, -1)
        possible = (moving_average(stored[:end][-WINDOW:]) for end in ends)
        return _close(self.value, self.right.value) or any(_close(self.value, value) for value in possible)


@dataclass(frozen=True, slots=True)
class SampleWindow:
    """The last samples of the past, and the last samples in the future, from a clock that ran ahead."""

    horizon: int  # the last microsecond of the past
    past: list[AverageSample]
    ahead: list[AverageSample]

    @classmethod
    def of(cls, samples: Iterable[AverageSample], horizon: int) -> "SampleWindow":
        ordered = sorted({*samples})
        past = [sample for sample in ordered if sample[0] <= horizon]
        return cls(horizon, past[-WINDOW:], ordered[len(past) :][-WINDOW:])

    @property
    def all(self) -> list[AverageSample]:
        return self.past + self.ahead

    @property
    def value(self) -> float | None:
        return moving_average(self.past or self.ahead)


def differences(scope: Scope) -> Iterator[FigureDifference]:
    """Check that samples are sorted, limited and those of the history, and that each value is their recursion."""
    for average in averages(scope):
        yield from average.differences()


def averages(scope: Scope) -> Iterator[Average]:
    rows = Query("SELECT endpoint_id, model, kind, value, samples FROM moving_averages").rows()
    stored = {tuple(row[:3]): row[3:] for row in rows}
    recent = _from_history(scope) if scope.every_row else {}
    for key in sorted({*stored, *recent}, key=str):
        value, packed = stored.get(key, (None, NO_SAMPLES))
        samples = _unpack(bytes(packed))
        since = scope.history_since * 60_000_000
        older = [sample for sample in samples or [] if sample[0] < since or not scope.every_row]
        yield Average(key, value, samples, SampleWindow.of([*older, *recent.get(key, [])], _horizon(scope)))


def _horizon(scope: Scope) -> int:
    return round((scope.now + CLOCK_SLACK_SECONDS) * 1e6)


def _from_history(scope: Scope) -> dict[AverageKey, list[AverageSample]]:
    """Return the last samples of each endpoint, model and kind, in the past and in the future."""
    number = (
        "ROW_NUMBER() OVER (PARTITION BY endpoint_id, model, kind, completed_at > %s ORDER BY completed_at DESC) AS nth"
    )
    numbered = sql.select(
        ["request_history.*", f"{last_duration()} AS duration", number],
        "request_history",
        where=[HAS_SPEED, f"{last_duration()} > 0", "completed_at >= %s"],
    )
    query = Query(
        sql.select(
            [*KEYS, "CAST(id AS text)", "completed_at", "output_tokens", "duration"],
            sql.subquery(numbered, "numbered"),
            where=f"nth <= {WINDOW + TIES}",
        ),
        (bound(_horizon(scope) // 60_000_000 + 1), bound(scope.history_since)),
    )
    samples: dict[AverageKey, list[AverageSample]] = {}
    for *key, request_id, completed_at, tokens, duration in query.rows():
        sample = _microseconds(completed_at), int(request_id[-12:], 16), tokens / (duration / 1e6)
        samples.setdefault(tuple(key), []).append(sample)
    return samples


def _microseconds(completed_at: str | datetime) -> int:
    since = moment(completed_at) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def moving_average(samples: list[AverageSample]) -> float | None:
    value: float | None = None
    for _, _, speed in samples:
        value = speed if value is None else ALPHA * speed + (1 - ALPHA) * value
    return value


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9)


def _first_difference(stored: list[AverageSample], right: list[AverageSample]) -> tuple[object, object]:
    """Return the first expected and stored sample that differ, or the numbers of samples if these differ."""
    if len(stored) != len(right):
        return f"{len(right)} samples", f"{len(stored)} samples"
    return next((list(one), list(other)) for one, other in zip(right, stored, strict=True) if one != other)


_decode = msgspec.msgpack.Decoder(list[AverageSample]).decode


def _unpack(packed: bytes) -> list[AverageSample] | None:
    try:
        return _decode(packed)
    except msgspec.DecodeError:
        return None


def store(average: Average) -> None:
    """Write the right value and samples."""
    statement = sql.upsert("moving_averages", KEYS, replaced=["value", "samples"])
    with connection.cursor() as cursor:
        values = (*average.key, average.right.value, msgspec.msgpack.encode(average.right.all))
        cursor.execute(statement, values)
