"""One request: its way and the reasons, as JSON and as a page."""

import re
from typing import Any

import pytest
import time_machine

from access.models import INFERENCE, ApiKey, User
from endpoints.models import Endpoint
from endpoints.registry import registry
from gateway import balancer, record
from gateway.record import Attempt, RequestRecord
from metrics import words
from metrics.history import OUTCOMES
from tests.access.people import Api, key_for, with_key
from tests.metrics.records import KEY, NOW, A, B, request
from tests.metrics.test_seeding import adopted
from tests.metrics.world import World, without

pytestmark = pytest.mark.django_db

NOWHERE = "eeeeeeee-0000-4000-8000-000000000009"
TRIES = (
    Attempt(B, record.FAILED, 0, 90_000, "connection refused", 640_000, balancer.LEAST, ((A, 5), (B, 2))),
    Attempt(A, record.OK, 200, 1_000_000, None, 731_000, balancer.ONLY, ((A, 5),)),
)


@pytest.fixture(autouse=True)
def _now(endpoints: tuple[Endpoint, Endpoint]) -> Any:
    with time_machine.travel(NOW, tick=False):
        yield


def written(teller: World, entry: RequestRecord) -> str:
    teller.gateway(entry)
    teller.write()
    return entry.id


def failed_over(**fields: Any) -> RequestRecord:
    given: dict[str, Any] = {
        "attempts": TRIES,
        "duration_us": 1_731_000,
        "queue_us": 600_000,
        "first_token_us": 900_000,
        "streamed": True,
        "output_tokens": 50,
        "client_ip": "192.0.2.1",
        "request_id": "mine-7",
    }
    return request(**{**given, **fields})


def told(api: Api, request_id: str) -> Any:
    answer = api.call("GET", f"/api/requests/{request_id}")
    assert answer.status_code == 200, answer.content
    return answer.json()


def page(api: Api, request_id: str, **headers: Any) -> str:
    response = api.get(f"/requests/{request_id}", **headers)
    assert response.status_code == 200
    text: str = response.content.decode()
    return text


def seen(html: str) -> str:
    """What is read: without tags, blanks run together."""
    return re.sub(r"(<[^>]+>|\s)+", " ", html.split("<main")[1].split("</main>")[0]).strip()


# As JSON


def test_it_is_told_with_its_way(script: Api, teller: World) -> None:
    found = told(script, written(teller, failed_over()))
    assert (found["queue_ms"], found["request_id"], found["tokens_per_second"]) == (600.0, "mine-7", 50.0)
    assert [(it["endpoint_name"], it["at_ms"], it["reason"]) for it in found["attempts"]] == [
        ("b", 640.0, "least"),
        ("a", 731.0, "only"),
    ]
    assert found["attempts"][0]["scores"] == [
        {"endpoint_id": B, "endpoint_name": "b", "in_flight": 2},
        {"endpoint_id": A, "endpoint_name": "a", "in_flight": 5},
    ]


def test_it_is_what_the_list_tells_and_more(script: Api, teller: World) -> None:
    found = told(script, written(teller, failed_over()))
    (listed,) = script.call("GET", "/api/requests").json()["requests"]
    assert {name: found[name] for name in listed} == listed
    assert set(found) - set(listed) == {"api_key_name"}


def test_its_key_is_named(script: Api, teller: World) -> None:
    key = ApiKey.objects.get(name="script")
    assert told(script, written(teller, request(api_key_id=str(key.pk))))["api_key_name"] == "script"
    assert told(script, written(teller, request(api_key_id=KEY)))["api_key_name"] is None


@pytest.mark.parametrize(
    "fields", [{"outcome": record.FAILED}, {"kind": "embeddings"}, {"output_tokens": None}, {"outcome": record.QUEUE}]
)
def test_what_has_no_speed_is_told_without(script: Api, teller: World, fields: dict[str, Any]) -> None:
    found = told(script, written(teller, request(**{"output_tokens": 5, **fields})))
    assert found["tokens_per_second"] is None


def test_it_costs_two_queries(script: Api, teller: World, django_assert_num_queries: Any) -> None:
    request_id = written(teller, failed_over(api_key_id=KEY))
    told(script, request_id)
    with django_assert_num_queries(2):
        told(script, request_id)


@pytest.mark.parametrize("request_id", [NOWHERE, "a", "export/x"])
def test_an_unknown_request_is_a_404(script: Api, teller: World, request_id: str) -> None:
    teller.write()
    assert script.call("GET", f"/api/requests/{request_id}").status_code == 404


def test_who_may_read(anybody: Api, as_viewer: Api, admin: User, teller: World) -> None:
    path = f"/api/requests/{written(teller, request())}"
    weak = with_key(key_for(admin, INFERENCE))
    assert [api.call("GET", path).status_code for api in (anybody, weak, as_viewer)] == [401, 403, 200]


def test_what_waits_is_written_before_it_is_looked_for(script: Api, teller: World) -> None:
    adopted("error")
    (row,) = script.call("GET", "/api/requests").json()["requests"]
    assert told(script, row["id"])["attempts"] == []


# As a page


