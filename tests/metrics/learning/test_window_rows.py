"""Stored samples: written with their records, exactly once, and the same whatever the order of the journals."""

import random
import time

import pytest
from django.db import connection, transaction
from msgspec import structs

from endpoints.models import Endpoint
from gateway.ipc.record import RequestRecord
from metrics.counting.fold import Fold
from metrics.learning import window_rows
from metrics.learning.from_records import load_sample, speed_sample
from metrics.learning.samples import WINDOW, unpack_speeds
from metrics.models import LengthWindow, LoadWindow, SpeedWindow
from tests.metrics.learning.work import answered
from tests.metrics.records import AT, KEY, A, B, request
from tests.metrics.world import UTC_ZONE, World

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

KEY_OF_A = (A, "tiny", "chat_completions")


def records(count: int) -> list[RequestRecord]:
    rng = random.Random(4)
    return [
        answered(
            rng.choice((A, B)),
            ago=float(count - number),
            output_tokens=rng.randint(1, 500),
            api_key_id=rng.choice((KEY, None)),
        )
        for number in range(count)
    ]


def folded(entries: list[RequestRecord]) -> Fold:
    return Fold(UTC_ZONE).add_all(entries)


def stored() -> list[object]:
    window_rows.all_keys()
    return [
        [(str(row.endpoint_id), row.model, row.kind, bytes(row.samples)) for row in SpeedWindow.objects.order_by("pk")],
        [(row.model, row.api_key_id, bytes(row.samples)) for row in LengthWindow.objects.order_by("pk")],
    ]


def test_the_samples_of_records_are_stored(world: World, endpoints: tuple[Endpoint, ...]) -> None:
    entry = answered(api_key_id=KEY)
    world.gateway(entry, request(output_tokens=5))
    world.write()
    assert window_rows.speed_windows([KEY_OF_A]) == {KEY_OF_A: [speed_sample(entry)]}
    assert window_rows.all_keys().speeds == {KEY_OF_A}
    assert window_rows.all_keys().lengths == {("tiny", ""), ("tiny", KEY)}


def test_speeds_are_learned_for_the_served_model_and_lengths_for_the_model_name(
    world: World, endpoints: tuple[Endpoint, ...]
) -> None:
    entry = answered(api_key_id=KEY)
    attempt = structs.replace(entry.attempts[-1], served="tiny", step=2)
    world.gateway(structs.replace(entry, model="fast", attempts=(attempt,)))
    world.write()
    assert window_rows.all_keys().speeds == {KEY_OF_A}
    assert window_rows.all_keys().lengths == {("fast", ""), ("fast", KEY)}


def test_only_the_last_samples_are_kept(world: World, endpoints: tuple[Endpoint, ...]) -> None:
    entries = [answered(ago=float(1000 - number)) for number in range(WINDOW + 50)]
    gateway = world.gateway(*entries[:200])
    world.write()
    for entry in entries[200:]:
        gateway.append(entry)
    world.write()
    assert window_rows.speed_windows([KEY_OF_A])[KEY_OF_A] == [speed_sample(entry) for entry in entries[-WINDOW:]]


def test_the_order_of_journals_has_no_effect(world: World, endpoints: tuple[Endpoint, ...]) -> None:
    entries = records(600)
    world.gateway(*entries)
    world.write()
    expected = stored()
    SpeedWindow.objects.all().delete()
    LengthWindow.objects.all().delete()
    shuffled = random.Random(5).sample(entries, len(entries))
    for start in range(0, len(shuffled), 77):
        with transaction.atomic(), connection.cursor() as cursor:
            window_rows.write(cursor, folded(shuffled[start : start + 99]))
    assert stored() == expected


def test_a_large_batch_keeps_the_samples_that_small_ones_keep(world: World, endpoints: tuple[Endpoint, ...]) -> None:
    """Some teach nothing, many are simultaneous, and some are from a clock that ran ahead."""
    ahead = (AT - time.time()) - 7200  # `ago` counts back from AT
    entries = [
        answered(ago=float(number // 40), output_tokens=None if number % 3 == 0 else number) for number in range(900)
    ]
    entries += [answered(ago=ahead - number) for number in range(300)]
    with transaction.atomic(), connection.cursor() as cursor:
        window_rows.write(cursor, folded(entries))
    expected = stored()
    SpeedWindow.objects.all().delete()
    LengthWindow.objects.all().delete()
    for start in range(0, len(entries), 50):
        with transaction.atomic(), connection.cursor() as cursor:
            window_rows.write(cursor, folded(entries[start : start + 50]))
    assert stored() == expected
    assert len(unpack_speeds(bytes(SpeedWindow.objects.get().samples))) == 2 * WINDOW


def test_the_learner_hears_of_samples_after_their_commit(world: World, endpoints: tuple[Endpoint, ...]) -> None:
    heard: list[window_rows.ChangedWindows] = []
    world.writer._learned = heard.append
    world.gateway(answered(), request(output_tokens=3))
    world.write()
    assert [(one.speeds, one.lengths) for one in heard] == [({KEY_OF_A}, {("tiny", "")})]


def test_other_policies_cost_no_row(world: World, endpoints: tuple[Endpoint, ...]) -> None:
    world.gateway(request(output_tokens=3, api_key_id=KEY))
    world.write()
    assert not SpeedWindow.objects.exists()
    assert not LengthWindow.objects.exists()


def test_damaged_rows_begin_again(world: World, endpoints: tuple[Endpoint, ...]) -> None:
    gateway = world.gateway(answered(ago=5))
    world.write()
    SpeedWindow.objects.update(samples=b"\xc1")
    LengthWindow.objects.update(samples=b"\xc1")
    gateway.append(entry := answered())
    world.write()
    assert window_rows.speed_windows([KEY_OF_A]) == {KEY_OF_A: [speed_sample(entry)]}


def test_names_that_a_database_cannot_store_are_written(world: World, endpoints: tuple[Endpoint, ...]) -> None:
    world.gateway(answered(model="a\0b"))
    world.write()
    assert len(window_rows.all_keys().speeds) == 1


def test_slow_starts_are_stored(db: None) -> None:
    window_rows.write_starts({A: (5, "http://a")})
    window_rows.write_starts({A: (7, "http://a"), B: (0, "http://b")})
    assert window_rows.starts() == {A: (7, "http://a"), B: (0, "http://b")}


# Loads of models


def test_a_request_that_caused_a_load_is_a_sample_of_it_alone(world: World, endpoints: tuple[Endpoint, ...]) -> None:
    caused = answered(work={"is_cold": True, "load_us": 12_000_000})
    waited = answered(work={"is_cold": True})
    failed = answered(work={"is_cold": True, "load_us": 5}, outcome="failed")
    world.gateway(caused, waited, failed)
    world.write()
    assert window_rows.load_windows([(A, "tiny")]) == {(A, "tiny"): [load_sample(caused)]}
    assert window_rows.all_keys() == window_rows.ChangedWindows(loads={(A, "tiny")})


def test_damaged_samples_of_loads_begin_again(world: World, endpoints: tuple[Endpoint, ...]) -> None:
    world.gateway(answered(work={"is_cold": True, "load_us": 1}))
    world.write()
    LoadWindow.objects.update(samples=b"\xc1")
    assert window_rows.load_windows([(A, "tiny")]) == {(A, "tiny"): []}
