"""The API's page says what the schema says, in HTML alone."""

import re
from typing import Any

import pytest

from routerdash.api_docs import rooms
from tests.access.people import Api

pytestmark = pytest.mark.django_db


def operation(anchor: str) -> Any:
    return next(it for room in rooms() for it in room.operations if it.anchor == anchor)


def page(api: Api, path: str = "/api/docs/") -> str:
    response = api.get(path)
    assert response.status_code == 200
    text: str = response.content.decode()
    return text


def test_every_operation_has_its_place(as_viewer: Api) -> None:
    html = page(as_viewer)
    anchors = [it.anchor for room in rooms() for it in room.operations]
    assert len(anchors) == len(set(anchors))
    assert [it for it in anchors if html.count(f'id="{it}"') != 1 or f'href="#{it}"' not in html] == []


def test_fields_are_told_with_what_is_in_them() -> None:
    (answer,) = [it for it in operation("get-api-endpoints").answers if it.code == "200"]
    fields = {it.name: it for it in answer.fields}
    assert fields["endpoints[].status"].choices == ("pending", "online", "error", "offline")
    assert fields["endpoints[].latency_ms"].nullable
    assert fields["endpoints[].last_seen"].type == "date-time"


def test_what_choices_mean_is_told_and_their_list_once() -> None:
    parameters = {it.name: it for it in operation("get-api-requests").parameters}
    assert parameters["outcome"].text == "`error`: any but `ok`."
    assert parameters["outcome"].choices[:2] == ("ok", "refused")


def test_bodies_are_told_with_what_must_be_there() -> None:
    needed = [it.name for it in operation("post-api-endpoints").body if it.required]
    assert needed == ["name", "base_url"]


def test_an_example_is_a_line_for_a_shell() -> None:
    line = operation("post-api-endpoints").curl("http://router:1")
    assert line.startswith("curl http://router:1/api/endpoints \\\n  -H")
    assert "Bearer $ROUTERDASH_API_KEY" in line  # as on the pages of models and endpoints
    assert "--json '{\n" in line
    assert '"base_url": "http://10.0.4.21:8000"' in line
    assert operation("post-api-endpoints-endpoint_id-sync").curl("http://router:1").endswith("-X POST")
    assert "-X DELETE" in operation("delete-api-endpoints-endpoint_id").curl("http://router:1")
    assert "'http://router:1/api/route?model=llama-3.3-70b'" in operation("get-api-route").curl("http://router:1")


def test_what_a_key_cannot_do_is_said() -> None:
    assert operation("get-api-me-api-keys").login
    assert operation("get-api-version").public
    assert not operation("get-api-endpoints").login


@pytest.mark.parametrize("asked", ["drain", "POST drain", "deadline_secs"])
def test_the_page_is_filtered_without_a_script(as_viewer: Api, asked: str) -> None:
    shown = re.findall(r'<article [^>]*id="([^"]+)"', page(as_viewer, f"/api/docs/?q={asked}"))
    assert shown == ["post-api-endpoints-endpoint_id-drain"]


def test_nothing_found_is_said(as_viewer: Api) -> None:
    assert re.search(r"data-none>", page(as_viewer, "/api/docs/?q=telepathy"))


def test_nothing_is_inline(as_viewer: Api) -> None:
    html = page(as_viewer)
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", html)


def test_it_is_for_people_who_logged_in(anybody: Api) -> None:
    assert anybody.get("/api/docs/")["Location"] == "/login?next=/api/docs/"


# What stands in a query never stands in a header

IN_HEADERS = ["%00", "%0d%0aX-Evil:%20y", "%0a", "%22;%20x=", "%e2%80%a8", "\u65e5\u672c", "a" * 5000]
TAKERS = [
    "/api/schema/?version=", "/api/schema/?lang=", "/api/schema/?format=", "/api/usage/export?format=csv&by=",
    "/api/usage/export?format=", "/api/usage/export?format=csv&since=", "/api/requests/export?format=",
    "/api/requests/export?progress=", "/api/dashboard/request-responses/export?format=", "/login?next=",
    "/requests?id=", "/requests?after=", "/api/dashboard/events?once=&last_event_id=", "/admin/?next=", "/usage?by=",
    "/requests?part=rows&cursor=", "/endpoints?tag=", "/clients?ip=",
]  # fmt: skip


@pytest.mark.parametrize("value", IN_HEADERS)
@pytest.mark.parametrize("path", TAKERS)
def test_no_query_breaks_out_of_a_header(as_viewer: Api, path: str, value: str) -> None:
    response = as_viewer.get(path + value)
    assert response.status_code < 500
    assert "x-evil" not in {name.lower() for name in response.headers}
    for told in response.headers.values():
        assert told.isprintable()


@pytest.mark.parametrize("version", IN_HEADERS)
def test_the_schemas_version_is_ignored(as_viewer: Api, version: str) -> None:
    answer, plain = (as_viewer.get(f"/api/schema/{query}") for query in (f"?version={version}", ""))
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"] == plain.headers["Content-Disposition"]
    assert answer.content == plain.content


def test_a_language_that_is_none_costs_no_schema_of_its_own(as_viewer: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = as_viewer.get("/api/schema/?lang=en").content

    def generate(*_: Any, **__: Any) -> None:
        raise AssertionError("it was generated again")

    monkeypatch.setattr("routerdash.api_docs.SchemaGenerator.get_schema", generate)
    assert as_viewer.get("/api/schema/?lang=xx").content == plain
