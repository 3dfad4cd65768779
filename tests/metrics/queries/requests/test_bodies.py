"""Stored bodies: for administrators only, returned as stored, and each access is logged."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from access.models import MANAGE_ENDPOINTS, READ_ENDPOINTS, User
from gateway.dialects.redact import MAX_STORED_BYTES
from metrics.queries.requests import bodies
from tests.access.people import Api, key_for, with_key
from tests.metrics.records import request
from tests.metrics.world import World

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

REQUESTED = '{"model": "tiny", "messages": [{"role": "user", "content": "<script>"}]}'
NOTHING: dict[str, Any] = {"request": None, "response": None, "endpoint_errors": []}
NOWHERE = "eeeeeeee-0000-4000-8000-000000000009"


def written(shown_world: World, **fields: Any) -> str:
    entry = request(**fields)
    shown_world.gateway(entry)
    shown_world.write()
    return entry.id


def access_log() -> list[tuple[Any, ...]]:
    return list(LogEntry.objects.order_by("id").values_list("user_id", "object_id", "action_flag", "change_message"))


def test_bodies_are_returned_as_json(as_admin: Api, shown_world: World) -> None:
    one = written(shown_world, request_body=REQUESTED, response_body='{"id": "x"}')
    response = as_admin.call("GET", f"/api/requests/{one}/bodies").json()
    assert response["request"]["messages"][0]["content"] == "<script>"
    assert response["response"] == {"id": "x"}


def test_each_access_is_logged(as_admin: Api, admin: User, shown_world: World) -> None:
    one = written(shown_world, request_body=REQUESTED)
    for path in (
        f"/api/requests/{one}/bodies",
        f"/requests/{one}/bodies",
        f"/admin/metrics/requesthistory/{one}/change/",
    ):
        assert as_admin.get(path).status_code == 200
    assert access_log() == [(admin.pk, one, bodies.VIEWED, "Looked at the bodies.")] * 3


def test_requests_without_bodies_log_no_access(as_admin: Api, shown_world: World) -> None:
    one = written(shown_world)
    assert as_admin.call("GET", f"/api/requests/{one}/bodies").json() == NOTHING
    assert as_admin.call("GET", f"/api/requests/{NOWHERE}/bodies").status_code == 404
    assert as_admin.get(f"/requests/{one}").status_code == 200
    assert access_log() == []


def test_bodies_need_an_administrator(as_viewer: Api, anybody: Api, admin: User, shown_world: World) -> None:
    one = written(shown_world, request_body=REQUESTED)
    script = with_key(key_for(admin, READ_ENDPOINTS, MANAGE_ENDPOINTS))
    for api, status in ((anybody, 401), (as_viewer, 403), (script, 403)):
        assert api.call("GET", f"/api/requests/{one}/bodies").status_code == status
    assert as_viewer.get(f"/requests/{one}/bodies").status_code == 403
    html = as_viewer.get(f"/requests/{one}").content.decode()
    assert "Only administrators, and users whom they have permitted, may view request and response bodies." in html
    assert "Show the bodies" not in html
    assert access_log() == []


@pytest.mark.django_db(transaction=True)
def test_a_viewer_sees_bodies_while_the_permission_is_granted(
    as_admin: Api, as_viewer: Api, viewer: User, shown_world: World
) -> None:
    one = written(shown_world, request_body=REQUESTED)
    form = {"username": "vera", "role": "viewer"}
    for granted, status in (({"view_bodies": "on"}, 200), ({}, 403)):
        as_admin.post(f"/admin/access/user/{viewer.pk}/change/", form | granted)
        assert as_viewer.call("GET", f"/api/requests/{one}/bodies").status_code == status
        assert as_viewer.get(f"/requests/{one}/bodies").status_code == status
        shown = as_viewer.get(f"/requests/{one}").content.decode()
        assert ("Show the bodies" in shown) is (status == 200)
    assert [look[:3] for look in access_log() if look[2] == bodies.VIEWED] == [(viewer.pk, one, bodies.VIEWED)] * 2


def test_a_viewers_key_cannot_read_bodies(viewer: User, shown_world: World) -> None:
    User.objects.update(view_bodies=True)
    one = written(shown_world, request_body=REQUESTED)
    assert with_key(key_for(viewer, READ_ENDPOINTS)).call("GET", f"/api/requests/{one}/bodies").status_code == 403


def test_a_page_shows_bodies_on_request(as_admin: Api, shown_world: World) -> None:
    one = written(shown_world, request_body=REQUESTED, streamed=True)
    html = as_admin.get(f"/requests/{one}").content.decode()
    assert f'href="/requests/{one}/bodies"' in html
    assert "&lt;script&gt;" not in html
    html = as_admin.get(f"/requests/{one}/bodies").content.decode()
    assert "&quot;content&quot;: &quot;&lt;script&gt;&quot;\n" in html
    assert "Not stored: streamed responses are never stored." in html


def test_a_page_shows_why_there_are_no_bodies(as_admin: Api, shown_world: World) -> None:
    html = as_admin.get(f"/requests/{written(shown_world)}").content.decode()
    assert "Not stored: ROUTERDASH_STORE_BODIES is “none”." in html


def test_a_truncated_body_is_text(as_admin: Api, shown_world: World) -> None:
    one = written(shown_world, request_body='{"model": "tiny", "a": "' + "x" * MAX_STORED_BYTES + "…")
    assert as_admin.call("GET", f"/api/requests/{one}/bodies").json()["request"].endswith("x…")


def test_very_long_bodies_are_cut_on_pages() -> None:
    assert bodies.shown_body({"a": 1}) == ('{\n  "a": 1\n}', True)
    text, whole = bodies.shown_body("x" * 2 * bodies.MAX_SHOWN_CHARACTERS)
    assert (len(text), whole) == (bodies.MAX_SHOWN_CHARACTERS, False)
