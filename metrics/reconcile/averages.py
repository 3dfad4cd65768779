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
    stored = {
        tuple(row[:3]): row[3:]
        for row in Query("SELECT endpoint_id, model, kind, value, samples FROM moving_averages").rows()
    }
    keys = {*stored, *_answering(scope)}
    for key in sorted(keys, key=lambda key: tuple(map(str, key))):
        value, packed = stored.get(key, (None, b"\x90"))
        samples = _unpack(bytes(packed))
        yield Average(key, value, samples, _right(scope, key, samples or []))


def _answering(scope: Scope) -> set[Key]:
    """Endpoint, model and kind of all answers with a speed that the history must have."""
    if not scope.every_row:
        return set()
    sql = (
        f"SELECT DISTINCT endpoint_id, model, kind FROM request_history WHERE {HAS_SPEED} "  # noqa: S608
        f"AND {last_duration()} > 0 AND completed_at >= %s"
    )
    return {tuple(row) for row in Query(sql, (bound(scope.history_since),)).rows()}


def _right(scope: Scope, key: Key, samples: list[Sample]) -> list[Sample]:
    """The stored samples in order, those of the time that the history covers as it has them."""
    if not scope.every_row:
        return sorted({*samples})[-WINDOW:]
    since = scope.history_since * 60_000_000
    older = {sample for sample in samples if sample[0] < since}
    return sorted({*older, *_from_history(scope, key)})[-WINDOW:]


def _from_history(scope: Scope, key: Key) -> Iterator[Sample]:
    sql = (
        f"SELECT CAST(id AS text), completed_at, output_tokens, {last_duration()} FROM request_history "  # noqa: S608
        f"WHERE endpoint_id = %s AND model = %s AND kind = %s AND {HAS_SPEED} AND {last_duration()} > 0 "
        f"AND completed_at >= %s ORDER BY completed_at DESC LIMIT {WINDOW + TIES}"
    )
    for request_id, completed_at, tokens, duration in Query(sql, (*key, bound(scope.history_since))).rows():
        yield _microseconds(completed_at), int(request_id[-12:], 16), tokens / (duration / 1e6)


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
