"""A content security policy on every response, and pages that obey it: nothing inline, nothing from other hosts."""

import asyncio
from html.parser import HTMLParser
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory
from django.utils import timezone

from access.models import ApiKey
from metrics.models import RequestHistory
from routerdash.web.middleware import POLICY, ContentSecurityPolicy, ViewersZone
from tests.access.people import Api, key_for
from tests.metrics.records import A, request
from tests.metrics.world import World, add_endpoint

HEADER = "Content-Security-Policy"


class Inline(HTMLParser):
    """Collects everything that the policy would not run, show or send."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        data = given.get("type") == "application/json"
        if tag == "style" or (tag == "script" and not given.get("src") and not data):
            self.refused.append(f"<{tag}>")
        self.refused += [f"{tag} {name}" for name in given if name == "style" or name.startswith("on")]
        for name in ("src", "href", "action", "formaction"):
            address = given.get(name) or ""
            if address.startswith(("javascript:", "http:", "https:", "//")):
                self.refused.append(f"{tag} {name}={address}")


def inline(response: Any) -> list[str]:
    parser = Inline()
    parser.feed(response.content.decode())
    return parser.refused


def test_the_parser_finds_what_it_should() -> None:
    parser = Inline()
    parser.feed("<style></style><script>1</script><p style='x' onclick='y'><a href='javascript:z'><img src='//e'>")
    assert parser.refused == ["<style>", "<script>", "p style", "p onclick", "a href=javascript:z", "img src=//e"]


def test_the_policy_allows_nothing_inline_and_no_other_host() -> None:
    assert "unsafe" not in POLICY
    assert "http" not in POLICY
    for rule in ("default-src 'self'", "object-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert rule in POLICY


# Every response


@pytest.mark.parametrize("path", ["/", "/login", "/nothing", "/health", "/ready", "/admin/", "/api/version", "/api/x"])
@pytest.mark.django_db
def test_public_responses_have_the_policy(client: Client, path: str) -> None:
    assert client.get(path).headers[HEADER] == POLICY


@pytest.mark.django_db
def test_responses_of_the_api_have_the_policy(script: Api) -> None:
    for path in ("/api/dashboard/overview", "/api/endpoints", "/api/schema/"):
        assert script.get(path).headers[HEADER] == POLICY


def test_error_responses_have_the_policy(client: Client) -> None:
    assert client.get("/api/dashboard/overview").headers[HEADER] == POLICY
    assert client.post("/api/version").headers[HEADER] == POLICY


def test_live_events_have_the_policy() -> None:
    async def request_events() -> Any:
        return await AsyncClient().get("/api/dashboard/events")

    assert asyncio.run(request_events()).headers[HEADER] == POLICY


def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(headers={HEADER: "default-src 'none'"} if request.path == "/own" else {})


def test_a_response_with_its_own_policy_keeps_it() -> None:
    middleware: Any = ContentSecurityPolicy(view)
    assert middleware(RequestFactory().get("/own")).headers[HEADER] == "default-src 'none'"
    assert middleware(RequestFactory().get("/")).headers[HEADER] == POLICY


def test_the_middleware_works_under_asgi() -> None:
    async def later(request: HttpRequest) -> HttpResponse:
        return view(request)

    middleware: Any = ContentSecurityPolicy(later)
    assert asyncio.run(middleware(RequestFactory().get("/"))).headers[HEADER] == POLICY


# Every page


@pytest.fixture
def filled(shown_world: World, admin: Any) -> None:
    """Data for every page."""
    add_endpoint(A, "a", latency_ms=5, status="offline", notes="one\ntwo", last_error="HTTP 503")
    shown_world.gateway(request(output_tokens=7))
    shown_world.write()
    key_for(admin, "endpoints.read")


ADMIN = [
    "/admin/",
    "/admin/endpoints/endpoint/",
    "/admin/endpoints/endpoint/add/",
    f"/admin/endpoints/endpoint/{A}/change/",
    f"/admin/endpoints/endpoint/{A}/delete/",
    f"/admin/endpoints/endpoint/{A}/history/",
    "/admin/metrics/requesthistory/",
    "/admin/access/apikey/",
    "/admin/access/apikey/add/",
    "/admin/access/user/",
    "/admin/access/user/add/",
]


@pytest.mark.parametrize("path", ["/", f"/endpoints/{A}", "/account/password", "/nothing", *ADMIN])
@pytest.mark.django_db
def test_pages_have_nothing_inline(as_admin: Api, filled: None, path: str) -> None:
    response = as_admin.get(path)
    assert response.status_code == (404 if path == "/nothing" else 200)
    assert response.headers[HEADER] == POLICY
    assert inline(response) == []


@pytest.mark.django_db
def test_pages_of_rows_have_nothing_inline(as_admin: Api, filled: None) -> None:
    row, key = RequestHistory.objects.get(), ApiKey.objects.get()
    paths = [f"metrics/requesthistory/{row.pk}/change/", f"access/apikey/{key.pk}/change/"]
    for path in [*paths, f"access/apikey/{key.pk}/delete/", f"access/user/{key.created_by_id}/change/"]:
        response = as_admin.get(f"/admin/{path}")
        assert response.status_code == 200
        assert inline(response) == []


@pytest.mark.django_db
def test_the_page_of_a_new_key_has_nothing_inline(as_admin: Api, admin: Any) -> None:
    form = {"name": "new", "created_by": admin.pk, "permissions": ["endpoints.read"]}
    response = as_admin.post("/admin/access/apikey/add/", form)
    assert b"data-new-key" in response.content
    assert inline(response) == []


@pytest.mark.django_db
def test_forms_with_errors_have_nothing_inline(as_admin: Api, client: Client) -> None:
    assert inline(client.get("/login")) == []
    assert inline(client.post("/login", {"username": "ada", "password": "wrong"})) == []
    assert inline(as_admin.post("/admin/endpoints/endpoint/add/", {})) == []
    assert inline(as_admin.post("/account/password", {})) == []


@pytest.mark.django_db
def test_confirmations_of_actions_have_nothing_inline(as_admin: Api, filled: None) -> None:
    chosen = {"action": "delete_selected", "_selected_action": [A]}
    response = as_admin.post("/admin/endpoints/endpoint/", chosen)
    assert b"Are you sure" in response.content
    assert inline(response) == []


@pytest.mark.parametrize(
    ("cookie", "zone"),
    [("Asia/Tokyo", "Asia/Tokyo"), ("", "UTC"), ("../etc", "UTC"), ("No/Where", "UTC"), ("a\x00", "UTC")],
)
def test_times_are_shown_in_the_zone_of_the_browser(cookie: str, zone: str, settings: Any) -> None:
    settings.TIME_ZONE = "UTC"
    request = RequestFactory().get("/")
    request.COOKIES["routerdash_zone"] = cookie
    response = ViewersZone(lambda _: HttpResponse(timezone.get_current_timezone_name()))(request)
    timezone.deactivate()
    assert isinstance(response, HttpResponse)
    assert response.content.decode() == zone


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/api/version", "/api/me/api-keys", "/api/nothing", "/metrics"])
def test_responses_of_the_api_are_not_cached(anybody: Api, path: str) -> None:
    assert anybody.get(path).headers["Cache-Control"] == "no-store"


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/login", "/api/version", "/health"])
def test_responses_forbid_other_sites_and_device_access(anybody: Api, path: str) -> None:
    headers = anybody.get(path).headers
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]


def test_a_view_can_allow_caching() -> None:
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(headers={"Cache-Control": "private, max-age=5"})

    middleware: Any = ContentSecurityPolicy(view)
    response = middleware(RequestFactory().get("/api/something"))
    assert response.headers["Cache-Control"] == "private, max-age=5"
