"""The page of the history: what the API tells, page by page, and a word for whatever it cannot do."""

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext

from access.models import ApiKey, User
from endpoints.models import Endpoint
from gateway import record
from metrics import downloads, history
from metrics.teller import surroundings
from metrics.writer import Backlog
from tests.access.people import Api, key_for
from tests.metrics.records import KEY, NOW, A, B, attempt, load, request
from tests.metrics.world import World

pytestmark = pytest.mark.django_db

LIST = "/requests"


@pytest.fixture(autouse=True)
def _now(endpoints: tuple[Endpoint, Endpoint]) -> Any:
    with time_machine.travel(NOW, tick=False):
        yield


def page(api: Api, query: str = "", status: int = 200) -> str:
    response = api.get(LIST + query)
    assert response.status_code == status, response.headers
    text: str = response.content.decode()
    return text


def shown(html: str) -> list[str]:
    return re.findall(r'<tr role="row" data-id="([^"]+)"', html)


def link(html: str, text: str) -> str | None:
    """Where a link of the pager leads, as a query."""
    found = re.search(rf'<a class="btn"[^>]* href="{LIST}([^"]*)"([^>]*)>(?:<svg.*?</svg>)?{text}', html)
    return None if found is None or "hidden" in found[2] else found[1].replace("&amp;", "&")


@pytest.fixture
def traffic(teller: World) -> World:
    teller.gateway(*(it for it in load(7, 90) if it.outcome != record.REJECTED), request(request_id="mine"))
    teller.write()
    return teller


@pytest.mark.parametrize(
    "query",
    [
        "", "?since=-15m", "?until=2026-03-10T11:40:00Z", "?model=large", f"?endpoint_id={B}", "?outcome=error",
        "?outcome=truncated", "?status_code=422", f"?api_key_id={KEY}", "?min_duration_ms=5000", "?min_tokens=300",
        "?retried=true", "?streamed=false", "?client_ip=192.0.2.9", "?request_id=of-the-client",
        "?retried=true&outcome=ok&limit=3",
    ],
)  # fmt: skip
def test_it_shows_what_the_api_tells(as_viewer: Api, traffic: World, query: str) -> None:
    told = as_viewer.call("GET", f"/api/requests{query}").json()
    html = page(as_viewer, query)
    assert shown(html) == [it["id"] for it in told["requests"]]
    older = link(html, "Older")
    assert (older and parse_qs(urlsplit(older).query)["cursor"][0]) == told["next"]


def test_pages_lead_to_each_other(as_viewer: Api, traffic: World) -> None:
    first = page(as_viewer, "?limit=10")
    second = page(as_viewer, link(first, "Older") or "")
    third = page(as_viewer, link(second, "Older") or "")
    assert shown(page(as_viewer, link(third, "Newer") or "")) == shown(second)
    assert link(first, "Newer") is None
    response = as_viewer.get(LIST + "?limit=50&" + urlsplit(link(second, "Newer") or "").query.replace("limit=10&", ""))
    assert (response.status_code, response["Location"]) == (302, "/requests?limit=50")  # not a page that is half full


def test_a_row_has_all_that_matters(as_viewer: Api, admin: User, teller: World) -> None:
    key_for(admin, name="notebook")
    key = str(ApiKey.objects.get(name="notebook").pk)
    tries = (attempt(record.FAILED, B, duration_us=5), attempt())
    teller.gateway(request(model="<b>org/模型", attempts=tries, api_key_id=key, input_tokens=1234, output_tokens=50))
    teller.write()
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
    assert "Attempts: </span>2</span>" in html
    assert 'class="wf-bad"' in html
    assert "<b>org" not in html


