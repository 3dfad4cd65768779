"""Slow-downs as control finds them in stored samples, and pages show them."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import OperationalError, connection

from access.models import User
from benchmarks.slowdowns import Traffic
from benchmarks.slowdowns import World as Simulated
from endpoints import edit_log
from endpoints.models import Endpoint
from endpoints.registry import registry
from gateway.base.request_kinds import CHAT
from metrics.api.prometheus import text
from metrics.learning import current_slowdowns as module
from metrics.learning import slowdown
from metrics.learning.current_slowdowns import Slowdowns, SlowModel, slowdowns
from metrics.learning.past import PastSample, hour_of, pack
from metrics.learning.slowdown import DAY_US, Reference, Slowdown
from metrics.models import PastSpeeds
from metrics.queries.figures import Moment
from metrics.times import json_time
from tests.access.people import Api
from tests.metrics.records import AT, NOW, A, B
from tests.metrics.world import World, add_endpoint

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

TODAY = 20_522  # days since 1970: 2026-03-10
NOON = (TODAY + 0.5) * 86_400


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    slowdowns.reset()
    yield
    slowdowns.reset()


def store(endpoint_id: str, *, factor: float, days: int = 25, slow_slot: int = 60) -> None:
    """Store days of traffic, of which the last one, until noon, has requests that are slower since 10:00."""
    traffic = Traffic(Simulated("stored", 4.0), endpoint_id)
    rows: dict[int, list[PastSample]] = {}
    for day in range(TODAY - days + 1, TODAY + 1):
        today = day == TODAY
        for sample in traffic.day(day, factor if today else 1.0, slow_slot if today else 0):
            if sample.completed_us <= NOON * 1e6:
                rows.setdefault(hour_of(sample.completed_us), []).append(sample)
    for hour, samples in rows.items():
        PastSpeeds(endpoint_id=endpoint_id, model="m", kind=CHAT, hour=hour, samples=pack(samples)).save(
            force_insert=True
        )


def test_the_slow_endpoint_is_found(db: None) -> None:
    for endpoint_id, name, factor in ((A, "a", 2.0), (B, "b", 1.0)):
        add_endpoint(endpoint_id, name, status="online")
        store(endpoint_id, factor=factor)
    registry.reload()
    slowdowns.refresh(NOON)
    (slow_model,) = slowdowns.current(NOON)
    assert (slow_model.endpoint_id, slow_model.model, slow_model.kind) == (A, "m", CHAT)
    assert slow_model.factor == pytest.approx(2.0, rel=0.1)
    assert abs((slow_model.since - datetime(2026, 3, 10, 10, tzinfo=UTC)).total_seconds()) < 1800
    assert slowdowns.of_endpoint(A, NOON) == [slow_model]
    assert slowdowns.of_endpoint(B, NOON) == []
    other = Slowdowns()  # as after a restart
    other.refresh(NOON)
    assert other.current(NOON) == [slow_model]


def logged(moment: datetime, **values: Any) -> None:
    """Store an edit of A."""
    message = edit_log.message({name: (None, value) for name, value in values.items()})
    LogEntry.objects.create(
        user=User.objects.get(), content_type=ContentType.objects.get_for_model(Endpoint), object_id=A,
        object_repr="a", action_flag=CHANGE, change_message=json.dumps(message), action_time=moment,
    )  # fmt: skip


@pytest.mark.usefixtures("frozen_clock")
def test_what_happened_at_that_time_is_beside_it(as_viewer: Api, shown_world: World) -> None:
    moment = NOW - timedelta(hours=3)
    add_endpoint(A, "a", status="offline")
    Endpoint.objects.update(registered_at=NOW - timedelta(days=9))
    for hours in (2, 1, 0, -1, -2):  # the state is known while there are checks
        Endpoint.record_check(A, success=True, latency_ms=5, error=None, checked_at=moment - timedelta(hours=hours))
    logged(moment - timedelta(hours=7), name="too early")
    logged(moment - timedelta(hours=1), max_concurrency=4, notes="n")
    registry.reload()
    slow = SlowModel(A, "m", CHAT, Slowdown(round(moment.timestamp() * 1e6), 1.84, 40, round(AT * 1e6)))
    slowdowns._slow_models = {(A, "m", CHAT): slow}
    (row,) = as_viewer.call("GET", f"/api/endpoints/{A}/slowdowns").json()
    assert (row["model"], row["factor"], row["requests"], row["since"]) == ("m", 1.84, 40, json_time(moment))
    happened = [(event["what"], event["state"], event["changed"]) for event in row["nearby"]]
    assert ("edited", None, ["max_concurrency", "notes"]) in happened
    assert ("state", "online", []) in happened
    assert ("edited", None, ["name"]) not in happened
    page = " ".join(as_viewer.get(f"/endpoints/{A}").content.decode().split())
    assert "Slower than before: 1.8 ×" in page
    assert "about 1.8 × as long as such requests did before" in page
    assert f'routerdash_endpoint_slowdown{{endpoint_id="{A}",endpoint_name="a"}} 1.84' in text(Moment.now()).decode()


def test_a_page_without_slow_downs(as_viewer: Api, shown_world: World) -> None:
    add_endpoint(A, "a", status="online")
    registry.reload()
    assert as_viewer.call("GET", f"/api/endpoints/{A}/slowdowns").json() == []
    assert "Slower than before" not in as_viewer.get(f"/endpoints/{A}").content.decode()
    assert f'routerdash_endpoint_slowdown{{endpoint_id="{A}",endpoint_name="a"}} 1.0' in text(Moment.now()).decode()


def test_a_slow_down_without_later_requests_is_forgotten(db: None) -> None:
    add_endpoint(A, "a", status="online")
    registry.reload()
    store(A, factor=2.0)
    slowdowns.refresh(NOON)
    assert slowdowns.current(NOON + 86_000)
    assert not slowdowns.current(NOON + 87_000)


def test_the_reference_is_kept_for_a_day(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    add_endpoint(A, "a", status="online")
    registry.reload()
    store(A, factor=1.0)
    ends: list[int] = []
    fitted = slowdown.reference

    def noted(samples: list[PastSample], engine: str) -> Reference | None:
        ends.append(samples[-1].completed_us)
        return fitted(samples, engine)

    monkeypatch.setattr(module, "reference", noted)
    for ago in (0, 60, -60):
        slowdowns.refresh(NOON - ago)
    slowdowns.refresh(NOON + 80_000)
    assert [end // DAY_US for end in ends] == [TODAY - 8, TODAY - 7]


def test_a_new_endpoint_has_none_for_three_days(db: None) -> None:
    add_endpoint(A, "a", status="online")
    registry.reload()
    store(A, factor=3.0, days=3)
    slowdowns.refresh(NOON)
    assert slowdowns.current(NOON) == []


def test_deleted_endpoints_have_none(db: None) -> None:
    store(A, factor=3.0)
    registry.reload()
    slowdowns.refresh(NOON)
    assert slowdowns.current(NOON) == []


def test_the_thread_waits_for_the_database(
    db: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stopping = threading.Event()
    calls: list[float] = []

    def refresh(now: float) -> None:
        calls.append(now)
        if len(calls) == 3:
            stopping.set()
        raise OperationalError("away")

    watch = Slowdowns()
    monkeypatch.setattr(module, "FIRST_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(watch, "refresh", refresh)
    monkeypatch.setattr(connection, "close", lambda: None)
    answers = iter([False, True, True, True])
    watch.run(stopping, lambda: next(answers))
    assert len(calls) == 3
    assert caplog.text.count("cannot be looked for: away") == 1
