"""Events of endpoints, read from checks and from the admin's log, with time and cause."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType

from endpoints.models import Endpoint
from endpoints.registry import registry
from metrics.memory import endpoint_events as events_module
from metrics.memory.endpoint_events import ADDED, CHANGED, DELETED, STATUS, endpoint_events
from tests.access.people import make_admin
from tests.metrics.records import NOW, A, B
from tests.metrics.world import add_endpoint, without

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]


def check(endpoint: Endpoint, minutes_ago: float, *, success: bool, error: str | None = None) -> None:
    moment = NOW - timedelta(minutes=minutes_ago)
    Endpoint.record_check(
        endpoint.pk, success=success, latency_ms=5 if success else None, error=error, checked_at=moment
    )
    registry.reload()


def logged(endpoint_id: str, flag: int, message: str = "") -> None:
    LogEntry.objects.create(
        user=make_admin(), content_type=ContentType.objects.get_for_model(Endpoint), object_id=endpoint_id,
        object_repr="was-here", action_flag=flag, change_message=message, action_time=NOW,
    )  # fmt: skip


def test_changes_of_status_are_listed_with_their_cause() -> None:
    endpoint = add_endpoint(A, "a", status="online")
    check(endpoint, 9, success=True)
    check(endpoint, 5, success=False, error="no route")
    check(endpoint, 4, success=False, error="refused")
    check(endpoint, 3, success=False, error="refused")
    endpoint_events.refresh()
    changes = [(event.kind, event.after, event.detail) for event in endpoint_events.recent()]
    assert changes == [(STATUS, "error", "no route"), (STATUS, "offline", "refused")]
    assert endpoint_events.since(A, "offline") == NOW - timedelta(minutes=4)
    assert endpoint_events.since(A, "online") is None


def test_events_cover_an_hour_and_the_time_of_the_last_change_is_older() -> None:
    endpoint = add_endpoint(A, "a")
    check(endpoint, 61, success=False, error="refused")
    endpoint_events.refresh()
    assert endpoint_events.recent() == []
    assert endpoint_events.since(A, "offline") == NOW - timedelta(minutes=61)


@pytest.mark.parametrize(
    ("flag", "message", "what", "detail"),
    [
        (ADDITION, '[{"added": {}}]', ADDED, None),
        (CHANGE, '[{"changed": {"fields": ["Name", "Base URL"]}}]', CHANGED, "Name, Base URL"),
        (CHANGE, "Draining", CHANGED, "Draining"),
        (CHANGE, "7", CHANGED, "7"),
        (DELETION, "", DELETED, None),
    ],
)
def test_edits_are_listed_with_their_author(flag: int, message: str, what: str, detail: str | None) -> None:
    logged(B, flag, message)
    endpoint_events.refresh()
    (event,) = endpoint_events.recent()
    assert (event.kind, event.detail, event.by, event.endpoint_name) == (what, detail, "ada", "was-here")


def test_the_database_is_not_read_without_changes(django_assert_num_queries: Any) -> None:
    endpoint = add_endpoint(A, "a")
    endpoint_events.refresh()
    with django_assert_num_queries(0):
        endpoint_events.refresh()
    check(endpoint, 0, success=True)
    endpoint_events.refresh()
    assert len(endpoint_events.recent()) == 1


@pytest.mark.parametrize("count", [1, 40])
def test_the_number_of_queries_does_not_grow(django_assert_num_queries: Any, count: int) -> None:
    for number in range(count):
        endpoint = add_endpoint(f"{number:08d}-0000-4000-8000-000000000000", f"e{number}")
        Endpoint.record_check(endpoint.pk, success=True, latency_ms=1, error=None, checked_at=NOW)
    registry.reload()
    with django_assert_num_queries(5):
        endpoint_events.refresh()
    assert len(endpoint_events.recent()) == count


def test_newer_changes_are_read_alone(django_assert_num_queries: Any) -> None:
    first, second = add_endpoint(A, "a"), add_endpoint(B, "b")
    check(first, 9, success=True)
    check(second, 8, success=True)
    endpoint_events.refresh()
    version = endpoint_events.version
    check(first, 2, success=False, error="refused")
    registry.reload()
    with django_assert_num_queries(2):
        endpoint_events.refresh()
    assert endpoint_events.version == version + 1
    assert [(event.endpoint_id, event.after) for event in endpoint_events.recent()] == [
        (A, "online"),
        (B, "online"),
        (A, "error"),
    ]
    assert endpoint_events.since(A, "error") == NOW - timedelta(minutes=2)
    assert endpoint_events.since(B, "online") == NOW - timedelta(minutes=8)


def test_an_edit_has_all_events_read_again() -> None:
    endpoint = add_endpoint(A, "a")
    check(endpoint, 2, success=True)
    endpoint_events.refresh()
    Endpoint.objects.filter(pk=endpoint.pk).update(name="renamed")
    logged(A, CHANGE, "Name")
    registry.reload()
    endpoint_events.refresh()
    assert [(event.kind, event.endpoint_name) for event in endpoint_events.recent()] == [
        (STATUS, "renamed"),
        (CHANGED, "renamed"),
    ]


def test_the_last_events_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "MAX_EVENTS", 2)
    endpoint = add_endpoint(A, "a", status="online")
    for minute in range(9, 0, -1):
        check(endpoint, minute, success=minute % 2 == 0, error="refused")
    endpoint_events.refresh()
    assert [event.at for event in endpoint_events.recent()] == [NOW - timedelta(minutes=minute) for minute in (2, 1)]


@pytest.mark.django_db(transaction=True)
def test_known_events_stay_without_the_database() -> None:
    endpoint = add_endpoint(A, "a")
    check(endpoint, 1, success=True)
    endpoint_events.refresh()
    version = endpoint_events.version
    with without("endpoint_health_checks"):
        registry.note_check(A, success=False, latency_ms=None, error="refused")
        endpoint_events.refresh()
    assert (len(endpoint_events.recent()), endpoint_events.version) == (1, version)
