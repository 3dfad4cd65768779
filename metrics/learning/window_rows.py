"""Rows of samples that adaptive routing learns from: merged in the transaction of their records, and read by a learner.

Each row has the last samples of one key as a set (metrics.learning.samples). So neither the retention of the history
nor ROUTERDASH_HISTORY changes what is learned, and a restart finds the samples as they were.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeVar

from django.db import connection

from gateway.ipc.record import RequestRecord
from metrics import sql
from metrics.counting.fold import Fold
from metrics.counting.speeds import AnySample, current
from metrics.learning import past_rows
from metrics.learning.from_records import has_loaded, is_learnable, length_sample, load_sample, speed_sample
from metrics.learning.packed_windows import PackedWindows
from metrics.learning.samples import (
    WINDOW,
    LengthSample,
    LoadSample,
    SpeedSample,
    unpack_lengths,
    unpack_loads,
    unpack_speeds,
)
from metrics.learning.tables import LengthWindow, LoadWindow, SlowStart, SpeedWindow
from metrics.models import DailyStat, MovingAverage
from metrics.storage import bulk
from metrics.storage.bulk import Upsert
from metrics.storage.database import SaneSum
from metrics.texts import storable

WindowKey = tuple[str, str, str]  # endpoint, requested model, kind
LengthKey = tuple[str, str]  # requested model, API key or nothing
LoadKey = tuple[str, str]  # endpoint, requested model
Start = tuple[int, str]  # µs since 1970 and address

SPEEDS, LENGTHS, LOADS = "learning_speeds", "learning_lengths", "learning_loads"
STARTS = "learning_starts"
SPEED_KEYS, LENGTH_KEYS = ("endpoint_id", "model", "kind"), ("model", "api_key_id")
LOAD_KEYS = ("endpoint_id", "model")
_WRITE_SPEEDS = Upsert(SPEEDS, SPEED_KEYS, replaced=["samples"])
_WRITE_LENGTHS = Upsert(LENGTHS, LENGTH_KEYS, replaced=["samples"])
_WRITE_LOADS = Upsert(LOADS, LOAD_KEYS, replaced=["samples"])
_WRITE_STARTS = Upsert(STARTS, ("endpoint_id",), replaced=["since_us", "base_url"])

Key = TypeVar("Key", bound=tuple[str, ...])
S = TypeVar("S", bound=tuple[int, ...])

_packed = PackedWindows()
_storable = lru_cache(4096)(storable)  # ids and names, which are few


@dataclass(slots=True)
class ChangedWindows:
    """Keys whose samples have changed."""

    speeds: set[WindowKey] = field(default_factory=set)
    lengths: set[LengthKey] = field(default_factory=set)
    loads: set[LoadKey] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.speeds or self.lengths or self.loads)

    def add(self, other: "ChangedWindows") -> None:
        self.speeds |= other.speeds
        self.lengths |= other.lengths
        self.loads |= other.loads


def write(cursor: Any, fold: Fold) -> ChangedWindows:
    """Merge the samples of a fold's records into the stored ones, inside a transaction, and return what has changed.

    Costs next to nothing for records that adaptive routing did not decide.
    """
    by_window = _ByWindow()
    for entry in fold.counted:
        by_window.add(entry)
    by_speed = by_window.speeds
    speeds = _samples(by_speed, speed_sample)
    lengths = _samples(by_window.lengths, _once(length_sample))  # most records are in two windows
    _WRITE_SPEEDS.write(cursor, _merged(cursor, SPEEDS, SPEED_KEYS, speeds))
    loads = _samples(by_window.loads, load_sample)
    _WRITE_LENGTHS.write(cursor, _merged(cursor, LENGTHS, LENGTH_KEYS, lengths))
    if loads:
        _WRITE_LOADS.write(cursor, _merged(cursor, LOADS, LOAD_KEYS, loads))
    past_rows.write(cursor, {key: _of_past(of_key, speeds.get(key, [])) for key, of_key in by_speed.items()})
    return ChangedWindows(set(speeds), set(lengths), set(loads))


class _ByWindow:
    """Records that teach something, by the key of each window that they belong to."""

    def __init__(self) -> None:
        self.speeds: dict[WindowKey, list[RequestRecord]] = {}
        self.lengths: dict[LengthKey, list[RequestRecord]] = {}
        self.loads: dict[LoadKey, list[RequestRecord]] = {}

    def add(self, entry: RequestRecord) -> None:
        if is_learnable(entry):
            self._add_learnable(entry)
        elif has_loaded(entry):
            self._add_load(entry)

    def _add_learnable(self, entry: RequestRecord) -> None:
        model = _storable(entry.model)
        key = (_storable(entry.attempts[-1].endpoint_id), _served(entry), _storable(entry.kind))
        self.speeds.setdefault(key, []).append(entry)
        self.lengths.setdefault((model, ""), []).append(entry)
        if entry.api_key_id:
            self.lengths.setdefault((model, _storable(entry.api_key_id)), []).append(entry)

    def _add_load(self, entry: RequestRecord) -> None:
        key = (_storable(entry.attempts[-1].endpoint_id), _served(entry))
        self.loads.setdefault(key, []).append(entry)


def _served(entry: RequestRecord) -> str:
    """Return the model whose speed a record shows: a model name may lead anywhere, while aliases mean one model."""
    attempt = entry.attempts[-1]
    return _storable(attempt.served if attempt.step and attempt.served else entry.model)


def _of_past(entries: list[RequestRecord], samples: list[SpeedSample]) -> list[SpeedSample]:
    """Return the samples that a past can keep of a batch. `samples`: those that its window can keep."""
    return samples if len(entries) <= WINDOW else past_rows.chosen(entries)  # of few records, they are all


def _once(sample: Callable[[RequestRecord], S | None]) -> Callable[[RequestRecord], S | None]:
    """Return a function that makes the sample of each record of a batch once."""
    made: dict[int, S | None] = {}

    def once(entry: RequestRecord) -> S | None:
        number = id(entry)
        if number not in made:
            made[number] = sample(entry)
        return made[number]

    return once


def _samples(
    entries: dict[Key, list[RequestRecord]], sample: Callable[[RequestRecord], S | None]
) -> dict[Key, list[S]]:
    """Return the samples of each key that has any, at least those that can enter its window."""
    horizon = round(time.time() * 1e6)
    newest = {key: _newest(of_key, sample, horizon) for key, of_key in entries.items()}
    return {key: samples for key, samples in newest.items() if samples}


def _newest(entries: list[RequestRecord], sample: Callable[[RequestRecord], S | None], horizon: int) -> list[S]:
    if len(entries) <= WINDOW:
        return [made for entry in entries if (made := sample(entry)) is not None]
    samples: set[S] = set()
    past, last = 0, 0
    for entry in sorted(entries, key=_completed_us, reverse=True):
        completed_us = entry.completed_us
        if past >= WINDOW and completed_us != last:  # the tie-break decides between simultaneous ones
            break
        made = sample(entry)
        if made is not None and made not in samples:
            samples.add(made)
            last = completed_us
            past += completed_us <= horizon  # samples in the future are stored in addition
    return list(samples)


_completed_us = attrgetter("completed_us")


def _merged(cursor: Any, table: str, columns: Sequence[str], new: dict[Key, list[S]]) -> Iterator[tuple[Any, ...]]:
    """Yield rows with the last samples of the stored and the new ones, in the order of their keys."""
    keys, now = sorted(new), time.time()
    stored = bulk.find(cursor, table, columns, ("samples",), keys)
    for key in keys:
        before = bytes(stored[key][0]) if key in stored else b""
        yield (*key, _packed.merged((table, key), before, new[key], now))


def speed_windows(keys: Sequence[WindowKey]) -> dict[WindowKey, list[SpeedSample]]:
    """Return the current samples of these keys, as far as there are any. Raises django.db.Error."""
    return _read(SPEEDS, SPEED_KEYS, keys, unpack_speeds)


def length_windows(keys: Sequence[LengthKey]) -> dict[LengthKey, list[LengthSample]]:
    """Return the current samples of these keys, as far as there are any. Raises django.db.Error."""
    return _read(LENGTHS, LENGTH_KEYS, keys, unpack_lengths)


def load_windows(keys: Sequence[LoadKey]) -> dict[LoadKey, list[LoadSample]]:
    """Return the current samples of these keys, as far as there are any. Raises django.db.Error."""
    return _read(LOADS, LOAD_KEYS, keys, unpack_loads)


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
        {(str(endpoint_id), model) for endpoint_id, model in LoadWindow.objects.values_list(*LOAD_KEYS).iterator()},
    )


def starts() -> dict[str, Start]:
    """Return when the slow start of each endpoint began, by id. Raises django.db.Error."""
    rows = SlowStart.objects.values_list("endpoint_id", "since_us", "base_url")
    return {str(endpoint_id): (since_us, base_url) for endpoint_id, since_us, base_url in rows}


def write_starts(slow_starts: dict[str, Start]) -> None:
    """Store when the slow starts of endpoints began. Raises django.db.Error."""
    with connection.cursor() as cursor:
        _WRITE_STARTS.write(cursor, [(endpoint_id, *start) for endpoint_id, start in sorted(slow_starts.items())])


def forget_deleted_keys() -> None:
    """Delete the lengths of API keys that are deleted. Raises django.db.Error."""
    deleted = "api_key_id <> '' AND api_key_id NOT IN (SELECT CAST(id AS text) FROM api_keys)"
    with connection.cursor() as cursor:
        cursor.execute(sql.delete(LENGTHS, deleted))


def averages() -> dict[str, dict[tuple[str, str], float]]:
    """Return tokens per second by endpoint, and by requested model and kind. Raises django.db.Error.

    They are those of an adopted database's days, and the moving averages, which are more recent.
    """
    endpoint_averages: dict[str, dict[tuple[str, str], float]] = {}
    days = DailyStat.objects.values_list("endpoint_id", "model_id", "api_kind").annotate(
        SaneSum("total_output_tokens"), SaneSum("total_duration_ms")
    )
    for endpoint_id, model, kind, tokens, duration_ms in days.iterator():
        if tokens and duration_ms:
            endpoint_averages.setdefault(str(endpoint_id), {})[model, kind] = tokens / (duration_ms / 1000)
    values = MovingAverage.objects.values_list("endpoint_id", "model", "kind", "value")
    for endpoint_id, model, kind, value in values.iterator():
        if value > 0:
            endpoint_averages.setdefault(str(endpoint_id), {})[model, kind] = value
    return endpoint_averages
