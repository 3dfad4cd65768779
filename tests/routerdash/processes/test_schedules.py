"""Periodic tasks of the background process."""

from datetime import timedelta

import pytest
from django.utils import timezone
from django.utils.module_loading import import_string
from django_q.models import Schedule

from routerdash.processes import schedules

pytestmark = pytest.mark.django_db


def stored() -> dict[str, tuple[str, int]]:
    return {schedule.name: (schedule.func, schedule.minutes) for schedule in Schedule.objects.all()}


def test_every_schedule_is_stored() -> None:
    schedules.ensure()
    assert stored() == schedules.SCHEDULES


@pytest.mark.parametrize("function", [function for function, _ in schedules.SCHEDULES.values()])
def test_scheduled_functions_exist(function: str) -> None:
    assert import_string(function)() == 0


def test_a_restart_keeps_the_next_run() -> None:
    schedules.ensure()
    later = timezone.now() + timedelta(hours=5)
    Schedule.objects.update(next_run=later)
    schedules.ensure()
    assert set(Schedule.objects.values_list("next_run", flat=True)) == {later}
    assert len(stored()) == len(schedules.SCHEDULES)


def test_removed_schedules_are_deleted() -> None:
    Schedule.objects.create(name="of an older release", func="metrics.tasks.gone")
    schedules.ensure()
    assert stored() == schedules.SCHEDULES


def test_a_changed_schedule_is_stored() -> None:
    schedules.ensure()
    Schedule.objects.update(minutes=1)
    schedules.ensure()
    assert stored() == schedules.SCHEDULES
