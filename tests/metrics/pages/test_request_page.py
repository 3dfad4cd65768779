"""One request: its attempts and routing decisions, as JSON and as a page."""

import re
from typing import Any

import msgspec
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from access.models import INFERENCE, ApiKey, User
from endpoints.models import Endpoint
from endpoints.registry import registry
from gateway.base.request_kinds import CHAT, OLLAMA_GENERATE
from gateway.ipc import record
from gateway.ipc.record import AttemptRecord, RequestRecord, Work
from gateway.registry.schema import EndpointFacts, Model, Speeds
from gateway.routing import adaptive, balancer
from metrics import labels
from metrics.queries.requests.filters import OUTCOMES
from tests.access.people import Api, key_for, with_key
from tests.metrics.records import KEY, A, B, request
from tests.metrics.storage.test_seeding import adopted
from tests.metrics.world import World, fake_installation, without

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("endpoints", "frozen_clock")]

NOWHERE = "eeeeeeee-0000-4000-8000-000000000009"
TRIES = (
    AttemptRecord(B, record.FAILED, 0, 90_000, "connection refused", 640_000, balancer.LEAST, ((A, 5), (B, 2))),
    AttemptRecord(A, record.OK, 200, 1_000_000, None, 731_000, balancer.ONLY, ((A, 5),)),
)


def written(shown_world: World, entry: RequestRecord) -> str:
    shown_world.gateway(entry)
    shown_world.write()
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


def reported(api: Api, request_id: str) -> Any:
    response = api.call("GET", f"/api/requests/{request_id}")
    assert response.status_code == 200, response.content
    return response.json()


def page(api: Api, request_id: str, **headers: Any) -> str:
    response = api.get(f"/requests/{request_id}", **headers)
    assert response.status_code == 200
    text: str = response.content.decode()
    return text


def seen(html: str) -> str:
    """Return the visible text: without tags, whitespace collapsed."""
    return re.sub(r"(<[^>]+>|\s)+", " ", html.split("<main")[1].split("</main>")[0]).strip()


# As JSON


def test_a_request_is_returned_with_its_attempts(script: Api, shown_world: World) -> None:
    payload = reported(script, written(shown_world, failed_over()))
    assert (payload["queue_ms"], payload["request_id"], payload["tokens_per_second"]) == (600.0, "mine-7", 50.0)
    assert [(attempt["endpoint_name"], attempt["at_ms"], attempt["reason"]) for attempt in payload["attempts"]] == [
        ("b", 640.0, "least"),
        ("a", 731.0, "only"),
    ]
    assert payload["attempts"][0]["scores"] == [
        {"endpoint_id": B, "endpoint_name": "b", "in_flight": 2},
        {"endpoint_id": A, "endpoint_name": "a", "in_flight": 5},
    ]


def test_a_request_has_the_fields_of_the_list_and_more(script: Api, shown_world: World) -> None:
    payload = reported(script, written(shown_world, failed_over()))
    (listed,) = script.call("GET", "/api/requests").json()["requests"]
    assert {name: payload[name] for name in listed} == listed
    more = {"api_key_name", "cost_parts", "partly_priced", "reporting_cost", "hardware_costs"}
    assert set(payload) - set(listed) == more


def test_the_api_key_has_its_name(script: Api, shown_world: World) -> None:
    key = ApiKey.objects.get(name="script")
    assert reported(script, written(shown_world, request(api_key_id=str(key.pk))))["api_key_name"] == "script"
    assert reported(script, written(shown_world, request(api_key_id=KEY)))["api_key_name"] is None


@pytest.mark.parametrize(
    "fields", [{"outcome": record.FAILED}, {"kind": "embeddings"}, {"output_tokens": None}, {"outcome": record.QUEUE}]
)
def test_a_request_without_a_speed_has_none(script: Api, shown_world: World, fields: dict[str, Any]) -> None:
    payload = reported(script, written(shown_world, request(**{"output_tokens": 5, **fields})))
    assert payload["tokens_per_second"] is None


def test_a_request_needs_two_queries(script: Api, shown_world: World, django_assert_num_queries: Any) -> None:
    request_id = written(shown_world, failed_over(api_key_id=KEY))
    reported(script, request_id)
    with django_assert_num_queries(2):
        reported(script, request_id)


