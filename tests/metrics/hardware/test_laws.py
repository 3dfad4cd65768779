"""`reconcile` finds each single wrong figure of own hardware."""

import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings

from gateway.base.config import load as config_of
from metrics.costs.hardware_rates import HOUR_US
from metrics.costs.hardware_work import TIME_BITS, TIME_MASK, unpack
from metrics.models import HardwareBatch, HardwareWork
from tests.metrics.costs.hardware_rates import add_rate
from tests.metrics.reconcile.test_reconcile import Reported
from tests.metrics.records import AT, NOW, A, B, load
from tests.metrics.world import World, rows

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

COUNTS = (
    "requests", "input_tokens", "output_tokens", "cached_tokens", "write_tokens", "long_write_tokens",
    "reasoning_tokens",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config_of({"ROUTERDASH_DATA_DIR": str(tmp_path), "ROUTERDASH_TIME_ZONE": "UTC"})
    monkeypatch.setattr(settings, "ROUTERDASH", made)


@pytest.fixture
def hours(world: World, endpoints: object) -> World:
    """Two days of two endpoints, one of them with energy; the rates change in the middle of an hour."""
    start = NOW - timedelta(hours=40, minutes=7)
    add_rate(A, since=start, per_hour="1.000000007")
    add_rate(A, since=start + timedelta(hours=20, seconds=77), per_hour="0.5")
    add_rate(B, since=start, currency="EUR", per_hour="0.1", idle_watts="60", busy_watts="411.5", per_kwh="0.3127")
    world.gateway(*load(61, 250, seconds=36 * 3600))
    world.write()
    while world.writer.hours.count(AT):
        pass
    world.close()
    world.gateways.clear()
    world.writer.step()
    return world


def test_right_figures_have_no_differences(hours: World) -> None:
    assert Reported().lines == ["note: not running: live figures were not compared", "all figures agree"]
    assert rows("SELECT COUNT(*) FROM hardware_hours")[0][0] > 100


def test_rows_of_earlier_versions_lead_to_the_same_figures(hours: World) -> None:
    number = 0
    for row in HardwareBatch.objects.all():
        for line in unpack(bytes(row.work)):
            names = {"model": line.model, "kind": line.kind, "api_key_id": line.api_key_id}
            spans = [(both & TIME_MASK, both >> TIME_BITS, (0,) * 7) for both in line.times]
            for start, end, counts in [*spans, *((moment, moment, counts) for moment, counts in line.counts)]:
                number += 1
                HardwareWork.objects.create(
                    hour=row.hour, endpoint_id=row.endpoint_id, request_id=uuid.UUID(int=number), attempt=0, **names,
                    start_us=row.hour * HOUR_US + start, end_us=row.hour * HOUR_US + end,
                    **dict(zip(COUNTS, counts, strict=True)),
                )  # fmt: skip
    assert number > 200
    HardwareBatch.objects.all().delete()
    assert Reported().lines[1:] == ["all figures agree"]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("UPDATE hardware_hours SET cost = cost + 1 WHERE kind <> 'idle'", "L3: cost in hardware_hours"),
        ("UPDATE hardware_hours SET cost = cost - 1 WHERE kind = 'idle'", "L3: cost in hardware_hours"),
        ("UPDATE hardware_hours SET busy_us = busy_us + 1 WHERE kind = 'idle'", "L3: busy_us in hardware_hours"),
        ("UPDATE hardware_hours SET work_us = work_us + 1 WHERE kind <> 'idle'", "L3: work_us in hardware_hours"),
        ("UPDATE hardware_hours SET output_tokens = 1 + output_tokens", "L3: output_tokens in hardware_hours"),
        ("DELETE FROM hardware_hours WHERE kind = 'idle'", "L3: idle line with a rate in hardware_hours"),
        ("DELETE FROM hardware_batches", "L3: work_us in hardware_hours"),
        ("UPDATE hardware_rates SET per_hour = per_hour + 1", "L3: cost in hardware_hours"),
        ("UPDATE rollup_hardware_days SET cost = cost + 1", "L3: cost in rollup_hardware_days"),
        ("UPDATE rollup_hardware_days SET seconds = seconds + 1", "L3: seconds in rollup_hardware_days endpoint_id="),
        ("UPDATE rollup_hardware_days SET requests = requests + 999", "L1: requests in rollup_hardware_days"),
        ("UPDATE rollup_hardware_days SET input_tokens = 999999", "L1: input_tokens in rollup_hardware_days"),
        ("UPDATE rollup_hardware_days SET cost = -1", "L1: cost in rollup_hardware_days"),
    ],
)
def test_a_wrong_figure_is_reported(hours: World, change: str, difference: str) -> None:
    rows(change)
    assert Reported().differences(difference)


def test_days_beyond_retention_still_cost_their_rate(hours: World) -> None:
    for table in ("hardware_batches", "hardware_hours"):
        rows(f"DELETE FROM {table}")
    rows("UPDATE rollup_hardware_days SET date = '2025' || substr(date, 5)")
    assert Reported().code == 0
    rows("UPDATE rollup_hardware_days SET cost = cost + 1 WHERE kind = 'idle' AND currency = 'USD'")
    assert Reported().differences("L3: cost in rollup_hardware_days", f"endpoint_id={A}", "expected ")


def test_days_are_repaired(hours: World) -> None:
    right = sorted(map(str, rows("SELECT * FROM rollup_hardware_days")))
    rows("DELETE FROM rollup_hardware_days WHERE date = '2026-03-10' AND kind <> 'idle'")
    assert Reported("--repair").code == 0
    assert sorted(map(str, rows("SELECT * FROM rollup_hardware_days"))) == right