@pytest.mark.parametrize("query", ["", f"?id={NOW}", "?retried=true", "?since=-1h&model=tiny"])
def test_it_costs_as_many_queries_whatever_there_is(as_viewer: Api, teller: World, query: str) -> None:
    page(as_viewer, query)
    found: list[int] = []
    for count in (3, 60):
        teller.gateway(*(request(api_key_id=KEY, model="tiny", ago=number) for number in range(count)))
        teller.write()
        with CaptureQueriesContext(connection) as captured:
            page(as_viewer, query)
        found.append(len(captured))
    assert found[0] == found[1] <= 3


@pytest.mark.parametrize(
    "query",
    [
        "?since=yesterday", "?limit=x", "?outcome=fine", "?modle=x", "?min_tokens=-4", "?client_ip=a&retried=x",
        "?limit=0", "?since=2026-03-10T12:01:00Z&until=2026-03-10T12:00:59Z", "?cursor=abc", "?endpoint_id=%00",
    ],
)  # fmt: skip
def test_what_it_does_not_understand_is_left_out_and_said_so(as_viewer: Api, traffic: World, query: str) -> None:
    html = page(as_viewer, query)
    assert '<li class="warning">' in html
    assert len(shown(html)) == 50


def test_an_unknown_request_beside_the_list_is_said_so(as_viewer: Api, traffic: World) -> None:
    for text in ("eeeeeeee-0000-4000-8000-000000000009", "7"):
        html = page(as_viewer, f"?id={text}")
        assert "The history has no request of this id" in html
        assert "data-drawer=" not in html
        assert as_viewer.get(f"{LIST}?id={text}&part=drawer").status_code == 404


def test_a_form_makes_an_address_that_means_the_same_to_everybody(as_viewer: Api) -> None:
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
        ("2026-11-01T01:30", "?since=2026-11-01T06%3A30%3A00.250Z&model=tiny"),  # of the hour that comes twice
        ("2026-11-01T01:31", "?since=2026-11-01T05%3A31%3A00Z&model=tiny"),
        ("", "?model=tiny"),
    ],
)
def test_a_form_leaves_a_moment_alone_that_nobody_changed(as_viewer: Api, seen: str, meant: str) -> None:
    as_viewer.cookies["routerdash_zone"] = "America/New_York"
    moment = "2026-11-01T06:30:00.250Z"
    html = page(as_viewer, f"?since={moment}")
    assert f'<input type="hidden" name="since" value="{moment}">' in html
    assert 'type="datetime-local" step="1" value="2026-11-01T01:30:00"' in html
    assert as_viewer.get(LIST, {"since": [moment, seen], "model": "tiny"})["Location"] == LIST + meant


def test_filters_are_chips_that_can_be_taken_off(as_viewer: Api, traffic: World) -> None:
    html = page(as_viewer, f"?endpoint_id={A}&retried=true&min_tokens=5")
    chips = dict(re.findall(r'<a class="chip chip-on" href="([^"]*)">(.*?)<svg', html))
    assert chips["/requests?retried=true&amp;min_tokens=5"].startswith("Endpoint <b>a</b>")
    assert chips[f"/requests?endpoint_id={A}&amp;retried=true"].startswith("Tokens, at least <b>5</b>")
    assert f'href="/requests?endpoint_id={A}&amp;min_tokens=5"' in html  # the one that has a button


@pytest.mark.parametrize(
    ("query", "chip"),
    [
        ("since=2026-03-10T11:00:00Z", "Since <b>2026-03-10 11:00:00</b>"),
        ("until=-1m", "Until <b>2026-03-10 11:59:30</b>"),
        ("outcome=failed", "Outcome <b>Failed</b>"),
        ("streamed=true", "Streamed <b>Yes</b>"),
        ("retried=false", "Retried <b>No</b>"),
        (f"api_key_id={KEY}", f"API key <b>{KEY}</b>"),
        (f"endpoint_id={KEY}", f"Endpoint <b>{KEY}</b>"),
        ("min_duration_ms=5", "Duration, at least (ms) <b>5.0</b>"),
    ],
)
def test_chips_say_what_they_are(as_viewer: Api, query: str, chip: str) -> None:
    assert f'<a class="chip chip-on" href="/requests">{chip}' in page(as_viewer, f"?{query}")