@pytest.mark.parametrize("request_id", [NOWHERE, "a", "export/x"])
def test_an_unknown_request_is_a_404(script: Api, shown_world: World, request_id: str) -> None:
    shown_world.write()
    assert script.call("GET", f"/api/requests/{request_id}").status_code == 404


def test_reading_needs_a_permission(anybody: Api, as_viewer: Api, admin: User, shown_world: World) -> None:
    path = f"/api/requests/{written(shown_world, request())}"
    weak = with_key(key_for(admin, INFERENCE))
    assert [api.call("GET", path).status_code for api in (anybody, weak, as_viewer)] == [401, 403, 200]


def test_waiting_records_are_written_before_the_search(script: Api, shown_world: World) -> None:
    adopted("error")
    (row,) = script.call("GET", "/api/requests").json()["requests"]
    assert reported(script, row["id"])["attempts"] == []


# As a page


def test_the_page_shows_the_attempts(as_viewer: Api, shown_world: World) -> None:
    text = seen(page(as_viewer, written(shown_world, failed_over())))
    assert "Queue from 40 ms 600 ms Attempt 1 from 640 ms 90 ms" in text
    assert "Time to first token from 731 ms 169 ms Stream from 900 ms 831 ms" in text
    assert "Attempt 1 b Failed 90 ms This endpoint had the fewest running requests. connection refused" in text
    assert "Candidate In flight Chosen: b 2 a 5" in text
    assert "Attempt 2 a OK 200 1.00 s No other endpoint was available." in text


def test_a_request_that_no_endpoint_served_has_a_page(as_viewer: Api, shown_world: World) -> None:
    """A model was only to be loaded, at Ollama's API."""
    request_id = written(shown_world, request(attempts=(), kind=OLLAMA_GENERATE))
    assert "The request did not reach an endpoint." in seen(page(as_viewer, request_id))
    assert (reported(as_viewer, request_id)["outcome"], reported(as_viewer, request_id)["attempts"]) == ("ok", [])
    assert as_viewer.get("/requests").status_code == 200


def test_the_page_reads_the_price_of_the_request_once(as_viewer: Api, shown_world: World, prices: object) -> None:
    request_id = written(shown_world, request(input_tokens=1000))
    page(as_viewer, request_id)
    with CaptureQueriesContext(connection) as captured:
        assert "tiny" in page(as_viewer, request_id)
    assert len([query for query in captured.captured_queries if 'FROM "prices"' in query["sql"]]) == 1


def test_the_page_shows_the_client(as_viewer: Api, shown_world: World) -> None:
    text = seen(page(as_viewer, written(shown_world, failed_over(api_key_id=KEY))))
    assert f"API key deleted: {KEY} Client 192.0.2.1 Client's request id mine-7" in text
    assert "Tokens per second 50.0" in text


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (record.QUEUE, "Every endpoint with the model was full"),
        (record.NO_ENDPOINT, "No endpoint with the model was available."),
    ],
)
def test_the_page_shows_why_there_was_no_attempt(
    as_viewer: Api, shown_world: World, outcome: str, sentence: str
) -> None:
    assert sentence in seen(page(as_viewer, written(shown_world, request(outcome))))


@pytest.mark.parametrize(("count", "expected"), [(7, False), (8, True)])
def test_the_page_shows_that_there_may_have_been_more_candidates(
    as_viewer: Api, shown_world: World, count: int, expected: bool
) -> None:
    scores = tuple((f"{number:08d}-0000-4000-8000-000000000000", number) for number in range(count))
    tried = AttemptRecord(scores[0][0], record.OK, 200, 5, None, 0, balancer.LEAST, scores)
    html = page(as_viewer, written(shown_world, request(attempts=(tried,))))
    assert ("Further candidates are not recorded" in html) == expected


