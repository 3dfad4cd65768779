"""Pages contain their figures in the HTML, without queries if possible."""

import json
import re
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from django.conf import settings

from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from gateway.ipc import record
from gateway.registry.schema import EndpointFacts, Model, Speeds
from metrics.learning.prefixes import PrefixShare
from metrics.memory.runtime import runtime
from tests.access.people import Api, make_user, session_of
from tests.markup import one_line
from tests.metrics.records import AT, NOW, A, B, request
from tests.metrics.world import World, add_endpoint, fake_installation, without

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

NOWHERE = "eeeeeeee-0000-4000-8000-000000000009"


UNMEASURED = '<span class="muted" data-latency><span>—</span><small hidden>'


def page(client: Api, path: str = "/") -> str:
    response = client.get(path)
    assert response.status_code == 200
    return one_line(response.content.decode())


def stat(html: str, name: str) -> str:
    """Return a figure of the cards at the top."""
    match = re.search(rf'data-stat="{name}">([^<]*)<', html)
    assert match is not None, name
    return match[1]


def row(html: str, endpoint_id: str = A) -> str:
    """Return an endpoint's row of the table."""
    return html.split(f'data-endpoint="{endpoint_id}"')[1].split("</tr>")[0]


def value(html: str, name: str) -> str:
    match = re.search(rf'data-value="{name}">([^<]*)<', row(html))
    assert match is not None, name
    return match[1]


@pytest.fixture
def served(shown_world: World, endpoints: tuple[Endpoint, Endpoint]) -> World:
    EndpointModel(endpoint=endpoints[0], model_id="tiny", max_tokens=8192).save(force_insert=True)
    Endpoint.objects.filter(pk=A).update(latency_ms=120, last_seen=NOW)
    registry.reload()
    shown_world.gateway(request(output_tokens=1234, input_tokens=3), request(record.FAILED), request(record.CANCELLED))
    shown_world.write()
    return shown_world


# The overview


def test_pages_need_a_login(anybody: Api) -> None:
    for path in ("/", f"/endpoints/{A}"):
        response = anybody.get(path)
        assert (response.status_code, response["Location"]) == (302, f"/login?next={path}")


def test_the_overview_needs_no_database(as_viewer: Api, served: World, django_assert_num_queries: Any) -> None:
    page(as_viewer)
    with django_assert_num_queries(0):
        page(as_viewer)


def test_the_overview_contains_the_figures(as_viewer: Api, served: World) -> None:
    html = page(as_viewer)
    names = ("total_requests", "failed_requests", "cancelled_requests", "total_tokens", "average_response_time_ms")
    assert [stat(html, name) for name in names] == ["2", "1", "1", "1,237", "2.00"]
    assert [value(html, name) for name in ("total_requests", "failed_requests", "model_count")] == ["2", "1", "1"]
    assert stat(html, "success_rate") == "50.0"


def test_the_overview_shows_speeds(as_viewer: Api, served: World) -> None:
    assert ">617</td>" in page(as_viewer)


@pytest.mark.parametrize(("share", "shown"), [(PrefixShare(3, 4), True), (PrefixShare(), False)])
def test_the_overview_shows_how_many_responses_found_their_prefix(
    as_viewer: Api, served: World, share: PrefixShare, shown: bool
) -> None:
    fake_installation().prefix_share = lambda: share
    assert ("found their prefix in a cache: 75.0 % of 4" in page(as_viewer)) is shown


def test_the_overview_shows_the_60_minutes(as_viewer: Api, served: World) -> None:
    minutes = page(as_viewer).split("<tbody data-minutes>")[1].split("</tbody>")[0]
    assert minutes.count("<tr ") == 60
    figures = 'data-minute="2026-03-10T12:00:00Z" data-success="1" data-error="1"'
    assert minutes.startswith(f'<tr {figures}><th scope="row">12:00</th><td class="n">1</td><td class="n">1</td></tr>')


def test_lines_of_sums_end_with_the_last_whole_minute(as_viewer: Api, shown_world: World) -> None:
    shown_world.gateway(*(request(ago=60) for _ in range(9)), request())
    drawn = page(as_viewer).split('data-part="spark-requests"')[1].split("</svg>")[0]
    assert 'd="M80.0 4.0h0"' in drawn  # the highest is the last


def test_an_overview_without_responses_shows_a_message(as_viewer: Api, endpoints: object) -> None:
    html = page(as_viewer)
    assert '<td colspan="6" class="muted w4">No model has responded yet.' in html
    assert 'data-caption="served" hidden' in html


def test_the_average_is_labelled_as_one_of_responses(as_viewer: Api, served: World) -> None:
    assert 'data-caption="unserved" hidden' in page(as_viewer)


def test_the_page_contains_the_state_for_its_script(as_viewer: Api, served: World) -> None:
    match = re.search(r'<script id="shown" type="application/json">(.*?)</script>', page(as_viewer))
    assert match is not None
    shown = json.loads(match[1])
    reported = as_viewer.call("GET", "/api/dashboard/overview").json()
    assert shown["endpoints"] == [
        {"id": endpoint["id"], "slots": endpoint["slots"]} for endpoint in reported["endpoints"]
    ]
    assert set(shown) == {"endpoints", "attention", "attention_count", "marks"}


