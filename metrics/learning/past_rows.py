"""Rows of an endpoint's past, for slow-downs: written in the transaction of their records, and thinned with age.

A row has the samples of one hour as a set (metrics.learning.past), so that neither the retention of the history nor
ROUTERDASH_HISTORY changes what is compared.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from django.db import connection, transaction

from gateway.ipc.record import RequestRecord
from metrics import sql
from metrics.learning.from_records import speed_sample
from metrics.learning.past import PER_SLOT, PastSample, hour_of, kept_of, pack, slot_of, unpack, with_new
from metrics.learning.samples import SpeedSample
from metrics.learning.slowdown import JUDGED_HOURS, PER_HOUR, STORED_HOURS, reference_samples
from metrics.storage import bulk
from metrics.storage.bulk import Upsert

Key = tuple[str, str, str]  # endpoint, requested model, kind

PAST, PAST_KEYS = "learning_past", ("endpoint_id", "model", "kind", "hour")
_WRITE = Upsert(PAST, PAST_KEYS, replaced=["samples"])
CANDIDATES = 4 * PER_SLOT  # of many records in a slot, as far as chance may have it
NUMBERS = 1 << 48  # the number of a record has 12 hexadecimal digits
CHUNK = 500  # rows in one transaction
_MORE = bytes([0x90 + PER_HOUR + 1])  # MessagePack of more samples than a reference needs is at least this


def write(cursor: Any, samples: Mapping[Key, list[SpeedSample]]) -> None:
    """Merge samples into the stored ones, inside a transaction."""
    new: dict[tuple[str, str, str, int], list[SpeedSample]] = {}
    for key, of_key in samples.items():
        for sample in of_key:
            new.setdefault((*key, hour_of(sample.completed_us)), []).append(sample)
    _WRITE.write(cursor, _changed(cursor, new))


def chosen(entries: list[RequestRecord]) -> list[SpeedSample]:
    """Return the samples of many learnable records that `thinned` would keep, without making all of them."""
    times = [entry.completed_us for entry in entries]
    if slot_of(min(times)) == slot_of(max(times)):  # nearly always
        return _first(entries)
    by_slot: dict[int, list[RequestRecord]] = {}
    for entry in entries:
        by_slot.setdefault(slot_of(entry.completed_us), []).append(entry)
    return [sample for of_slot in by_slot.values() for sample in _first(of_slot)]


def _first(entries: list[RequestRecord]) -> list[SpeedSample]:
    """Return the samples of one slot that are kept: those with the smallest numbers."""
    # The numbers are random, so that a few below a bound suffice, and only these need to be sorted.
    if len(entries) > CANDIDATES:
        bound = f"{NUMBERS * CANDIDATES // len(entries):012x}"
        samples = _samples([entry for entry in entries if entry.id[-12:] < bound])
        if len(samples) == PER_SLOT:
            return samples
    return _samples(entries)


def _samples(entries: list[RequestRecord]) -> list[SpeedSample]:
    samples: list[SpeedSample] = []
    for entry in sorted(entries, key=_chance):
        if (sample := speed_sample(entry)) is not None:
            samples.append(sample)
            if len(samples) == PER_SLOT:
                break
    return samples


def _chance(entry: RequestRecord) -> tuple[str, int]:
    return entry.id[-12:], entry.completed_us


def _changed(cursor: Any, new: Mapping[tuple[str, str, str, int], list[SpeedSample]]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows that the new samples change, in the order of their keys."""
    keys = sorted(new)
    stored = bulk.find(cursor, PAST, PAST_KEYS, ("samples",), keys)
    for key in keys:
        before = unpack(bytes(stored[key][0])) if key in stored else []
        if entering := kept_of(before, new[key]):
            yield (*key, pack(with_new(before, entering)))


def keys_since(hour: int) -> list[Key]:
    """Return the keys with samples of this hour or later. Raises django.db.Error."""
    statement = sql.select("DISTINCT endpoint_id, model, kind", PAST, where="hour >= %s")
    with connection.cursor() as cursor:
        cursor.execute(statement, [hour])
        return sorted((str(endpoint_id), model, kind) for endpoint_id, model, kind in cursor.fetchall())


def read(key: Key, first: int, last: int) -> list[PastSample]:
    """Return the samples of these hours, both included, in the order of their completion. Raises django.db.Error."""
    where = [*sql.equal(PAST_KEYS[:3]), "hour BETWEEN %s AND %s"]
    with connection.cursor() as cursor:
        cursor.execute(sql.select("samples", PAST, where=where, order_by="hour"), [*key, first, last])
        return [sample for (packed,) in cursor.fetchall() for sample in unpack(bytes(packed))]


def prune(now_us: int) -> None:
    """Delete old rows, and thin those that are only part of a reference. Raises django.db.Error."""
    hour = hour_of(now_us)
    with connection.cursor() as cursor:
        cursor.execute(sql.delete(PAST, "hour < %s"), [hour - STORED_HOURS])
    whole = sql.select((*PAST_KEYS, "samples"), PAST, where=("hour < %s", "samples >= %s"), limit=CHUNK)
    while True:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(whole, [hour - JUDGED_HOURS, _MORE])
            rows = cursor.fetchall()
            _WRITE.write(cursor, [(*key, pack(reference_samples(unpack(bytes(packed))))) for *key, packed in rows])
        if len(rows) < CHUNK:
            break
