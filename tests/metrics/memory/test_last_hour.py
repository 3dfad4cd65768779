"""Sums of the last 60 minutes: independent of the order of records, and dropped with their minute."""

import pytest

from gateway.ipc import record
from metrics.counting.cells import Cell
from metrics.counting.fold import Fold
from metrics.memory import last_hour
from metrics.memory.last_hour import ATTEMPTS, FAILED, KEY, MODEL, RETAINED_MINUTES, LastHour, ranked
from metrics.memory.trackers import Trackers
from tests.metrics.records import AT, MINUTE, A, B, attempt, load, request
from tests.metrics.records import KEY as KEY_ID
from tests.metrics.world import UTC_ZONE, World, restored


def summed(*entries: record.RequestRecord, now: float = AT) -> dict[last_hour.HourKey, int]:
    made = Trackers(UTC_ZONE)
    made.add(Fold(UTC_ZONE).add_all(entries))
    return dict(made.figures(now).hour)


def test_requests_are_counted_by_model_and_key_and_attempts_by_endpoint() -> None:
    failed_over = request(attempts=(attempt(record.FAILED, B), attempt()), api_key_id=KEY_ID)
    assert summed(failed_over) == {
        (ATTEMPTS, A): 1, (ATTEMPTS, B): 1, (FAILED, B): 1, (MODEL, "tiny"): 1, (KEY, KEY_ID): 1,
    }  # fmt: skip


def test_cancelled_and_rejected_requests_are_not_counted() -> None:
    assert summed(request(record.CANCELLED), request(record.REJECTED)) == {}


def test_a_request_without_an_endpoint_counts_for_its_model_and_key() -> None:
    assert summed(request(record.NO_ENDPOINT)) == {(MODEL, "tiny"): 1, (KEY, ""): 1}


@pytest.mark.parametrize(("ago", "counted"), [(59 * 60, True), (60 * 60, False)])
def test_sixty_minutes_are_counted(ago: float, counted: bool) -> None:
    assert bool(summed(request(ago=ago))) is counted


def test_old_minutes_are_subtracted_and_return_with_the_clock() -> None:
    made = Trackers(UTC_ZONE)
    made.add(Fold(UTC_ZONE).add_all([request()]))
    before = made.figures(AT).hour
    assert made.figures(AT + 3600).hour == {}
    assert made.figures(AT).hour == before


def test_old_minutes_are_dropped() -> None:
    made = LastHour()
    made.add(MINUTE, A, "tiny", "", Cell(requests_ok=1, attempts_ok=1))
    made.advance(MINUTE + RETAINED_MINUTES)
    assert not made.minutes


def test_the_largest_come_first_and_equal_ones_by_name() -> None:
    sums = {(MODEL, "b"): 2, (MODEL, "a"): 2, (MODEL, "c"): 3, (KEY, "k"): 9, (MODEL, "d"): 1}
    assert ranked(sums, MODEL, 3) == [("c", 3), ("a", 2), ("b", 2)]


@pytest.mark.django_db
@pytest.mark.parametrize("seed", range(3))
def test_a_restart_does_not_change_the_sums(world: World, seed: int) -> None:
    world.gateway(*load(seed, 300, seconds=3 * 3600))
    world.write()
    before, after = world.figures(), restored()
    assert (after.hour, after.points, dict(after.totals_today)) == (
        before.hour,
        before.points,
        dict(before.totals_today),
    )
    assert before.hour
    assert after.tokens_per_second == before.tokens_per_second
