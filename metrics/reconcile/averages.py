"""Moving averages: the value from its samples, and these from the history's answers."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.db import connection

from metrics.reconcile.comparison import Difference, Query, where
from metrics.reconcile.laws import HAS_SPEED, last_duration
from metrics.reconcile.scope import Scope, bound, moment

ALPHA = 0.2
WINDOW = 128
CLOCK_SLACK_SECONDS = 60.0
TIES = 32  # more rows than that of one microsecond are not to be expected
NO_SAMPLES = b"\x90"
KEYS = ("endpoint_id", "model", "kind")

Sample = tuple[int, int, float]  # completed_us, the last twelve digits of the id, tokens per second
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Average:
    """One row: what is stored, and which samples ought to be."""

    key: Key
    value: float | None
    samples: list[Sample] | None  # None: they cannot be read
    right: "Window"

    @property
    def where(self) -> str:
        return where("moving_averages", KEYS, self.key)

    def differences(self) -> Iterator[Difference]:
        if not self._samples_are_right():
            found, right = self.samples or [], self.right.all
            yield Difference("averages", "samples", self.where, *_first_difference(found, right))
        if not self._value_is_right():
            yield Difference("averages", "value", self.where, self.right.value, self.value)

    def _samples_are_right(self) -> bool:
        found = self.samples
        if found is None or found != sorted({*found}) or len(found) > 2 * WINDOW:
            return False
        return Window.of(found, self.right.horizon).all == self.right.all

    def _value_is_right(self) -> bool:
        """It is of the moment at which it was written: what a clock that ran ahead had stamped may have come since."""
        stored = self.samples or []
        ends = range(len(stored), 0, -1)
        possible = (moving_average(stored[:end][-WINDOW:]) for end in ends)
        return _close(self.value, self.right.value) or any(_close(self.value, value) for value in possible)


@dataclass(frozen=True, slots=True)
class Window:
    """The last samples of the past and, apart, of what a clock that ran ahead has stamped."""

    horizon: int  # the last microsecond of the past
    past: list[Sample]
    ahead: list[Sample]

    @classmethod
    def of(cls, samples: Iterable[Sample], horizon: int) -> "Window":
        ordered = sorted({*samples})
        past = [sample for sample in ordered if sample[0] <= horizon]
        return cls(horizon, past[-WINDOW:], ordered[len(past) :][-WINDOW:])

    @property
    def all(self) -> list[Sample]:
        return self.past + self.ahead

    @property
    def value(self) -> float | None:
        return moving_average(self.past or self.ahead)


def differences(scope: Scope) -> Iterator[Difference]:
    """Each value is the recursion over its samples; these are sorted, few, and the history's last answers."""
    for average in averages(scope):
        yield from average.differences()


def averages(scope: Scope) -> Iterator[Average]:
    stored = Query("SELECT endpoint_id, model, kind, value, samples FROM moving_averages").rows()
    kept = {tuple(row[:3]): row[3:] for row in stored}
    recent = _from_history(scope) if scope.every_row else {}
    for key in sorted({*kept, *recent}, key=str):
        value, packed = kept.get(key, (None, NO_SAMPLES))
        samples = _unpack(bytes(packed))
        older = [it for it in samples or [] if it[0] < scope.history_since * 60_000_000 or not scope.every_row]
        yield Average(key, value, samples, Window.of([*older, *recent.get(key, [])], _horizon(scope)))


def _horizon(scope: Scope) -> int:
    return round((scope.now + CLOCK_SLACK_SECONDS) * 1e6)


def _from_history(scope: Scope) -> dict[Key, list[Sample]]:
    """Speeds of the last answers of each endpoint, model and kind, and of the last that are ahead of the clock."""
    query = Query(
        "SELECT endpoint_id, model, kind, CAST(id AS text), completed_at, output_tokens, duration FROM ("  # noqa: S608
        f"SELECT request_history.*, {last_duration()} AS duration, ROW_NUMBER() OVER (PARTITION BY endpoint_id, model, "
        f"kind, completed_at > %s ORDER BY completed_at DESC) AS nth FROM request_history WHERE {HAS_SPEED} "
        f"AND {last_duration()} > 0 AND completed_at >= %s) AS numbered WHERE nth <= {WINDOW + TIES}",
        (bound(_horizon(scope) // 60_000_000 + 1), bound(scope.history_since)),
    )
    found: dict[Key, list[Sample]] = {}
    for *key, request_id, completed_at, tokens, duration in query.rows():
        sample = _microseconds(completed_at), int(request_id[-12:], 16), tokens / (duration / 1e6)
        found.setdefault(tuple(key), []).append(sample)
    return found


def _microseconds(completed_at: str | datetime) -> int:
    since = moment(completed_at) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def moving_average(samples: list[Sample]) -> float | None:
    value: float | None = None
    for _, _, speed in samples:
        value = speed if value is None else ALPHA * speed + (1 - ALPHA) * value
    return value


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9)


def _first_difference(found: list[Sample], right: list[Sample]) -> tuple[object, object]:
    """What is expected and what is found where the two part; else their numbers."""
    if len(found) != len(right):
        return f"{len(right)} samples", f"{len(found)} samples"
    return next((list(one), list(other)) for one, other in zip(right, found, strict=True) if one != other)


_decode = msgspec.msgpack.Decoder(list[Sample]).decode


def _unpack(packed: bytes) -> list[Sample] | None:
    try:
        return _decode(packed)
    except msgspec.DecodeError:
        return None


def store(average: Average) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO moving_averages (endpoint_id, model, kind, value, samples) VALUES (%s, %s, %s, %s, %s) "
            "ON CONFLICT (endpoint_id, model, kind) DO UPDATE SET value = excluded.value, samples = excluded.samples",
            (*average.key, average.right.value, msgspec.msgpack.encode(average.right.all)),
        )
