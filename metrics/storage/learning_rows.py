"""Rows of samples that adaptive routing learns from: merged in the transaction of their records, and read by a learner.

Each row has the last samples of one key as a set (metrics.learning.samples). So neither the retention of the history
nor ROUTERDASH_HISTORY changes what is learned, and a restart finds the samples as they were.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, TypeVar

from django.db import connection

from gateway.ipc.record import RequestRecord
from metrics import sql
from metrics.counting.speeds import AnySample, current, merge_samples
from metrics.learning.from_records import is_learnable, length_sample, speed_sample
from metrics.learning.samples import WINDOW, LengthSample, SpeedSample, pack, unpack_any, unpack_lengths, unpack_speeds
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
    by_speed: dict[WindowKey, list[RequestRecord]] = {}
    by_length: dict[LengthKey, list[RequestRecord]] = {}
    for entry in entries:
        if is_learnable(entry):
            model = storable(entry.model)
            key = (storable(entry.attempts[-1].endpoint_id), model, storable(entry.kind))
            by_speed.setdefault(key, []).append(entry)
            by_length.setdefault((model, ""), []).append(entry)
            if entry.api_key_id:
                by_length.setdefault((model, storable(entry.api_key_id)), []).append(entry)
    speeds = _samples(by_speed, speed_sample)
    lengths = _samples(by_length, length_sample)
    _WRITE_SPEEDS.write(cursor, _merged(cursor, SPEEDS, SPEED_KEYS, speeds))
    _WRITE_LENGTHS.write(cursor, _merged(cursor, LENGTHS, LENGTH_KEYS, lengths))
    return ChangedWindows(set(speeds), set(lengths))


def _samples(
    entries: dict[Key, list[RequestRecord]], sample: Callable[[RequestRecord], tuple[int, ...] | None]
) -> dict[Key, list[tuple[int, ...]]]:
    """Return the samples of each key that has any, at least those that can enter its window."""
    horizon = round(time.time() * 1e6)
    found = {key: _newest(of_key, sample, horizon) for key, of_key in entries.items()}
    return {key: samples for key, samples in found.items() if samples}


def _newest(
    entries: list[RequestRecord], sample: Callable[[RequestRecord], tuple[int, ...] | None], horizon: int
) -> list[tuple[int, ...]]:
    if len(entries) <= WINDOW:
        return [made for entry in entries if (made := sample(entry)) is not None]
    found: set[tuple[int, ...]] = set()
    past, last = 0, 0
    for entry in sorted(entries, key=_completed_us, reverse=True):
        completed_us = entry.completed_us
        if past >= WINDOW and completed_us != last:  # the tie-break decides between simultaneous ones
            break
        made = sample(entry)
        if made is not None and made not in found:
            found.add(made)
            last = completed_us
            past += completed_us <= horizon  # samples in the future are stored in addition
    return list(found)


_completed_us = attrgetter("completed_us")


def _merged(
    cursor: Any, table: str, columns: Sequence[str], new: dict[Key, list[tuple[int, ...]]]
) -> Iterator[tuple[Any, ...]]:
    """Yield rows with the last samples of the stored and the new ones, in the order of their keys."""
    keys = sorted(new)
    stored = bulk.find(cursor, table, columns, ("samples",), keys)
    for key in keys:
        previous = unpack_any(bytes(stored[key][0])) if key in stored else []
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


def forget_deleted_keys() -> None:
    """Delete the lengths of API keys that are deleted. Raises django.db.Error."""
    deleted = "api_key_id <> '' AND api_key_id NOT IN (SELECT CAST(id AS text) FROM api_keys)"
    with connection.cursor() as cursor:
        cursor.execute(sql.delete(LENGTHS, deleted))


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
