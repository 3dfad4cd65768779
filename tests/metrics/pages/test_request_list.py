"""The page of the history: the rows of the API, paginated, with messages for invalid parameters."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from access.models import ApiKey, User
from gateway.ipc import record
from metrics.exports import downloads
from metrics.memory.backlog import Backlog
from metrics.memory.runtime import runtime
from metrics.queries.requests import history
from tests.access.people import Api, key_for
from tests.markup import one_line
from tests.metrics.records import KEY, NOW, A, B, attempt, load, request
from tests.metrics.world import World

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("endpoints", "frozen_clock")]

LIST = "/requests"


def page(api: Api, query: str = "", status: int = 200) -> str:
    response = api.get(LIST + query)
    assert response.status_code == status, response.headers
    return one_line(response.content.decode())


def shown(html: str) -> list[str]:
    return re.findall(r'<tr role="row" data-id="([^"]+)"', html)


def link(html: str, text: str) -> str | None:
    """Return the query of a link of the pager."""
    match = re.search(rf'<a class="btn"[^>]* href="{LIST}([^"]*)"([^>]*)>(?:<svg.*?</svg>)?{text}', html)
    return None if match is None or "hidden" in match[2] else match[1].replace("&amp;", "&")


@pytest.fixture
def traffic(shown_world: World) -> World:
    shown_world.gateway(
        *(entry for entry in load(7, 90) if entry.outcome != record.REJECTED), request(request_id="mine")
    )
    shown_world.write()
    return shown_world


@pytest.mark.parametrize(
    "query",
    [
        "", "?since=-15m", "?until=2026-03-10T11:40:00Z", "?model=large", f"?endpoint_id={B}", "?outcome=error",
        "?outcome=truncated", "?status_code=422", f"?api_key_id={KEY}", "?min_duration_ms=5000", "?min_tokens=300",
        "?retried=true", "?streamed=false", "?client_ip=192.0.2.9", "?request_id=of-the-client",
        "?retried=true&outcome=ok&limit=3",
    ],
)  # fmt: skip
def test_the_list_shows_the_rows_of_the_api(as_viewer: Api, traffic: World, query: str) -> None:
    reported = as_viewer.call("GET", f"/api/requests{query}").json()
    html = page(as_viewer, query)
    assert shown(html) == [row["id"] for row in reported["requests"]]
    older = link(html, "Older")
    assert (older and parse_qs(urlsplit(older).query)["cursor"][0]) == reported["next"]


def test_pages_link_to_each_other(as_viewer: Api, traffic: World) -> None:
    first = page(as_viewer, "?limit=10")
    second = page(as_viewer, link(first, "Older") or "")
    third = page(as_viewer, link(second, "Older") or "")
    assert shown(page(as_viewer, link(third, "Newer") or "")) == shown(second)
    assert link(first, "Newer") is None
    response = as_viewer.get(LIST + "?limit=50&" + urlsplit(link(second, "Newer") or "").query.replace("limit=10&", ""))
    assert (response.status_code, response["Location"]) == (302, "/requests?limit=50")  # not a page that is half full


def test_a_row_has_all_important_fields(as_viewer: Api, admin: User, shown_world: World) -> None:
    key_for(admin, name="notebook")
    key = str(ApiKey.objects.get(name="notebook").pk)
    tries = (attempt(record.FAILED, B, duration_us=5), attempt())
    shown_world.gateway(
        request(model="<b>org/模型", attempts=tries, api_key_id=key, input_tokens=1234, output_tokens=50)
    )
    shown_world.write()
    html = page(as_viewer).split("<tbody")[1]
    for text in (
        ">12:00:30</time>",
        "&lt;b&gt;org/模型</span>",
        ">a</span>",
        ">notebook</span>",
        "1,234",
        ">25.0<",
        "2.00 s",
    ):
        assert text in html
    assert "Attempts:</span>2</span>" in html
    assert 'class="wf-bad"' in html
    assert "<b>org" not in html


@pytest.mark.parametrize("query", ["", f"?id={NOW}", "?retried=true", "?since=-1h&model=tiny"])
def test_number_of_queries_does_not_grow_with_rows(as_viewer: Api, shown_world: World, query: str) -> None:
    page(as_viewer, query)
    query_counts: list[int] = []
    for count in (3, 60):
        shown_world.gateway(*(request(api_key_id=KEY, model="tiny", ago=number) for number in range(count)))
        shown_world.write()
        with CaptureQueriesContext(connection) as captured:
            page(as_viewer, query)
        query_counts.append(len(captured))
    assert query_counts[0] == query_counts[1] <= 4


@pytest.mark.parametrize(
    "query",
    [
        "?since=yesterday", "?limit=x", "?outcome=fine", "?modle=x", "?min_tokens=-4", "?client_ip=a&retried=x",
        "?limit=0", "?since=2026-03-10T12:01:00Z&until=2026-03-10T12:00:59Z", "?cursor=abc", "?endpoint_id=%00",
    ],
)  # fmt: skip
def test_invalid_parameters_are_ignored_and_reported(as_viewer: Api, traffic: World, query: str) -> None:
    html = page(as_viewer, query)
    assert '<li class="warning">' in html
    assert len(shown(html)) == 50


def test_an_unknown_request_next_to_the_list_is_reported(as_viewer: Api, traffic: World) -> None:
    for text in ("eeeeeeee-0000-4000-8000-000000000009", "7"):
        html = page(as_viewer, f"?id={text}")
        assert "The history contains no request with this id" in html
        assert "data-drawer=" not in html
        assert as_viewer.get(f"{LIST}?id={text}&part=drawer").status_code == 404


def test_the_form_converts_local_times_to_utc_in_the_url(as_viewer: Api) -> None:
    as_viewer.cookies["routerdash_zone"] = "Asia/Tokyo"
    query = "?since=-1h&since=2026-03-10T21:00&until=&model=+tiny+&outcome="
    response = as_viewer.get(LIST + query)
    assert response["Location"] == "/requests?since=2026-03-10T12%3A00%3A00Z&model=tiny"
    html = page(as_viewer, urlsplit(response["Location"])._replace(path="").geturl())
    assert 'name="since" type="datetime-local" step="1" value="2026-03-10T21:00:00"' in html
    assert as_viewer.get(LIST + "?since=-1h&since=")["Location"] == "/requests?since=-1h"


@pytest.mark.parametrize(
    ("seen", "meant"),
    [
        ("2026-11-01T01:30", "?since=2026-11-01T06%3A30%3A00.250Z&model=tiny"),  # in the hour that occurs twice
        ("2026-11-01T01:31", "?since=2026-11-01T05%3A31%3A00Z&model=tiny"),
        ("", "?model=tiny"),
    ],
)
def test_the_form_keeps_an_unchanged_time(as_viewer: Api, seen: str, meant: str) -> None:
    as_viewer.cookies["routerdash_zone"] = "America/New_York"
    moment = "2026-11-01T06:30:00.250Z"
    html = page(as_viewer, f"?since={moment}")
    assert f'<input type="hidden" name="since" value="{moment}">' in html
    assert 'type="datetime-local" step="1" value="2026-11-01T01:30:00"' in html
    assert as_viewer.get(LIST, {"since": [moment, seen], "model": "tiny"})["Location"] == LIST + meant


def test_filters_are_chips_that_can_be_removed(as_viewer: Api, traffic: World) -> None:
    html = page(as_viewer, f"?endpoint_id={A}&retried=true&min_tokens=5")
    chips = dict(re.findall(r'<a class="chip chip-on" href="([^"]*)">(.*?)<svg', html))
    assert chips["/requests?retried=true&amp;min_tokens=5"].startswith("Endpoint<b>a</b>")
    assert chips[f"/requests?endpoint_id={A}&amp;retried=true"].startswith("Minimum tokens<b>5</b>")
    assert f'href="/requests?endpoint_id={A}&amp;min_tokens=5"' in html  # the filter that has a button


@pytest.mark.parametrize(
    ("query", "chip"),
    [
        ("since=2026-03-10T11:00:00Z", "Since<b>2026-03-10 11:00:00</b>"),
        ("until=-1m", "Until<b>2026-03-10 11:59:30</b>"),
        ("outcome=failed", "Outcome<b>Failed</b>"),
        ("streamed=true", "Streamed<b>Yes</b>"),
        ("queue_class=bulk", "Queue class<b>Bulk</b>"),
        ("retried=false", "Retried<b>No</b>"),
        (f"api_key_id={KEY}", f"API key<b>{KEY}</b>"),
        (f"endpoint_id={KEY}", f"Endpoint<b>{KEY}</b>"),
        ("min_duration_ms=5", "Minimum duration (ms)<b>5.0</b>"),
    ],
)
def test_chips_have_labels(as_viewer: Api, query: str, chip: str) -> None:
    assert f'<a class="chip chip-on" href="/requests">{chip}' in page(as_viewer, f"?{query}")


def test_the_list_shows_that_the_search_was_not_complete(
    as_viewer: Api, traffic: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "SCANNED_ROWS", 5)
    html = page(as_viewer, "?model=none")
    assert "data-cut" in html
    assert "This page searched back to 2026-03-10 " in html
    assert link(html, "Older")
    assert "data-cut" not in page(as_viewer)


def test_an_id_redirects_to_its_request(as_viewer: Api, shown_world: World) -> None:
    entry, *_ = entries = [request(request_id="mine"), request(request_id="twice"), request(request_id="twice", ago=1)]
    shown_world.gateway(*entries)
    shown_world.write()
    for text in (entry.id, entry.id.upper(), "mine"):
        assert as_viewer.get(LIST, {"q": text})["Location"] == f"/requests/{entry.id}"
    assert as_viewer.get(LIST, {"q": "twice"})["Location"] == "/requests?request_id=twice"
    assert len(shown(page(as_viewer, "?request_id=twice"))) == 2
    html = page(as_viewer, "?q=<nowhere>")
    assert "No request has the id “&lt;nowhere&gt;”" in html
    assert shown(html) == []


def test_a_script_request_gets_only_new_rows(as_viewer: Api, shown_world: World) -> None:
    old, new = request(ago=60), request(ago=1)
    shown_world.gateway(old, new)
    shown_world.write()
    html = page(as_viewer, "?part=rows&scale=100&after=2026-03-10T12:00:00Z&tail=1&model=tiny")
    assert shown(html) == [new.id]
    assert html.startswith("<tr")
    assert f'href="/requests?model=tiny&amp;tail=1&amp;id={new.id}"' in html
    assert shown(page(as_viewer, "?part=rows&after=soon&scale=1e9999")) == [new.id, old.id]


def test_the_list_shows_that_the_database_is_behind(
    as_viewer: Api, shown_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = "The database is behind: the latest requests are not shown yet."
    assert '<li class="warning" data-behind hidden>' in page(as_viewer)
    monkeypatch.setattr(runtime.installation, "writer", shown_world.writer)
    monkeypatch.setattr(shown_world.writer, "backlog", Backlog(behind_since=NOW.timestamp()))
    shown_world.gateway(request())
    html = page(as_viewer)
    assert '<li class="warning" data-behind><svg' in html
    assert late in html
    assert page(as_viewer, "?part=rows&tail=1").startswith("<template data-more-to-come>")


def test_following_is_offered_only_without_an_end_time(as_viewer: Api, traffic: World) -> None:
    assert "data-tail=" in page(as_viewer, "?tail=1")
    for query in ("?tail=1&until=-1m", "?limit=5&tail=2"):
        assert "data-tail=" not in page(as_viewer, query)


def test_an_export_that_cannot_start_shows_an_error_on_the_page(
    as_viewer: Api, traffic: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "The export was not started." in page(as_viewer, "/export?format=xml", 400)
    monkeypatch.setattr(downloads.downloads, "running", downloads.MAX_AT_ONCE)
    html = page(as_viewer, "/export?format=csv&model=tiny", 429)
    assert "10 exports are already running, which is the limit. Try again in a moment." in html
    assert 'href="/requests/export?format=csv&amp;model=tiny"' in html


def test_the_list_needs_a_login(anybody: Api) -> None:
    for path in ("", "/export", "/eeeeeeee-0000-4000-8000-000000000009/bodies"):
        assert anybody.get(LIST + path).status_code == 302


def test_an_empty_history_explains_its_contents(as_viewer: Api, shown_world: World) -> None:
    shown_world.write()
    assert "No requests yet." in page(as_viewer)
    assert "No request matches." in page(as_viewer, "?model=tiny")