def test_the_page_shows_every_kind_of_token_and_what_served_the_request(as_viewer: Api, shown_world: World) -> None:
    last = msgspec.structs.replace(TRIES[1], served="tiny:q4", canonical="maker/tiny", step=3)
    made = failed_over(
        attempts=(TRIES[0], last), input_tokens=40, cached_tokens=30, cache_write_tokens=10, reasoning_tokens=20,
        finish_reason="length", left_steps=((1, "full"), (2, "a new reason")),
    )  # fmt: skip
    text = seen(page(as_viewer, written(shown_world, made)))
    for part in (
        "Cached (read / written) 30 / 10", "Reasoning tokens 20", "Served model tiny:q4", "Canonical name maker/tiny",
        "Finish reason maximum length reached", "Step 1 was left or skipped: all its endpoints were full.",
        "Step 2 was left or skipped: a new reason.", "200 Step 3 tiny:q4",
    ):  # fmt: skip
        assert part in text


def test_tokens_that_were_not_reported_are_not_zero(as_viewer: Api, shown_world: World) -> None:
    text = seen(page(as_viewer, written(shown_world, failed_over(cached_tokens=0, input_tokens=4))))
    assert "Cached (read / written) 0 / — Reasoning tokens —" in text
    assert "Finish reason —" in text


def test_an_adopted_request_has_a_page(as_viewer: Api, shown_world: World) -> None:
    text = seen(page(as_viewer, str(adopted("error").pk)))
    assert "The request did not reach an endpoint." in text


def test_a_row_of_an_older_release_shows_that_decisions_were_not_recorded(as_viewer: Api, shown_world: World) -> None:
    assert "No reason was recorded." in seen(page(as_viewer, written(shown_world, request())))


def test_the_page_links_to_existing_endpoints(as_viewer: Api, shown_world: World) -> None:
    request_id = written(shown_world, failed_over())
    Endpoint.objects.filter(pk=B).delete()
    registry.reload()
    html = page(as_viewer, request_id)
    assert f'<a href="/endpoints/{A}">a</a>' in html
    assert f"/endpoints/{B}" not in html


def test_names_are_escaped(as_viewer: Api, shown_world: World) -> None:
    odd = request(record.FAILED, model="<script>", error="<b>", request_id="<i>", client_ip="<u>")
    html = page(as_viewer, written(shown_world, odd))
    assert re.findall("<script>|<i>|<u>", html) == []


def test_only_administrators_have_links_to_the_admin(as_admin: Api, as_viewer: Api, shown_world: World) -> None:
    request_id = written(shown_world, request())
    link = f"/admin/metrics/requesthistory/{request_id}/change/"
    assert link in page(as_admin, request_id)
    assert link not in page(as_viewer, request_id)


def test_the_admin_links_to_the_page(as_admin: Api, shown_world: World) -> None:
    request_id = written(shown_world, failed_over())
    for path, text in (("", "a"), (f"{request_id}/change/", "Why this endpoint")):
        html = as_admin.get(f"/admin/metrics/requesthistory/{path}").content.decode()
        assert f'<a href="/requests/{request_id}" title="Why this endpoint">{text}</a>' in html


@pytest.mark.parametrize("request_id", [NOWHERE, "a"])
def test_an_unknown_request_has_no_page(as_viewer: Api, shown_world: World, request_id: str) -> None:
    shown_world.write()
    response = as_viewer.get(f"/requests/{request_id}")
    assert response.status_code == 404
    assert "This page does not exist." in response.content.decode()


def test_the_page_needs_a_login(anybody: Api) -> None:
    assert anybody.get(f"/requests/{NOWHERE}")["Location"] == f"/login?next=/requests/{NOWHERE}"


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_is_in_the_requested_language(as_viewer: Api, shown_world: World, language: str) -> None:
    html = page(as_viewer, written(shown_world, failed_over()), headers={"accept-language": language})
    assert ("Why this endpoint" in html) == (language == "en")


@pytest.mark.django_db(transaction=True)
def test_without_the_database_the_page_shows_an_error(as_viewer: Api, shown_world: World) -> None:
    request_id = written(shown_world, request())
    with without("request_history"):
        response = as_viewer.get(f"/requests/{request_id}")
        assert response.status_code == 503
        assert "The database is currently unavailable." in response.content.decode()
        assert as_viewer.call("GET", f"/api/requests/{request_id}").status_code == 503


# Adaptive routing

