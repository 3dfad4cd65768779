"""Stored samples of an endpoint's past: written with their records, thinned, and the same whatever the order."""

import random
from datetime import UTC, datetime

import pytest
from django.db import connection, transaction

from endpoints.models import Endpoint
from gateway.base.request_kinds import CHAT
from gateway.ipc.record import RequestRecord
from metrics.counting.fold import Fold
from metrics.learning import past_rows, window_rows
from metrics.learning.from_records import speed_sample
from metrics.learning.past import HOUR_US, PER_SLOT, PastSample, hour_of, past_sample, thinned
from metrics.learning.slowdown import JUDGED_HOURS, PER_HOUR, STORED_HOURS, reference_samples
from metrics.models import PastSpeeds
from tests.metrics.learning.work import answered
from tests.metrics.records import A, request
from tests.metrics.world import UTC_ZONE, World

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

KEY = (A, "tiny", CHAT)
NOON_US = round(datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp() * 1e6)
HOUR = hour_of(NOON_US)


def records(count: int, every_us: int) -> list[RequestRecord]:
    """Return records up to noon. One of three teaches nothing."""
    return [
        answered(completed_us=NOON_US - 1 - number * every_us, output_tokens=None if number % 3 == 0 else number + 1)
        for number in range(count)
    ]


def samples(entries: list[RequestRecord]) -> list[PastSample]:
    return [past_sample(made) for entry in entries if (made := speed_sample(entry)) is not None]


def write(entries: list[RequestRecord]) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        window_rows.write(cursor, Fold(UTC_ZONE).add_all(entries))


def test_samples_are_stored_by_hour(world: World, endpoints: tuple[Endpoint, ...]) -> None:
    entries = records(5, HOUR_US // 2)
    world.gateway(*entries, request(output_tokens=5))
    world.write()
    assert past_rows.keys_since(HOUR - 1) == [KEY]
    assert past_rows.keys_since(HOUR) == []
    assert past_rows.read(KEY, 0, HOUR) == sorted(samples(entries))
    assert past_rows.read(KEY, HOUR - 1, HOUR) == samples(entries[1:2])


def test_any_batches_in_any_order_store_the_same(db: None) -> None:
    entries = records(900, HOUR_US // 300)
    write(entries)
    expected = past_rows.read(KEY, 0, HOUR)
    assert expected == thinned(samples(entries))
    assert len(expected) == 18 * PER_SLOT
    PastSpeeds.objects.all().delete()
    shuffled = random.Random(5).sample(entries, len(entries))
    for start in range(0, len(shuffled), 77):
        write(shuffled[start : start + 99])
    assert past_rows.read(KEY, 0, HOUR) == expected


def test_a_large_batch_within_ten_minutes_is_thinned(db: None) -> None:
    entries = records(900, 1000)
    write(entries)
    expected = past_rows.read(KEY, 0, HOUR)
    assert expected == thinned(samples(entries))
    assert len(expected) == PER_SLOT


def test_a_large_batch_of_which_little_can_be_learned_is_thinned(db: None) -> None:
    entries = records(900, 1000)
    teaching = [entry for entry in entries if entry.output_tokens is not None]
    entries = [entry for entry in entries if entry.output_tokens is None or entry in teaching[:9]]
    write(entries)
    assert past_rows.read(KEY, 0, HOUR) == thinned(samples(entries))


def test_damaged_rows_begin_again(db: None) -> None:
    entries = records(9, HOUR_US // 20)
    write(entries)
    PastSpeeds.objects.update(samples=b"\xc1")
    assert past_rows.read(KEY, 0, HOUR) == []
    write(entries[1:2])
    assert past_rows.read(KEY, 0, HOUR) == samples(entries[1:2])


def test_old_samples_are_thinned_and_then_deleted(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past_rows, "CHUNK", 1)
    write(records(200, HOUR_US // 100))
    whole = past_rows.read(KEY, 0, HOUR)
    past_rows.prune(NOON_US + (JUDGED_HOURS - 2) * HOUR_US)
    assert past_rows.read(KEY, 0, HOUR) == whole
    past_rows.prune(NOON_US + (JUDGED_HOURS + 1) * HOUR_US)
    assert past_rows.read(KEY, 0, HOUR) == reference_samples(whole)
    assert len(past_rows.read(KEY, 0, HOUR)) == 2 * PER_HOUR
    past_rows.prune(NOON_US + (STORED_HOURS + 1) * HOUR_US)
    assert not PastSpeeds.objects.exists()
