"""The API page shows the contents of the schema, in HTML without scripts."""

import re
from typing import Any

import pytest

from routerdash.web.api_docs import sections
from tests.access.people import Api

pytestmark = pytest.mark.django_db


def operation(anchor: str) -> Any:
    return next(
        documented_operation
        for section in sections()
        for documented_operation in section.operations
        if documented_operation.anchor == anchor
    )


def page(api: Api, path: str = "/api/docs/") -> str:
    response = api.get(path)
    assert response.status_code == 200
    text: str = response.content.decode()
    return text


def test_every_operation_has_an_anchor(as_viewer: Api) -> None:
    html = page(as_viewer)
    anchors = [documented_operation.anchor for section in sections() for documented_operation in section.operations]
    assert len(anchors) == len(set(anchors))
    assert [anchor for anchor in anchors if html.count(f'id="{anchor}"') != 1 or f'href="#{anchor}"' not in html] == []


def test_fields_are_shown_with_their_types() -> None:
    (response,) = [
        documented_response
        for documented_response in operation("get-api-endpoints").responses
        if documented_response.code == "200"
    ]
    fields = {field.name: field for field in response.fields}
    assert fields["endpoints[].status"].choices == ("pending", "online", "error", "offline")
    assert fields["endpoints[].latency_ms"].nullable
    assert fields["endpoints[].last_seen"].type == "date-time"


def test_choices_are_explained_and_listed_once() -> None:
    parameters = {parameter.name: parameter for parameter in operation("get-api-requests").parameters}
    assert parameters["outcome"].text == "Outcome; `error` matches any but `ok`."
    assert parameters["outcome"].choices[:2] == ("ok", "refused")


def test_bodies_are_shown_with_required_fields() -> None:
    needed = [field.name for field in operation("post-api-endpoints").body if field.required]
    assert needed == ["name", "base_url"]


def test_an_example_is_a_shell_command() -> None:
    line = operation("post-api-endpoints").curl("http://router:1")
    assert line.startswith("curl http://router:1/api/endpoints \\\n  -H")
    assert "Bearer $ROUTERDASH_API_KEY" in line  # as on the pages of models and endpoints
    assert "--json '{\n" in line
    assert '"base_url": "http://10.0.4.21:8000"' in line
    assert operation("post-api-endpoints-endpoint_id-sync").curl("http://router:1").endswith("-X POST")
    assert "-X DELETE" in operation("delete-api-endpoints-endpoint_id").curl("http://router:1")
    assert "'http://router:1/api/route?model=llama-3.3-70b'" in operation("get-api-route").curl("http://router:1")


def test_operations_that_need_a_session_are_marked() -> None:
    assert operation("get-api-me-api-keys").login
    assert operation("get-api-version").public
    assert not operation("get-api-endpoints").login


@pytest.mark.parametrize("query", ["drain", "POST drain", "deadline_secs"])
def test_the_page_is_filtered_without_a_script(as_viewer: Api, query: str) -> None:
    shown = re.findall(r'<article [^>]*id="([^"]+)"', page(as_viewer, f"/api/docs/?q={query}"))
    assert shown == ["post-api-endpoints-endpoint_id-drain"]


def test_an_empty_result_is_shown(as_viewer: Api) -> None:
    assert re.search(r"data-none>", page(as_viewer, "/api/docs/?q=telepathy"))


def test_the_page_has_no_inline_code(as_viewer: Api) -> None:
    html = page(as_viewer)
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", html)


def test_the_page_needs_a_login(anybody: Api) -> None:
    assert anybody.get("/api/docs/")["Location"] == "/login?next=/api/docs/"


# Values of a query are never in a header

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
def test_no_query_value_is_in_a_header(as_viewer: Api, path: str, value: str) -> None:
    response = as_viewer.get(path + value)
    assert response.status_code < 500
    assert "x-evil" not in {name.lower() for name in response.headers}
    for reported in response.headers.values():
        assert reported.isprintable()


@pytest.mark.parametrize("version", IN_HEADERS)
def test_the_schemas_version_is_ignored(as_viewer: Api, version: str) -> None:
    response, plain = (as_viewer.get(f"/api/schema/{query}") for query in (f"?version={version}", ""))
    assert response.status_code == 200
    assert response.headers["Content-Disposition"] == plain.headers["Content-Disposition"]
    assert response.content == plain.content


def test_an_unknown_language_creates_no_additional_schema(as_viewer: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = as_viewer.get("/api/schema/?lang=en").content

    def generate(*_: Any, **__: Any) -> None:
        raise AssertionError("it was generated again")

    monkeypatch.setattr("routerdash.web.schema_file.SchemaGenerator.get_schema", generate)
    assert as_viewer.get("/api/schema/?lang=xx").content == plain