WORK = Work(1000, 200, 400, 1, 1_900_000, 30, 70, 9_000_000, was_idle=False)
CHOSEN = AttemptRecord(
    A, record.OK, 200, 3_000_000, reason=adaptive.KEPT_PREFIX, costs=((A, 1900), (B, 2400)), work=WORK, connect_us=0
)
SPEEDS = Speeds(setup=0.1, read=0.001, write=0.02, share=0.001, completions=40)


@pytest.fixture
def _learned() -> None:
    facts = EndpointFacts(id=A, slot=0, name="a", base_url="http://x.invalid", kind="vllm", status="online")
    fake_installation().routes = lambda name: [(facts, Model("tiny:7b"))]
    learned = {(A, "tiny:7b", CHAT): SPEEDS}
    fake_installation().speeds = lambda *key: learned.get(key)


def adaptive_request(**fields: Any) -> RequestRecord:
    given: dict[str, Any] = {
        "attempts": (CHOSEN,), "duration_us": 3_000_000, "first_token_us": 900_000, "streamed": True,
        "input_tokens": 1000, "output_tokens": 101, "cached_tokens": 300,
    }  # fmt: skip
    return request(**{**given, **fields})


def test_the_page_shows_the_costs_of_an_adaptive_choice(as_viewer: Api, shown_world: World) -> None:
    text = seen(page(as_viewer, written(shown_world, adaptive_request())))
    assert "the beginning of the prompt was expected in its prefix cache" in text
    assert "Expected to take 1.90 s; it took 3.00 s. 400 prompt tokens were expected in the prefix cache." in text
    assert "Candidate Cost Chosen: a 1.90 s b 2.40 s" in text


@pytest.mark.usefixtures("_learned")
def test_the_page_explains_a_request(as_viewer: Api, shown_world: World) -> None:
    text = seen(page(as_viewer, written(shown_world, adaptive_request(queue_us=5000))))
    assert "Part Took Usual Ratio Queue 5 ms — — Connect: opening a connection an open connection was used 0 ms" in text
    assert "Prefill: reading the prompt, until the first token 900 ms 853 ms 1.1 ×" in text
    assert "Decode: generating the rest 2.03 s 2.30 s 0.9 ×" in text
    assert "while the endpoint read other prompts estimated 70 ms 70 ms 1.0 ×" in text
    assert "Expected before 1.90 s it took 3.00 s, which is 1.6 × Next best b 2.40 s" in text
    assert "Prompt tokens to read 700 reported by the endpoint" in text
    assert "Saved by the prefix cache 400 ms expected Mean requests in flight 3.0" in text
    assert "Prompt tokens of others 70 that the endpoint got meanwhile" in text
    assert "at this endpoint, from 40 responses." in text


def test_without_learned_speeds_the_page_shows_no_usual_time(as_viewer: Api, shown_world: World) -> None:
    text = seen(page(as_viewer, written(shown_world, adaptive_request())))
    assert "until the first token 900 ms — —" in text
    assert "This model has responded too rarely since the endpoint came online" in text
    assert "Saved by the prefix cache" not in text


def test_a_request_without_recorded_work_is_not_explained(as_viewer: Api, shown_world: World) -> None:
    assert "Explain this request" not in page(as_viewer, written(shown_world, failed_over()))


@pytest.mark.usefixtures("_learned")
def test_a_slow_part_is_marked(as_viewer: Api, shown_world: World) -> None:
    html = page(as_viewer, written(shown_world, adaptive_request(first_token_us=2_500_000)))
    assert "until the first token slower than usual 2.50 s" in seen(html)


# Texts


def test_every_reason_has_a_text() -> None:
    known = [balancer.ONLY, balancer.LEAST, balancer.DRAWN, balancer.TRIAL, balancer.CREATOR]
    known += [balancer.PINNED, balancer.SEARCHED, balancer.SPILLED]
    known += [adaptive.FASTEST, adaptive.KEPT_PREFIX, adaptive.LOADED, adaptive.PROBE, adaptive.WAITED]
    assert list(labels.REASONS) == known
    assert labels.reason("of a newer release") == "of a newer release"


def test_every_outcome_has_a_label() -> None:
    assert tuple(labels.OUTCOMES) == OUTCOMES