def test_a_script_request_gets_only_the_sparklines(as_viewer: Api, served: World) -> None:
    part = page(as_viewer, "/?part=sparks")
    assert "<html" not in part
    sparks = re.findall(r'<svg class="spark".*? data-part="spark-(\w+)">.*?</svg>', part)
    assert len(sparks) == len(set(sparks)) == 10
    whole = page(as_viewer)
    assert all(f'data-part="spark-{name}"' in whole for name in sparks)


def test_the_page_contains_the_version_of_its_figures(as_viewer: Api, served: World) -> None:
    version = as_viewer.call("GET", "/api/dashboard/stats").json()["figures_version"]
    assert f'data-figures-version="{version}"' in page(as_viewer)


@pytest.fixture
def backlog(served: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Two records have been waiting for three minutes."""
    monkeypatch.setattr(runtime.installation, "writer", served.writer)
    served.write()
    served.gateway(request(ago=180), request())
    served.writer.backlog.behind_since = AT - 180
    monkeypatch.setattr(served.writer, "flush", lambda timeout=2.0: False)
    return served


WAITING = 'data-show="waiting">'


def test_the_overview_shows_records_waiting_for_the_database(as_viewer: Api, backlog: World) -> None:
    html = page(as_viewer)
    assert WAITING in html
    assert (stat(html, "records_waiting"), stat(html, "oldest_waiting_secs")) == ("2", "3 min")
    assert "All figures on this page are live and include them." in html


def test_an_endpoints_page_shows_which_figures_are_behind(as_viewer: Api, backlog: World) -> None:
    html = page(as_viewer, f"/endpoints/{A}")
    assert WAITING in html
    assert "do not include them yet" in html


def test_pages_show_no_message_about_a_short_backlog(as_viewer: Api, served: World) -> None:
    for path in ("/", f"/endpoints/{A}"):
        assert WAITING not in page(as_viewer, path)


def test_page_and_api_agree(as_viewer: Api, served: World) -> None:
    reported = as_viewer.call("GET", "/api/dashboard/stats").json()
    html = page(as_viewer)
    for name in ("total_requests", "failed_requests", "online_runtimes", "total_runtimes", "total_active_requests"):
        assert int(stat(html, name)) == reported[name]


def test_unmeasured_values_are_dashes(as_viewer: Api, endpoints: object) -> None:
    html = page(as_viewer)
    assert [stat(html, name) for name in ("average_response_time_ms", "success_rate")] == ["—", "—"]
    assert UNMEASURED in row(html)
    assert value(html, "total_requests") == "0"


def test_a_model_without_a_speed_is_a_dash(as_viewer: Api, shown_world: World, endpoints: object) -> None:
    shown_world.gateway(request())
    assert '<td class="n" data-label="tok/s" data-cell="speed">—</td>' in page(as_viewer)


def test_a_latency_is_shown(as_viewer: Api, served: World) -> None:
    assert '<span class="" data-latency><span>120<span class="unit">ms</span></span><small hidden>' in row(
        page(as_viewer)
    )


def test_an_offline_endpoint_shows_its_last_latency_as_old(as_viewer: Api) -> None:
    add_endpoint(A, "a", latency_ms=120, last_seen=NOW, status="offline")
    shown_row = row(page(as_viewer))
    assert 'class="stale" data-latency title="Measured 2026-03-10T12:00:30+00:00"' in shown_row
    assert ">120<" in shown_row


def test_an_offline_endpoint_that_was_never_measured_is_a_dash(as_viewer: Api) -> None:
    add_endpoint(A, "a", status="offline")
    assert UNMEASURED in row(page(as_viewer))


def test_the_worst_endpoints_come_first(as_viewer: Api) -> None:
    for number, (name, status) in enumerate([("b", "online"), ("a", "online"), ("z", "offline"), ("y", "error")]):
        add_endpoint(f"{number:08d}-0000-4000-8000-000000000000", name, status=status)
    names = re.findall(r'<span class="name"><a href="[^"]*">([^<]*)</a>', page(as_viewer))
    assert names == ["z", "y", "a", "b"]


def test_the_operator_state_is_shown(as_viewer: Api) -> None:
    add_endpoint(A, "a", status="online").set_operator_state("draining")
    registry.reload()
    assert 'class="st st-draining" data-status' in row(page(as_viewer))


def test_names_are_escaped(as_viewer: Api) -> None:
    add_endpoint(A, "<script>alert(1)</script>", base_url="http://x.invalid", last_error="</script><b>")
    html = page(as_viewer)
    assert "<script>alert" not in html
    assert "</script><b>" not in html


def test_requests_in_flight_are_shown(as_viewer: Api, endpoints: object) -> None:
    fake_installation().in_flight = lambda: {A: 3, B: 4}
    html = page(as_viewer)
    assert (stat(html, "total_active_requests"), value(html, "active_requests")) == ("7", "3")


def test_items_that_need_attention_are_shown(as_viewer: Api, shown_world: World) -> None:
    attention = re.compile(r"data-attention(?! hidden)>")
    assert attention.search(page(as_viewer))  # not restored yet
    shown_world.follower.seed(shown_world.trackers.state, "db")
    assert not attention.search(page(as_viewer))


def test_an_empty_installation_shows_the_first_steps(as_admin: Api, as_viewer: Api) -> None:
    for path in ("/", "/endpoints"):
        assert "No endpoints yet." in page(as_viewer, path)
        assert 'action="/endpoints/add"' in page(as_admin, path)
        assert "/endpoints/add" not in page(as_viewer, path)
    assert "/admin/" not in page(as_viewer)


def test_an_empty_overview_starts_with_the_first_steps(as_admin: Api, as_viewer: Api) -> None:
    for reader in (as_admin, as_viewer):
        html = page(reader)
        assert html.index("data-first-run=") < html.index('class="stats"')


@pytest.mark.parametrize("path", ["models", "requests", "usage", "clients", "live", "playground", "keys", "search"])
def test_every_page_of_an_empty_installation_explains_itself(as_admin: Api, as_viewer: Api, path: str) -> None:
    registry.reload()
    taught = page(as_admin, f"/{path}").split("data-no-endpoints>")[1].split("</section>")[0]
    assert all(text in taught for text in ('href="/endpoints/discover"', 'href="/endpoints/add"', "make demo"))
    assert "/endpoints/add" not in page(as_viewer, f"/{path}").split("data-no-endpoints>")[1]
    add_endpoint(A)
    assert "data-no-endpoints" not in page(as_admin, f"/{path}")


def test_pages_are_not_cached_by_browsers(as_viewer: Api) -> None:
    assert "no-store" in as_viewer.get("/")["Cache-Control"]


def test_a_page_is_in_the_requested_language(as_viewer: Api) -> None:
    assert '<html lang="ja"' in as_viewer.get("/", headers={"accept-language": "ja"}).content.decode()
    assert '<html lang="en"' in page(as_viewer)


def test_a_generated_password_gives_access_to_the_password_page_only() -> None:
    client = session_of(make_user(must_change_password=True))
    assert client.get("/")["Location"] == "/account/password"


# An endpoint's page


@pytest.mark.parametrize("endpoint_id", [NOWHERE, "a"])
def test_an_unknown_endpoint_has_no_page(as_viewer: Api, endpoint_id: str) -> None:
    response = as_viewer.get(f"/endpoints/{endpoint_id}")
    assert response.status_code == 404
    assert "This page does not exist." in response.content.decode()


def test_only_administrators_may_edit(as_admin: Api, as_viewer: Api, endpoints: object) -> None:
    edit = f"/admin/endpoints/endpoint/{A}/change/"
    assert edit in page(as_admin, f"/endpoints/{A}")
    assert edit not in page(as_viewer, f"/endpoints/{A}")


@pytest.mark.django_db(transaction=True)
def test_the_page_of_an_endpoint_needs_the_database(as_viewer: Api, endpoints: object) -> None:
    page(as_viewer)
    with without("endpoint_daily_stats"):
        response = as_viewer.get(f"/endpoints/{A}")
        assert response.status_code == 503
        assert "The database is currently unavailable." in response.content.decode()
        assert page(as_viewer)


# Where a request would go, with adaptive routing


def test_a_models_page_shows_the_cost_of_each_endpoint(
    as_viewer: Api, served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ROUTERDASH", replace(settings.ROUTERDASH, balancer="adaptive"))
    facts = EndpointFacts(id=A, slot=0, name="a", base_url="http://x.invalid", kind="vllm", status="online")
    speeds = Speeds(setup=0.1, read=0.001, write=0.02, share=0.005, completions=40)
    fake_installation().routes = lambda name: [(facts, Model("tiny"))]
    fake_installation().speeds = lambda *key: speeds
    html = page(as_viewer, "/models/tiny?prompt_tokens=100&output_tokens=10")
    assert 'value="100"' in html
    text = re.sub(r"(<[^>]+>|\s)+", " ", html)
    assert "Chosen: a 0 450 ms 450 ms 0 ms 0 ms 0 ms —" in text
    dear = msgspec.structs.replace(facts, tier=2, cost_weight=2.5)
    fake_installation().routes = lambda name: [(dear, Model("tiny"))]
    text = re.sub(r"(<[^>]+>|\s)+", " ", page(as_viewer, "/models/tiny?prompt_tokens=100&output_tokens=10"))
    assert "Chosen: a tier 2 0 1.13 s cost weight 2.50 450 ms 0 ms 0 ms 0 ms —" in text
    fake_installation().speeds = lambda *key: None
    assert "assumed" in page(as_viewer, "/models/tiny?prompt_tokens=none")