def test_it_says_when_it_has_not_looked_at_everything(
    as_viewer: Api, traffic: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "LOOK", 5)
    html = page(as_viewer, "?model=none")
    assert "data-cut" in html
    assert "This one has looked back to 2026-03-10 " in html
    assert link(html, "Older")
    assert "data-cut" not in page(as_viewer)


def test_an_id_leads_to_its_request(as_viewer: Api, teller: World) -> None:
    entry, *_ = entries = [request(request_id="mine"), request(request_id="twice"), request(request_id="twice", ago=1)]
    teller.gateway(*entries)
    teller.write()
    for text in (entry.id, entry.id.upper(), "mine"):
        assert as_viewer.get(LIST, {"q": text})["Location"] == f"/requests/{entry.id}"
    assert as_viewer.get(LIST, {"q": "twice"})["Location"] == "/requests?request_id=twice"
    assert len(shown(page(as_viewer, "?request_id=twice"))) == 2
    html = page(as_viewer, "?q=<nowhere>")
    assert "No request is called “&lt;nowhere&gt;”" in html
    assert shown(html) == []


def test_new_rows_come_alone(as_viewer: Api, teller: World) -> None:
    old, new = request(ago=60), request(ago=1)
    teller.gateway(old, new)
    teller.write()
    html = page(as_viewer, "?part=rows&scale=100&after=2026-03-10T12:00:00Z&tail=1&model=tiny")
    assert shown(html) == [new.id]
    assert html.startswith("<tr")
    assert f'href="/requests?model=tiny&amp;tail=1&amp;id={new.id}"' in html
    assert shown(page(as_viewer, "?part=rows&after=soon&scale=1e9999")) == [new.id, old.id]


def test_it_says_when_the_database_is_behind(as_viewer: Api, teller: World, monkeypatch: pytest.MonkeyPatch) -> None:
    late = "The database is behind: the last requests are not here yet."
    assert '<li class="warning" data-behind hidden>' in page(as_viewer)
    monkeypatch.setattr(surroundings, "writer", teller.writer)
    monkeypatch.setattr(teller.writer, "backlog", Backlog(behind_since=NOW.timestamp()))
    teller.gateway(request())
    html = page(as_viewer)
    assert '<li class="warning" data-behind><svg' in html
    assert late in html
    assert page(as_viewer, "?part=rows&tail=1").startswith("<template data-more-to-come>")


def test_a_tail_is_for_what_has_no_end(as_viewer: Api, traffic: World) -> None:
    assert "data-tail=" in page(as_viewer, "?tail=1")
    for query in ("?tail=1&until=-1m", "?limit=5&tail=2"):
        assert "data-tail=" not in page(as_viewer, query)


def test_an_export_that_cannot_begin_says_so_on_the_page(
    as_viewer: Api, traffic: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "The export was not begun." in page(as_viewer, "/export?format=xml", 400)
    monkeypatch.setattr(downloads.downloads, "running", downloads.MOST_AT_ONCE)
    html = page(as_viewer, "/export?format=csv&model=tiny", 429)
    assert "10 exports run already, and no more may at once; try again in a moment." in html
    assert 'href="/requests/export?format=csv&amp;model=tiny"' in html


def test_it_is_for_people_who_logged_in(anybody: Api) -> None:
    for path in ("", "/export", "/eeeeeeee-0000-4000-8000-000000000009/bodies"):
        assert anybody.get(LIST + path).status_code == 302


def test_an_empty_history_says_what_will_be_there(as_viewer: Api, teller: World) -> None:
    teller.write()
    assert "There are no requests yet." in page(as_viewer)
    assert "No request fits." in page(as_viewer, "?model=tiny")
