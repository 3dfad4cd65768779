"""Retention: recent rows stay, and no figure changes."""

import time
from datetime import timedelta

import pytest
import time_machine
from django.utils import timezone

from access.models import INFERENCE, ApiKey
from metrics import tasks
from metrics.models import DailyStat, DayRollUp, LengthWindow, MinuteRollUp, MovingAverage, RequestHistory
from tests.access.people import make_user
from tests.metrics.learning.work import answered
from tests.metrics.records import KEY, A, load, request
from tests.metrics.world import World, reported, restored

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

DAY = 86_400.0


@pytest.fixture
def now() -> float:
    return time.time()


def store(world: World, *ages: float) -> None:
    """One request of each age, in seconds before now."""
    moment = time.time()
    world.gateway(*[request(completed_us=round((moment - age) * 1e6)) for age in ages])
    world.write()


def test_rows_beyond_retention_are_deleted(world: World) -> None:
    store(world, 0, 29.9 * DAY, 30.1 * DAY, 90 * DAY)
    assert tasks.prune_history() == 2
    oldest = RequestHistory.objects.order_by("completed_at").first()
    assert oldest is not None
    assert oldest.completed_at > timezone.now() - timedelta(days=30)


def test_a_second_run_deletes_nothing(world: World) -> None:
    store(world, 31 * DAY)
    assert (tasks.prune_history(), tasks.prune_history()) == (1, 0)


def test_many_rows_are_deleted_in_batches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CHUNK", 3)
    store(world, *[31 * DAY + seconds for seconds in range(10)], 0)
    assert tasks.prune_history() == 10
    assert RequestHistory.objects.count() == 1


def test_old_minutes_are_deleted_and_days_stay(world: World) -> None:
    store(world, 0, 7 * DAY, 9 * DAY)
    tasks.prune_history()
    assert MinuteRollUp.objects.count() == 2
    assert DayRollUp.objects.count() == DailyStat.objects.count() == 3


def test_pruning_changes_no_figure(world: World, endpoints: object, now: float) -> None:
    ages = [half_days * DAY / 2 for half_days in range(80)]
    world.gateway(*[request(completed_us=round((now - age) * 1e6), output_tokens=9) for age in ages])
    world.write()
    before = reported(restored(now))
    tasks.prune_history()
    assert RequestHistory.objects.count() < 80
    assert reported(restored(now)) == before


def test_pruning_everything_changes_no_figure(world: World, endpoints: object, now: float) -> None:
    later = now + 40 * DAY
    world.gateway(*[request(completed_us=round(now * 1e6), output_tokens=9), *load(4, 30)])
    world.write()
    before = reported(restored(later))
    with time_machine.travel(later, tick=False):
        tasks.prune_history()
    assert not RequestHistory.objects.exists()
    assert not MinuteRollUp.objects.exists()
    assert reported(restored(later)) == before
    assert before["durations"].p95 is not None


def test_averages_are_not_pruned(world: World) -> None:
    world.gateway(request(output_tokens=9, ago=300 * DAY))
    world.write()
    tasks.prune_history()
    assert [str(row.endpoint_id) for row in MovingAverage.objects.all()] == [A]


def test_lengths_of_deleted_api_keys_are_deleted(world: World) -> None:
    kept = str(ApiKey.issue(make_user(), "script", [INFERENCE])[0].pk)
    world.gateway(answered(api_key_id=kept), answered(api_key_id=KEY))
    world.write()
    tasks.prune_history()
    assert {row.api_key_id for row in LengthWindow.objects.all()} == {"", kept}
