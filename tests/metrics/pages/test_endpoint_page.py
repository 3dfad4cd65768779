"""An endpoint's page: its figures equal those of the API, and its number of queries does not grow with rows."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from django.utils.translation import override

from endpoints.engine_reports import EngineReading
from endpoints.models import Endpoint, EndpointModel, HealthCheck
from endpoints.registry import registry
from gateway.ipc import record
from metrics.memory.runtime import runtime
from metrics.models import DailyStat
from metrics.templatetags import figures
from metrics.templatetags.endpoint_page import latency_line, up
from metrics.times import json_time
from tests.access.people import Api, session_of
from tests.markup import one_line
from tests.metrics.records import NOW, A, B, attempt, load, request
from tests.metrics.world import World, add_endpoint, fake_installation

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

DAY = 86400.0


@pytest.fixture
def served(shown_world: World, endpoints: tuple[Endpoint, Endpoint]) -> World:
    """Today, yesterday and 40 days ago."""
    EndpointModel(endpoint=endpoints[0], model_id="tiny", max_tokens=8192).save(force_insert=True)
    Endpoint.objects.filter(pk=A).update(latency_ms=120, last_seen=NOW, status="online")
    registry.reload()
    shown_world.gateway(
        request(output_tokens=1234, input_tokens=3, first_token_us=250_000),
        request(record.FAILED, attempts=(attempt(record.FAILED, error="timed out"),)),
        request(record.CANCELLED),
        request(ago=DAY, model="large", duration_us=4_000_000),
        request(ago=40 * DAY, model="old"),
    )
    shown_world.write()
    return shown_world


def page(client: Api, query: str = "", of: str = A) -> str:
    response = client.get(f"/endpoints/{of}{query}")
    assert response.status_code == 200
    return one_line(response.content.decode())


def visible_text(html: str) -> str:
    return re.sub(r"(<[^>]+>|\s)+", " ", html)


def part(html: str, name: str) -> str:
    match = re.search(rf'data-part="{name}"[^>]*>(.*?)</(?:tbody|ol|dl)>', html, re.DOTALL)
    assert match is not None, name
    return match[1]


def shown_days(html: str) -> list[dict[str, Any]]:
    """Return the days of the table that have attempts, oldest first, in the format of the API."""
    matches = re.findall(
        r'data-day="([^"]+)".*?<td class="n">([\d,]+)</td><td class="n">([\d,]+)</td><td class="n">([\d,]+)</td>', html
    )
    rows = [(date, *(int(number.replace(",", "")) for number in numbers)) for date, *numbers in matches]
    names = ("date", "total_requests", "successful_requests", "failed_requests")
    return [dict(zip(names, row, strict=True)) for row in reversed(rows) if row[1]]


# Days


@pytest.mark.parametrize("days", [1, 7, 30, 90])
def test_the_days_are_those_of_the_api(as_viewer: Api, served: World, days: int) -> None:
    served.gateway(*load(seed=3, count=80, seconds=60 * DAY))
    served.write()
    reported = as_viewer.call("GET", f"/api/endpoints/{A}/daily-stats?days={days}").json()
    html = page(as_viewer, f"?days={days}")
    assert shown_days(html) == reported
    assert html.count("data-day=") == days
    for name, figure in (("ok", "successful_requests"), ("failed", "failed_requests")):
        assert f'data-read="{name}">{sum(day[figure] for day in reported):,}<' in html


def test_thirty_days_are_the_default_range(as_viewer: Api, served: World) -> None:
    html = page(as_viewer)
    assert '<a href="?days=30" aria-current="true">' in html
    assert html.count("data-day=") == 30
    assert "This period is not available" not in html


@pytest.mark.parametrize("days", ["", "8", "0", "-1", "x", "9" * 400, "٣٠", "30&days=8"])
def test_an_unknown_range_is_reported(as_viewer: Api, served: World, days: str) -> None:
    html = page(as_viewer, f"?days={days}")
    assert "This period is not available; the default period is shown." in html
    assert html.count("data-day=") == 30


def test_a_day_links_to_its_requests(as_viewer: Api, served: World) -> None:
    since, until = "2026-03-10T00%3A00%3A00.000Z", "2026-03-11T00%3A00%3A00.000Z"
    assert f'href="/requests?endpoint_id={A}&amp;since={since}&amp;until={until}"' in page(as_viewer, "?days=1")


def test_today_is_that_of_the_api(as_viewer: Api, served: World) -> None:
    reported = as_viewer.call("GET", f"/api/endpoints/{A}/today-stats").json()
    html = page(as_viewer)
    assert f'data-today="total">{reported["total_requests"]}<' in html
    assert f'data-today="failed">{reported["failed_requests"]}<' in html


# Models


def test_the_models_are_those_of_the_api(as_viewer: Api, served: World) -> None:
    served.gateway(*load(seed=5, count=60, seconds=20 * DAY))
    served.write()
    reported = as_viewer.call("GET", f"/api/endpoints/{A}/model-stats?days=30").json()
    assert {row["model_id"] for row in reported} == {"tiny", "large"}
    rows = part(page(as_viewer), "models").split("<tr>")[1:]
    for row, shown in zip(reported, rows, strict=True):
        assert row["model_id"] in shown
        assert f'data-label="Attempts">{row["total_requests"]}<' in shown
        assert f'data-label="Output tokens">{row["output_tokens"]:,}<' in shown
        assert sum(model["total_requests"] for model in reported) == sum(
            day["total_requests"] for day in as_viewer.call("GET", f"/api/endpoints/{A}/daily-stats?days=30").json()
        )


def test_a_model_has_medians_and_a_speed(as_viewer: Api, served: World) -> None:
    tiny, large = as_viewer.call("GET", f"/api/endpoints/{A}/model-stats?days=7").json()
    assert tiny["p50_duration_ms"] == pytest.approx(2000, rel=1 / 16)
    assert tiny["p50_first_token_ms"] == pytest.approx(250, rel=1 / 16)
    assert (tiny["tokens_per_second"], tiny["output_tokens"]) == (617, 1234)
    assert large["p50_duration_ms"] == pytest.approx(4000, rel=1 / 16)
    assert (large["p50_first_token_ms"], large["tokens_per_second"]) == (None, None)


def test_without_days_models_have_figures_of_all_time(as_viewer: Api, served: World) -> None:
    reported = as_viewer.call("GET", f"/api/endpoints/{A}/model-stats").json()
    assert {row["model_id"] for row in reported} == {"tiny", "large", "old"}
    assert set(reported[0]) == {
        "model_id", "total_requests", "successful_requests", "failed_requests", "total_output_tokens",
        "total_duration_ms",
    }  # fmt: skip


def test_a_removed_model_is_marked(as_viewer: Api, served: World) -> None:
    shown = part(page(as_viewer), "models")
    assert shown.count("no longer offered") == 1
    assert '<td class="n opt w0">8,192</td>' in shown


# Errors


def test_the_last_errors_link_to_their_requests(as_viewer: Api, served: World) -> None:
    (reported,) = as_viewer.call("GET", f"/api/endpoints/{A}/failures").json()
    assert (reported["outcome"], reported["attempt"]["error"]) == ("failed", "timed out")
    shown = part(page(as_viewer), "failures")
    assert f"/requests/{reported['id']}" in shown
    assert "timeout" in shown


def test_errors_include_attempts_of_failed_over_requests(as_viewer: Api, served: World) -> None:
    tries = (attempt(record.FAILED, A, error="connection refused"), attempt(record.OK, B))
    served.gateway(
        request(attempts=tries, ago=-1), request(attempts=(attempt(record.FAILED, B), attempt(record.OK, A)))
    )
    served.write()
    shown = visible_text(part(page(as_viewer), "failures"))
    assert "connection refused failed over to b" in shown
    assert shown.count("Open") == 2


def test_refused_and_truncated_attempts_are_errors_and_cancelled_ones_are_not(as_viewer: Api, served: World) -> None:
    served.gateway(request(record.REFUSED), request(record.TRUNCATED), request(record.CANCELLED))
    served.write()
    reported = as_viewer.call("GET", f"/api/endpoints/{A}/failures").json()
    assert sorted(row["outcome"] for row in reported) == ["failed", "refused", "truncated"]


# Other details


def test_an_endpoint_without_figures_shows_a_message(as_viewer: Api, endpoints: object) -> None:
    html = page(as_viewer)
    for text in (
        "No models are known yet",
        "No requests in this period",
        "No model has responded yet.",
        "The latest requests had no errors.",
    ):
        assert text in html
    assert "This object has no changes yet." in html
    assert 'id="curl"' not in html


def test_changes_of_status_are_shown_with_their_cause(as_viewer: Api, served: World) -> None:
    Endpoint.objects.filter(pk=A).update(registered_at=NOW - timedelta(days=2))
    registry.reload()
    for ago, before, after, error in ((3000, "online", "offline", "no route"), (600, "offline", "online", None)):
        HealthCheck.objects.create(
            endpoint_id=A, checked_at=NOW - timedelta(seconds=ago), success=after == "online", error_message=error,
            status_before=before, status_after=after,
        )  # fmt: skip
    html = page(as_viewer)
    shown = visible_text(part(html, "spans"))
    assert shown.startswith(
        " Online 2026-03-10 11:50:30 for 10 min so far Offline 2026-03-10 11:10:30 no route 40 min "
    )
    reported = as_viewer.call("GET", f"/api/endpoints/{A}/health?days=30").json()
    assert f"data-uptime>{up(reported['seconds'])}<" in html
    assert '<rect class="day-offline"' in html


def test_the_example_request_uses_a_model_of_the_endpoint(as_viewer: Api, endpoints: tuple[Endpoint, Endpoint]) -> None:
    for model, can in (("bge", ["embeddings"]), ("it's/a model", ["chat"])):
        EndpointModel(endpoint=endpoints[0], model_id=model, capabilities=can).save(force_insert=True)
    registry.reload()
    html = page(as_viewer)
    assert "curl http://testserver/v1/chat/completions" in html
    assert "it&#x27;&quot;&#x27;&quot;&#x27;s/a model" in html


def test_the_example_of_an_embedding_model_uses_embeddings(
    as_viewer: Api, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    EndpointModel(endpoint=endpoints[0], model_id="bge", capabilities=["embeddings"]).save(force_insert=True)
    registry.reload()
    assert "/v1/embeddings" in page(as_viewer)


def test_details_reported_by_the_server_are_shown(as_viewer: Api) -> None:
    add_endpoint(A, "a", device_info={"device_type": "gpu", "gpu_count": 2, "gpus": [{}]}, notes="rack <3>")
    shown = visible_text(part(page(as_viewer), "about"))
    assert "device type gpu gpu count 2" in shown
    assert "rack &lt;3&gt;" in shown


@pytest.mark.parametrize("reported", ["a text", [1], {"a": None}, 7])
def test_any_value_of_a_device_is_shown(as_viewer: Api, reported: Any) -> None:
    add_endpoint(A, "a", device_info=reported)
    page(as_viewer)


def test_all_texts_are_escaped(as_viewer: Api, shown_world: World) -> None:
    bad = "</textarea><script>alert(1)</script>"
    made = add_endpoint(A, bad, base_url="http://x.invalid", notes=bad, device_info={bad: bad})
    EndpointModel(endpoint=made, model_id=bad, canonical_name=bad).save(force_insert=True)
    registry.reload()
    shown_world.gateway(request(record.FAILED, model=bad, attempts=(attempt(record.FAILED, error=bad),)))
    shown_world.write()
    HealthCheck.objects.create(
        endpoint_id=A, checked_at=NOW, success=False, error_message=bad, status_before="online", status_after="error"
    )
    assert "<script>alert" not in page(as_viewer)


# Access


def test_administrators_get_buttons_and_viewers_none(as_admin: Api, as_viewer: Api, endpoints: object) -> None:
    html = page(as_admin)
    for text in ('value="run_test"', 'value="run_sync"', 'value="drain"', 'value="disable"', f"{A}/change/"):
        assert text in html
    html = page(as_viewer)
    assert "data-act" not in html
    assert "/admin/" not in html


@pytest.mark.parametrize(("due", "hidden"), [(0, True), (2_000_000_000, False)])
def test_an_open_breaker_can_be_reset(
    as_admin: Api, endpoints: object, monkeypatch: pytest.MonkeyPatch, due: int, hidden: bool
) -> None:
    monkeypatch.setattr(runtime.installation, "trials", lambda: {A: due} if due else {})
    assert ("data-reset hidden" in page(as_admin)) is hidden


def test_a_reset_shows_its_author(as_admin: Api, endpoints: object) -> None:
    as_admin.call("POST", f"/api/endpoints/{A}/reset-breaker")
    assert "Circuit breaker reset by ada (API)" in visible_text(part(page(as_admin), "edits"))


def test_changed_tags_are_listed_with_old_and_new_ones(as_admin: Api, endpoints: object) -> None:
    for tags in (["tokyo", "rack 3"], []):
        as_admin.call("PATCH", f"/api/endpoints/{A}", {"tags": tags})
    shown = visible_text(part(page(as_admin), "edits"))
    assert "Tags: — → tokyo, rack 3 by ada (API)" in shown
    assert "Tags: tokyo, rack 3 → — by ada (API)" in shown


@pytest.mark.parametrize("what", ["test", "sync", "drain", "disable", "enable", "reset-breaker"])
def test_actions_of_viewers_are_refused(as_viewer: Api, endpoints: object, what: str) -> None:
    assert as_viewer.call("POST", f"/api/endpoints/{A}/{what}", {}).status_code == 403


def test_a_drain_shows_its_beginning_and_author(as_admin: Api, endpoints: object) -> None:
    as_admin.call("POST", f"/api/endpoints/{A}/drain", {"deadline_secs": 300})
    registry.reload()
    html = page(as_admin)
    assert 'data-drain-since="2026-03-10T12:00:30+00:00"' in html
    assert '<rect class="f" width="100.00%"' in html
    assert "Administrative state: Enabled → Draining by ada (API)" in visible_text(part(html, "edits"))


# Caches and reasoning


def test_the_page_shows_cached_tokens_and_two_rates(as_viewer: Api, served: World) -> None:
    served.gateway(
        request(input_tokens=100, cached_tokens=80), request(input_tokens=100, cached_tokens=0),
        request(input_tokens=7_000), request(ago=40 * DAY, input_tokens=5, cached_tokens=5),
    )  # fmt: skip
    served.write()
    text = visible_text(page(as_viewer))
    assert "Cached input tokens 80 40.0 % of 200 Requests with cached tokens 1 50.0 % of 2" in text
    assert "Tokens written to caches — Reasoning tokens —" in text


@pytest.mark.parametrize(
    ("kind", "count", "cached", "is_shown"),
    [
        ("vllm", 20, None, True),
        ("vllm", 10, None, False),
        ("vllm", 20, 0, False),
        ("ollama", 20, None, False),
    ],
)
def test_the_page_says_how_vllm_reports_cached_tokens(
    as_viewer: Api, served: World, kind: str, count: int, cached: int | None, is_shown: bool
) -> None:
    Endpoint.objects.filter(pk=A).update(endpoint_type=kind)
    registry.reload()
    served.gateway(*(request(input_tokens=9, cached_tokens=None if index else cached) for index in range(count)))
    served.write()
    assert ("--enable-prompt-tokens-details" in page(as_viewer)) == is_shown


# The number of queries


def test_number_of_queries_does_not_grow_with_rows(
    as_viewer: Api, served: World, django_assert_num_queries: Any, admin: Any
) -> None:
    page(as_viewer)
    with django_assert_num_queries(14):
        page(as_viewer)
    DailyStat.objects.bulk_create(
        DailyStat(endpoint_id=A, model_id=f"m{index}", date="2026-03-09", total_requests=1, successful_requests=1)
        for index in range(50)
    )
    HealthCheck.objects.bulk_create(
        HealthCheck(endpoint_id=A, checked_at=NOW, success=True, status_before="online", status_after="error")
        for _ in range(50)
    )
    served.gateway(*load(seed=4, count=200))
    served.write()
    for number in range(5):
        session_of(admin).call("PATCH", f"/api/endpoints/{A}", {"notes": f"note {number}"})
    with django_assert_num_queries(14):
        page(as_viewer, "?days=90")


# Texts


def test_unknown_days_differ_from_days_without_requests(as_viewer: Api, endpoints: object) -> None:
    unknown = re.findall(r'<rect class="day-unknown"[^>]*>', page(as_viewer))
    assert unknown
    assert all('fill="url(#dots)"' in rectangle for rectangle in unknown)


def test_spans_of_days_are_in_the_viewers_language(as_viewer: Api, endpoints: object) -> None:
    as_viewer.cookies["routerdash_language"] = "ja"
    assert re.search(r'"lasted">29 日', page(as_viewer))


def test_uptime_is_below_100_percent_after_an_outage() -> None:
    seconds = {"online": 2591999.0, "error": 0.0, "offline": 1.0}
    assert (up(seconds), up({**seconds, "offline": 0.0})) == ("99.99 %", "100 %")


def test_a_line_has_a_gap_without_measurements() -> None:
    assert 'd="M0.0 18.0L66.7 2.0M200.0 10.0"' in latency_line([4, 8, None, 6])
    assert latency_line([4, None]) == latency_line([]) == ""


@pytest.mark.parametrize("seconds", [-0.054, -1, -100_000])
def test_ages_are_not_negative_if_clocks_differ(seconds: float) -> None:
    with override("en"):
        assert figures.span(seconds) == figures.span(0) == "0 s"
        assert figures.elapsed(timezone.now() - timedelta(seconds=seconds)) == "0 s"


# What the engine reports


def test_the_page_and_the_api_show_what_the_engine_reports(as_viewer: Api, served: World) -> None:
    reading = EngineReading(("tiny:7b", "<b>"), ("large",), 3, NOW - timedelta(minutes=5))
    fake_installation().engine = {A: reading}.get
    about = visible_text(part(page(as_viewer), "about"))
    assert "Models in memory tiny:7b &lt;b&gt; Models being loaded large Requests of other clients 3" in about
    assert f"Reported by the engine {figures.age(reading.read_at)}" in about
    assert as_viewer.get(f"/api/endpoints/{A}/engine").json() == {
        "loaded_models": ["tiny:7b", "<b>"],
        "loading_models": ["large"],
        "other_requests": 3,
        "read_at": json_time(reading.read_at),
    }


def test_an_engine_that_only_counts_requests_shows_no_models(as_viewer: Api, served: World) -> None:
    fake_installation().engine = {A: EngineReading(None, (), 0, NOW)}.get
    about = visible_text(part(page(as_viewer), "about"))
    assert "Requests of other clients 0" in about
    assert "Models in memory" not in about
    reported = as_viewer.get(f"/api/endpoints/{A}/engine").json()
    assert (reported["loaded_models"], reported["loading_models"], reported["other_requests"]) == (None, None, 0)


def test_without_a_report_nothing_is_shown(as_viewer: Api, served: World) -> None:
    assert "Reported by the engine" not in page(as_viewer)
    assert set(as_viewer.get(f"/api/endpoints/{A}/engine").json().values()) == {None}
    assert as_viewer.get("/api/endpoints/aaaaaaaa-0000-4000-8000-00000000dead/engine").status_code == 404
