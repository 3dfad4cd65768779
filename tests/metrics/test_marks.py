"""Changes of endpoints: read from checks and from the admin's log, told with time and cause."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType

from endpoints.models import Endpoint
from endpoints.registry import registry
from metrics import marks as marks_module
from metrics.marks import ADDED, CHANGED, DELETED, STATUS, marks
from tests.access.people import make_admin
from tests.metrics.records import NOW, A, B
from tests.metrics.world import add_endpoint, without

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _now() -> Any:
    with time_machine.travel(NOW, tick=False):
        yield


def check(endpoint: Endpoint, minutes_ago: float, *, success: bool, error: str | None = None) -> None:
    at = NOW - timedelta(minutes=minutes_ago)
    Endpoint.record_check(endpoint.pk, success=success, latency_ms=5 if success else None, error=error, at=at)
    registry.reload()


def logged(endpoint_id: str, flag: int, message: str = "") -> None:
    LogEntry.objects.create(
        user=make_admin(), content_type=ContentType.objects.get_for_model(Endpoint), object_id=endpoint_id,
        object_repr="was-here", action_flag=flag, change_message=message, action_time=NOW,
    )  # fmt: skip


def test_changes_of_status_are_told_with_their_cause() -> None:
    endpoint = add_endpoint(A, "a", status="online")
    check(endpoint, 9, success=True)
    check(endpoint, 5, success=False, error="no route")
    check(endpoint, 4, success=False, error="refused")
    check(endpoint, 3, success=False, error="refused")
    marks.refresh()
    found = [(mark.what, mark.after, mark.detail) for mark in marks.recent()]
    assert found == [(STATUS, "error", "no route"), (STATUS, "offline", "refused")]
    assert marks.since(A, "offline") == NOW - timedelta(minutes=4)
    assert marks.since(A, "online") is None


def test_an_hour_is_told_but_since_when_goes_further_back() -> None:
    endpoint = add_endpoint(A, "a")
    check(endpoint, 61, success=False, error="refused")
    marks.refresh()
    assert marks.recent() == []
    assert marks.since(A, "offline") == NOW - timedelta(minutes=61)


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
def test_edits_are_told_with_who_made_them(flag: int, message: str, what: str, detail: str | None) -> None:
    logged(B, flag, message)
    marks.refresh()
    (mark,) = marks.recent()
    assert (mark.what, mark.detail, mark.by, mark.endpoint_name) == (what, detail, "ada", "was-here")


def test_nothing_is_read_while_nothing_changes(django_assert_num_queries: Any) -> None:
    endpoint = add_endpoint(A, "a")
    marks.refresh()
    with django_assert_num_queries(0):
        marks.refresh()
    check(endpoint, 0, success=True)
    marks.refresh()
    assert len(marks.recent()) == 1


@pytest.mark.parametrize("count", [1, 40])
def test_the_number_of_queries_does_not_grow(django_assert_num_queries: Any, count: int) -> None:
    for number in range(count):
        endpoint = add_endpoint(f"{number:08d}-0000-4000-8000-000000000000", f"e{number}")
        Endpoint.record_check(endpoint.pk, success=True, latency_ms=1, error=None, at=NOW)
    registry.reload()
    with django_assert_num_queries(4):
        marks.refresh()
    assert len(marks.recent()) == count


def test_the_last_ones_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks_module, "MOST", 2)
    endpoint = add_endpoint(A, "a", status="online")
    for minute in range(9, 0, -1):
        check(endpoint, minute, success=minute % 2 == 0, error="refused")
    marks.refresh()
    assert [mark.at for mark in marks.recent()] == [NOW - timedelta(minutes=minute) for minute in (2, 1)]


@pytest.mark.django_db(transaction=True)
def test_without_the_database_what_was_known_stays() -> None:
    endpoint = add_endpoint(A, "a")
    check(endpoint, 1, success=True)
    marks.refresh()
    version = marks.version
    with without("endpoint_health_checks"):
        registry.note_check(A, success=False, latency_ms=None, error="refused")
        marks.refresh()
    assert (len(marks.recent()), marks.version) == (1, version)
