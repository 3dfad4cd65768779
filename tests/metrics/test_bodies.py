"""Stored bodies: for administrators alone, as they were stored, and no look at them goes unnoted."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from access.models import MANAGE_ENDPOINTS, READ_ENDPOINTS, User
from gateway.redact import MAX_STORED_BYTES
from metrics import bodies
from tests.access.people import Api, key_for, with_key
from tests.metrics.records import request
from tests.metrics.world import World

pytestmark = pytest.mark.django_db

ASKED = '{"model": "tiny", "messages": [{"role": "user", "content": "<script>"}]}'
NOTHING: dict[str, Any] = {"request": None, "response": None, "endpoint_errors": []}
NOWHERE = "eeeeeeee-0000-4000-8000-000000000009"


def written(teller: World, **fields: Any) -> str:
    entry = request(**fields)
    teller.gateway(entry)
    teller.write()
    return entry.id


def looks() -> list[tuple[Any, ...]]:
    return list(LogEntry.objects.order_by("id").values_list("user_id", "object_id", "action_flag", "change_message"))


def test_they_are_told_as_json(as_admin: Api, teller: World) -> None:
    one = written(teller, request_body=ASKED, response_body='{"id": "x"}')
    answer = as_admin.call("GET", f"/api/requests/{one}/bodies").json()
    assert answer["request"]["messages"][0]["content"] == "<script>"
    assert answer["response"] == {"id": "x"}


def test_each_look_is_noted(as_admin: Api, admin: User, teller: World) -> None:
    one = written(teller, request_body=ASKED)
    for path in (
        f"/api/requests/{one}/bodies",
        f"/requests/{one}/bodies",
        f"/admin/metrics/requesthistory/{one}/change/",
    ):
        assert as_admin.get(path).status_code == 200
    assert looks() == [(admin.pk, one, bodies.LOOKED, "Looked at the bodies.")] * 3


def test_where_there_is_nothing_to_see_nothing_is_noted(as_admin: Api, teller: World) -> None:
    one = written(teller)
    assert as_admin.call("GET", f"/api/requests/{one}/bodies").json() == NOTHING
    assert as_admin.call("GET", f"/api/requests/{NOWHERE}/bodies").status_code == 404
    assert as_admin.get(f"/requests/{one}").status_code == 200
    assert looks() == []


def test_they_are_for_administrators(as_viewer: Api, anybody: Api, admin: User, teller: World) -> None:
    one = written(teller, request_body=ASKED)
    script = with_key(key_for(admin, READ_ENDPOINTS, MANAGE_ENDPOINTS))
    for api, status in ((anybody, 401), (as_viewer, 403), (script, 403)):
        assert api.call("GET", f"/api/requests/{one}/bodies").status_code == status
    assert as_viewer.get(f"/requests/{one}/bodies").status_code == 403
    html = as_viewer.get(f"/requests/{one}").content.decode()
    assert "Only administrators, and those to whom they grant it, may see what was asked and answered." in html
    assert "Show the bodies" not in html
    assert looks() == []


@pytest.mark.django_db(transaction=True)
def test_a_viewer_sees_them_from_the_moment_it_is_granted_until_it_is_taken_back(
    as_admin: Api, as_viewer: Api, viewer: User, teller: World
) -> None:
    one = written(teller, request_body=ASKED)
    form = {"username": "vera", "role": "viewer"}
    for granted, status in (({"view_bodies": "on"}, 200), ({}, 403)):
        as_admin.post(f"/admin/access/user/{viewer.pk}/change/", form | granted)
        assert as_viewer.call("GET", f"/api/requests/{one}/bodies").status_code == status
        assert as_viewer.get(f"/requests/{one}/bodies").status_code == status
        shown = as_viewer.get(f"/requests/{one}").content.decode()
        assert ("Show the bodies" in shown) is (status == 200)
    assert [look[:3] for look in looks() if look[2] == bodies.LOOKED] == [(viewer.pk, one, bodies.LOOKED)] * 2


def test_no_key_of_a_viewer_sees_them(viewer: User, teller: World) -> None:
    User.objects.update(view_bodies=True)
    one = written(teller, request_body=ASKED)
    assert with_key(key_for(viewer, READ_ENDPOINTS)).call("GET", f"/api/requests/{one}/bodies").status_code == 403


def test_a_page_shows_them_once_they_are_asked_for(as_admin: Api, teller: World) -> None:
    one = written(teller, request_body=ASKED, streamed=True)
    html = as_admin.get(f"/requests/{one}").content.decode()
    assert f'href="/requests/{one}/bodies"' in html
    assert "&lt;script&gt;" not in html
    html = as_admin.get(f"/requests/{one}/bodies").content.decode()
    assert "&quot;content&quot;: &quot;&lt;script&gt;&quot;\n" in html
    assert "Not stored: answers that are streamed never are." in html


def test_a_page_says_why_there_are_none(as_admin: Api, teller: World) -> None:
    html = as_admin.get(f"/requests/{written(teller)}").content.decode()
    assert "Not stored: ROUTERDASH_STORE_BODIES is “none”." in html


def test_one_that_was_cut_is_text(as_admin: Api, teller: World) -> None:
    one = written(teller, request_body='{"model": "tiny", "a": "' + "x" * MAX_STORED_BYTES + "…")
    assert as_admin.call("GET", f"/api/requests/{one}/bodies").json()["request"].endswith("x…")


def test_very_long_ones_are_cut_on_pages() -> None:
    assert bodies.shown({"a": 1}) == ('{\n  "a": 1\n}', True)
    text, whole = bodies.shown("x" * 2 * bodies.MOST_SHOWN)
    assert (len(text), whole) == (bodies.MOST_SHOWN, False)
