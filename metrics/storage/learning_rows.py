"""Rows of samples that adaptive routing learns from: merged in the transaction of their records, and read by a learner.

Each row has the last samples of one key as a set (metrics.learning.samples). So neither the retention of the history
nor ROUTERDASH_HISTORY changes what is learned, and a restart finds the samples as they were.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.db import connection

from gateway.ipc.record import RequestRecord
from metrics.counting.speeds import AnySample, current, merge_samples
from metrics.learning.from_records import is_learnable, length_sample, speed_sample
from metrics.learning.samples import WINDOW, LengthSample, SpeedSample, pack, unpack_lengths, unpack_speeds
from metrics.models import DailyStat, LengthWindow, MovingAverage, SlowStart, SpeedWindow
from metrics.storage import bulk
from metrics.storage.bulk import Upsert
from metrics.storage.database import SaneSum, storable

WindowKey = tuple[str, str, str]  # endpoint, requested model, kind
LengthKey = tuple[str, str]  # requested model, API key or nothing
Start = tuple[int, str]  # µs since 1970 and address

SPEEDS, LENGTHS, STARTS = "learning_speeds", "learning_lengths", "learning_starts"
SPEED_KEYS, LENGTH_KEYS = ("endpoint_id", "model", "kind"), ("model", "api_key_id")
_WRITE_SPEEDS = Upsert(SPEEDS, SPEED_KEYS, replaced=["samples"])
_WRITE_LENGTHS = Upsert(LENGTHS, LENGTH_KEYS, replaced=["samples"])
_WRITE_STARTS = Upsert(STARTS, ("endpoint_id",), replaced=["since_us", "base_url"])

Key = TypeVar("Key", bound=tuple[str, ...])


@dataclass(slots=True)
class ChangedWindows:
    """Keys whose samples have changed."""

    speeds: set[WindowKey] = field(default_factory=set)
    lengths: set[LengthKey] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.speeds or self.lengths)

    def add(self, other: "ChangedWindows") -> None:
        self.speeds |= other.speeds
        self.lengths |= other.lengths


def write(cursor: Any, entries: Iterable[RequestRecord]) -> ChangedWindows:
    """Merge the samples of records into the stored ones, inside a transaction, and return what has changed.

    Costs next to nothing for records that adaptive routing did not decide.
    """
    speeds: dict[WindowKey, list[SpeedSample]] = {}
    lengths: dict[LengthKey, list[LengthSample]] = {}
    for entry in entries:
        if not is_learnable(entry):
            continue
        model = storable(entry.model)
        speed = speed_sample(entry)
        if speed is not None:
            key = (storable(entry.attempts[-1].endpoint_id), model, storable(entry.kind))
            speeds.setdefault(key, []).append(speed)
        length = length_sample(entry)
        if length is not None:
            lengths.setdefault((model, ""), []).append(length)
            if entry.api_key_id:
                lengths.setdefault((model, storable(entry.api_key_id)), []).append(length)
    _WRITE_SPEEDS.write(cursor, _merged(cursor, SPEEDS, SPEED_KEYS, speeds, unpack_speeds))
    _WRITE_LENGTHS.write(cursor, _merged(cursor, LENGTHS, LENGTH_KEYS, lengths, unpack_lengths))
    return ChangedWindows(set(speeds), set(lengths))


def _merged(
    cursor: Any,
    table: str,
    columns: Sequence[str],
    new: dict[Key, list[AnySample]],
    unpack: Callable[[bytes], list[AnySample]],
) -> Iterator[tuple[Any, ...]]:
    """Yield rows with the last samples of the stored and the new ones, in the order of their keys."""
    keys = sorted(new)
    stored = bulk.find(cursor, table, columns, ("samples",), keys)
    for key in keys:
        previous = unpack(bytes(stored[key][0])) if key in stored else []
        yield (*key, pack(merge_samples(previous, new[key], WINDOW)))


def speed_windows(keys: Sequence[WindowKey]) -> dict[WindowKey, list[SpeedSample]]:
    """Return the current samples of these keys, as far as there are any. Raises django.db.Error."""
    return _read(SPEEDS, SPEED_KEYS, keys, unpack_speeds)


def length_windows(keys: Sequence[LengthKey]) -> dict[LengthKey, list[LengthSample]]:
    """Return the current samples of these keys, as far as there are any. Raises django.db.Error."""
    return _read(LENGTHS, LENGTH_KEYS, keys, unpack_lengths)


def _read(
    table: str, columns: Sequence[str], keys: Sequence[Key], unpack: Callable[[bytes], list[AnySample]]
) -> dict[Key, list[AnySample]]:
    now = time.time()
    with connection.cursor() as cursor:
        rows = bulk.find(cursor, table, columns, ("samples",), keys)
    return {key: current(unpack(bytes(rows[key][0])), now, WINDOW) for key in keys if key in rows}


def all_keys() -> ChangedWindows:
    """Return the keys of all rows. Raises django.db.Error."""
    speeds = SpeedWindow.objects.values_list(*SPEED_KEYS)
    return ChangedWindows(
        {(str(endpoint_id), model, kind) for endpoint_id, model, kind in speeds.iterator()},
        set(LengthWindow.objects.values_list(*LENGTH_KEYS).iterator()),
    )


def starts() -> dict[str, Start]:
    """Return when the slow start of each endpoint began, by id. Raises django.db.Error."""
    rows = SlowStart.objects.values_list("endpoint_id", "since_us", "base_url")
    return {str(endpoint_id): (since_us, base_url) for endpoint_id, since_us, base_url in rows}


def write_starts(found: dict[str, Start]) -> None:
    """Store when the slow starts of endpoints began. Raises django.db.Error."""
    with connection.cursor() as cursor:
        _WRITE_STARTS.write(cursor, [(endpoint_id, *start) for endpoint_id, start in sorted(found.items())])


def averages() -> dict[str, dict[tuple[str, str], float]]:
    """Return tokens per second by endpoint, and by requested model and kind. Raises django.db.Error.

    They are those of an adopted database's days, and the moving averages, which are more recent.
    """
    found: dict[str, dict[tuple[str, str], float]] = {}
    days = DailyStat.objects.values_list("endpoint_id", "model_id", "api_kind").annotate(
        SaneSum("total_output_tokens"), SaneSum("total_duration_ms")
    )
    for endpoint_id, model, kind, tokens, duration_ms in days.iterator():
        if tokens and duration_ms:
            found.setdefault(str(endpoint_id), {})[model, kind] = tokens / (duration_ms / 1000)
    values = MovingAverage.objects.values_list("endpoint_id", "model", "kind", "value")
    for endpoint_id, model, kind, value in values.iterator():
        if value > 0:
            found.setdefault(str(endpoint_id), {})[model, kind] = value
    return found
