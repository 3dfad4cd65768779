"""The pages of conversations and /api/conversations: they show the same ones, to those who may see requests."""

import re
from typing import Any

import pytest
from msgspec.structs import replace

from access.models import INFERENCE, User
from gateway.ipc.record import FAILED, OK, RequestRecord
from gateway.routing.adaptive import FASTEST
from tests.access.people import Api, key_for, with_key
from tests.markup import one_line
from tests.metrics.records import KEY, A, B, attempt, request
from tests.metrics.world import World

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("endpoints", "frozen_clock")]

LIST, API = "/conversations", "/api/conversations"


def key(number: int) -> str:
    return f"{number:016x}"


def turn(number: int, ago: float, **fields: Any) -> RequestRecord:
    return request(ago=ago, conversation=key(number), input_tokens=400, **fields)


@pytest.fixture
def traffic(shown_world: World) -> World:
    """Sixty conversations; number 1 is the latest, and has been at both endpoints."""
    records = [turn(number, 60 * number, api_key_id=KEY) for number in range(1, 61)]
    failed, served = attempt(FAILED, B), replace(attempt(OK, A), reason=FASTEST)
    records += [
        turn(1, 5, cached_tokens=300, attempts=(replace(attempt(OK, B), reason=FASTEST),)),
        turn(1, 1, cached_tokens=100, attempts=(failed, served)),
    ]
    shown_world.gateway(*records, request(ago=2))
    shown_world.write()
    return shown_world


def page(api: Api, path: str, status: int = 200) -> str:
    response = api.get(path)
    assert response.status_code == status, response.headers
    return one_line(response.content.decode())


def shown(html: str) -> list[str]:
    return re.findall(r'<tr role="row" data-id="([^"]+)"', html)


def link(html: str, text: str) -> str:
    match = re.search(rf'<a class="btn" rel="(?:next|prev)" href="([^"]*)">(?:<svg.*?</svg>)?{text}', html)
    assert match is not None
    return match[1].replace("&amp;", "&")


@pytest.mark.parametrize(
    "query", ["", "?limit=7", "?since=-15m", "?model=none", f"?endpoint_id={B}", f"?api_key_id={KEY}&limit=3"]
)
def test_the_list_shows_the_conversations_of_the_api(as_viewer: Api, traffic: World, query: str) -> None:
    reported = as_viewer.call("GET", API + query).json()
    assert shown(page(as_viewer, LIST + query)) == [
        conversation["conversation"] for conversation in reported["conversations"]
    ]


def test_pages_lead_to_each_other(as_viewer: Api, traffic: World) -> None:
    first = page(as_viewer, LIST)
    second = page(as_viewer, link(first, "Older"))
    third = page(as_viewer, link(second, "Older"))
    assert shown(first) + shown(second) + shown(third) == [key(number) for number in range(1, 61)]
    assert shown(page(as_viewer, link(third, "Newer"))) == shown(second)


def test_invalid_filters_are_ignored_with_a_note(as_viewer: Api, traffic: World) -> None:
    html = page(as_viewer, f"{LIST}?endpoint_id=x&unknown=1&cursor=bad")
    assert len(shown(html)) == 25
    assert html.count('<li class="warning">') == 3


def test_a_conversation_has_its_requests_in_order(as_viewer: Api, traffic: World) -> None:
    html = page(as_viewer, f"{LIST}/{key(1)}")
    reported = as_viewer.call("GET", f"{API}/{key(1)}").json()
    assert shown(html) == [row["id"] for row in reported["requests"]]
    assert [row["endpoint_id"] for row in reported["requests"]] == [A, B, A]
    assert (reported["moves"], reported["cached_tokens"], reported["cached_share"]) == (2, 400, 0.5)
    assert html.count('<span class="tag">moved</span>') == 2
    assert html.count("This endpoint had the lowest cost.") == 1
    assert html.count("The endpoint of the request before failed it.") == 1
    assert "50.0 %" in html


def test_the_page_of_a_request_leads_to_its_conversation(as_viewer: Api, traffic: World) -> None:
    newest = as_viewer.call("GET", f"/api/requests?conversation={key(1)}").json()["requests"]
    assert len(newest) == 3
    assert f'href="{LIST}/{key(1)}"' in page(as_viewer, f"/requests/{newest[0]['id']}")
    assert shown(page(as_viewer, f"/requests?conversation={key(1)}")) == [row["id"] for row in newest]


def test_an_unknown_conversation_is_not_found(as_viewer: Api, traffic: World) -> None:
    page(as_viewer, f"{LIST}/{key(99)}", 404)
    assert as_viewer.call("GET", f"{API}/{key(99)}").status_code == 404
    assert as_viewer.call("GET", f"{API}?cursor=bad").status_code == 400


def test_they_need_what_requests_need(traffic: World, admin: User) -> None:
    assert Api().get(LIST).status_code == 302
    for path in (API, f"{API}/{key(1)}"):
        assert Api().call("GET", path).status_code == 401
        assert with_key(key_for(admin, INFERENCE, name=path)).call("GET", path).status_code == 403


def test_without_conversations_the_page_says_what_one_is(as_viewer: Api, shown_world: World) -> None:
    assert "requests whose prompts begin alike form one" in page(as_viewer, LIST)
