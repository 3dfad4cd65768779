"""Moving averages: the value from its samples, and these from the history's answers."""

import math
from collections.abc import Iterator
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
TIES = 32  # more rows than that of one microsecond are not to be expected
NO_SAMPLES = b"\x90"
KEYS = ("endpoint_id", "model", "kind")

Sample = tuple[int, int, float]  # completed_us, the last twelve digits of the id, tokens per second
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Average:
    """One row: what is stored, and what ought to be."""

    key: Key
    value: float | None
    samples: list[Sample] | None  # None: they cannot be read
    right: list[Sample]

    @property
    def where(self) -> str:
        return where("moving_averages", KEYS, self.key)

    @property
    def right_value(self) -> float | None:
        return moving_average(self.right)

    def differences(self) -> Iterator[Difference]:
        if self.samples != self.right:
            first = _first_difference(self.samples or [], self.right)
            yield Difference("averages", "samples", self.where, *first)
        if not _close(self.value, self.right_value):
            yield Difference("averages", "value", self.where, self.right_value, self.value)


def differences(scope: Scope) -> Iterator[Difference]:
    """Each value is the recursion over its samples; these are sorted, at most 128, and the history's last answers."""
    for average in averages(scope):
        yield from average.differences()


def averages(scope: Scope) -> Iterator[Average]:
    stored = Query("SELECT endpoint_id, model, kind, value, samples FROM moving_averages").rows()
    kept = {tuple(row[:3]): row[3:] for row in stored}
    recent = _from_history(scope) if scope.every_row else {}
    for key in sorted({*kept, *recent}, key=str):
        value, packed = kept.get(key, (None, NO_SAMPLES))
        samples = _unpack(bytes(packed))
        yield Average(key, value, samples, _right(scope, samples or [], recent.get(key, [])))


def _right(scope: Scope, samples: list[Sample], recent: list[Sample]) -> list[Sample]:
    """The stored samples in order; those of the time that the history covers as it has them."""
    since = scope.history_since * 60_000_000
    kept = {sample for sample in samples if sample[0] < since or not scope.every_row}
    return sorted({*kept, *recent})[-WINDOW:]


def _from_history(scope: Scope) -> dict[Key, list[Sample]]:
    """Speeds of the last answers of each endpoint, model and kind."""
    query = Query(
        "SELECT endpoint_id, model, kind, CAST(id AS text), completed_at, output_tokens, duration FROM ("  # noqa: S608
        f"SELECT request_history.*, {last_duration()} AS duration, ROW_NUMBER() OVER (PARTITION BY endpoint_id, model, "
        f"kind ORDER BY completed_at DESC) AS nth FROM request_history WHERE {HAS_SPEED} AND {last_duration()} > 0 "
        f"AND completed_at >= %s) AS numbered WHERE nth <= {WINDOW + TIES}",
        (bound(scope.history_since),),
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
    if average.right_value is None:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO moving_averages (endpoint_id, model, kind, value, samples) VALUES (%s, %s, %s, %s, %s) "
            "ON CONFLICT (endpoint_id, model, kind) DO UPDATE SET value = excluded.value, samples = excluded.samples",
            (*average.key, average.right_value, msgspec.msgpack.encode(average.right)),
        )