def test_the_page_shows_the_way(as_viewer: Api, teller: World) -> None:
    text = seen(page(as_viewer, written(teller, failed_over())))
    assert "Queue from 40 ms on 600 ms Attempt 1 from 640 ms on 90 ms" in text
    assert "To the first token from 731 ms on 169 ms Stream from 900 ms on 831 ms" in text
    assert "Attempt 1 b Failed 90 ms It had the fewest requests in flight. connection refused" in text
    assert "Candidate In flight Chosen: b 2 a 5" in text
    assert "Attempt 2 a OK 200 1.00 s No other endpoint could take it." in text


def test_the_page_shows_who_asked(as_viewer: Api, teller: World) -> None:
    text = seen(page(as_viewer, written(teller, failed_over(api_key_id=KEY))))
    assert f"API key deleted: {KEY} Client 192.0.2.1 Request id of the client mine-7" in text
    assert "Tokens per second 50.0" in text


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (record.QUEUE, "Every endpoint that has the model was full"),
        (record.NO_ENDPOINT, "No endpoint that has the model could be asked."),
    ],
)
def test_the_page_says_why_no_endpoint_was_asked(as_viewer: Api, teller: World, outcome: str, sentence: str) -> None:
    assert sentence in seen(page(as_viewer, written(teller, request(outcome))))


@pytest.mark.parametrize(("count", "said"), [(7, False), (8, True)])
def test_where_there_may_have_been_more_candidates_the_page_says_so(
    as_viewer: Api, teller: World, count: int, said: bool
) -> None:
    scores = tuple((f"{number:08d}-0000-4000-8000-000000000000", number) for number in range(count))
    tried = Attempt(scores[0][0], record.OK, 200, 5, None, 0, balancer.LEAST, scores)
    html = page(as_viewer, written(teller, request(attempts=(tried,))))
    assert ("No more are noted" in html) == said


def test_an_adopted_request_has_a_page(as_viewer: Api, teller: World) -> None:
    text = seen(page(as_viewer, str(adopted("error").pk)))
    assert "It never reached an endpoint." in text


def test_a_former_row_says_that_nothing_was_noted(as_viewer: Api, teller: World) -> None:
    assert "It was not noted why." in seen(page(as_viewer, written(teller, request())))


def test_the_page_leads_to_endpoints_that_are_there(as_viewer: Api, teller: World) -> None:
    request_id = written(teller, failed_over())
    Endpoint.objects.filter(pk=B).delete()
    registry.reload()
    html = page(as_viewer, request_id)
    assert f'<a href="/endpoints/{A}">a</a>' in html
    assert f"/endpoints/{B}" not in html


def test_names_cannot_bring_markup_in(as_viewer: Api, teller: World) -> None:
    odd = request(record.FAILED, model="<script>", error="<b>", request_id="<i>", client_ip="<u>")
    html = page(as_viewer, written(teller, odd))
    assert re.findall("<script>|<i>|<u>", html) == []


def test_only_staff_are_led_to_the_admin(as_admin: Api, as_viewer: Api, teller: World) -> None:
    request_id = written(teller, request())
    link = f"/admin/metrics/requesthistory/{request_id}/change/"
    assert link in page(as_admin, request_id)
    assert link not in page(as_viewer, request_id)


def test_the_admin_leads_to_the_page(as_admin: Api, teller: World) -> None:
    request_id = written(teller, failed_over())
    for path, text in (("", "a"), (f"{request_id}/change/", "Why this node")):
        html = as_admin.get(f"/admin/metrics/requesthistory/{path}").content.decode()
        assert f'<a href="/requests/{request_id}" title="Why this node">{text}</a>' in html


@pytest.mark.parametrize("request_id", [NOWHERE, "a"])
def test_an_unknown_request_has_no_page(as_viewer: Api, teller: World, request_id: str) -> None:
    teller.write()
    response = as_viewer.get(f"/requests/{request_id}")
    assert response.status_code == 404
    assert "This page does not exist." in response.content.decode()


def test_the_page_is_for_people_who_logged_in(anybody: Api) -> None:
    assert anybody.get(f"/requests/{NOWHERE}")["Location"] == f"/login?next=/requests/{NOWHERE}"


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_is_in_the_language_that_is_asked_for(as_viewer: Api, teller: World, language: str) -> None:
    html = page(as_viewer, written(teller, failed_over()), headers={"accept-language": language})
    assert ("Why this node" in html) == (language == "en")


@pytest.mark.django_db(transaction=True)
def test_the_page_says_that_it_needs_the_database(as_viewer: Api, teller: World) -> None:
    request_id = written(teller, request())
    with without("request_history"):
        response = as_viewer.get(f"/requests/{request_id}")
        assert response.status_code == 503
        assert "The database is not available just now." in response.content.decode()
        assert as_viewer.call("GET", f"/api/requests/{request_id}").status_code == 503


# Words


def test_every_reason_has_its_words() -> None:
    known = [balancer.ONLY, balancer.LEAST, balancer.DRAWN, balancer.TRIAL, balancer.MADE_IT]
    known += [balancer.PINNED, balancer.SEARCHED]
    assert list(words.REASONS) == known
    assert words.reason("of a newer release") == "of a newer release"


def test_every_outcome_has_its_word() -> None:
    assert tuple(words.OUTCOMES) == OUTCOMES
