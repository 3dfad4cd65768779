"""The list of endpoints: filters, order and figures, without a query."""

import re
from typing import Any

import pytest

from endpoints.models import EndpointModel
from endpoints.registry import registry
from gateway.ipc import record
from metrics.learning.prefixes import PrefixShare
from metrics.pages.endpoints import EndpointListQuery
from tests.access.people import Api
from tests.metrics.pages.test_views import page, row, value
from tests.metrics.records import A, B, request
from tests.metrics.world import World, add_endpoint, fake_installation

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

LIST = "/endpoints"
C = "cccccccc-0000-4000-8000-000000000003"


@pytest.fixture
def three(shown_world: World) -> World:
    """An online vLLM server, an offline server with a measurement, and a server without any check."""
    a = add_endpoint(A, "Alpha", status="online", endpoint_type="vllm", latency_ms=20, notes="in the basement")
    a.set_options(tags=["tokyo", "rack 3"], max_concurrency=8)
    EndpointModel(endpoint=a, model_id="org/tiny").save(force_insert=True)
    add_endpoint(B, "beta", status="offline", endpoint_type="ollama", latency_ms=5, last_error="connection refused")
    add_endpoint(C, "gamma", status="pending", endpoint_type="ollama").set_options(tags=["osaka"])
    registry.reload()
    shown_world.gateway(request(output_tokens=60), request(record.FAILED), request(endpoint=B, output_tokens=61))
    return shown_world


def names(html: str) -> list[str]:
    return re.findall(r'<a href="/endpoints/[0-9a-f-]{36}">([^<]*)</a>', html)


@pytest.mark.parametrize(
    ("query", "expected_names"),
    [
        ("", ["beta", "gamma", "Alpha"]),
        ("q=basement", ["Alpha"]),
        ("q=tiny", ["Alpha"]),
        ("q=nothing+at+all", []),
        ("status=offline", ["beta"]),
        ("type=ollama&sort=name", ["beta", "gamma"]),
        ("model=org/tiny", ["Alpha"]),
        ("tag=osaka", ["gamma"]),
        ("sort=name", ["Alpha", "beta", "gamma"]),
        ("sort=-name", ["gamma", "beta", "Alpha"]),
        ("sort=latency", ["beta", "Alpha", "gamma"]),
        ("sort=-latency", ["Alpha", "beta", "gamma"]),
        ("sort=speed", ["Alpha", "beta", "gamma"]),
        ("sort=-speed", ["beta", "Alpha", "gamma"]),
        ("sort=-attempts", ["Alpha", "beta", "gamma"]),
        ("sort=-failed", ["Alpha", "beta", "gamma"]),
        ("sort=-models", ["Alpha", "beta", "gamma"]),
        ("status=&type=&q=", ["beta", "gamma", "Alpha"]),
    ],
)
def test_filters_and_order_are_in_the_url(as_viewer: Api, three: World, query: str, expected_names: list[str]) -> None:
    assert names(page(as_viewer, f"{LIST}?{query}")) == expected_names


@pytest.mark.parametrize("query", ["q=basement", "status=offline", "type=ollama", "model=org/tiny", "tag=osaka"])
def test_the_api_has_the_same_filters(as_viewer: Api, three: World, query: str) -> None:
    reported = as_viewer.call("GET", f"/api/endpoints?{query}").json()["endpoints"]
    assert sorted(endpoint["name"] for endpoint in reported) == sorted(names(page(as_viewer, f"{LIST}?{query}")))


@pytest.mark.parametrize("query", ["sort=colour", "page=0x1", "page=-1", "sort=%00&page=99999999"])
def test_invalid_parameters_are_ignored_and_reported(as_viewer: Api, three: World, query: str) -> None:
    html = page(as_viewer, f"{LIST}?{query}")
    assert len(names(html)) == 3
    assert "Invalid parameters were ignored" in html


def test_figures_are_those_of_the_api(as_viewer: Api, three: World) -> None:
    fake_installation().in_flight = lambda: {A: 3}
    reported = {endpoint["id"]: endpoint for endpoint in as_viewer.call("GET", "/api/dashboard/endpoints").json()}[A]
    html = page(as_viewer, LIST)
    assert reported["total_requests"] == 2
    for name in ("active_requests", "total_requests", "failed_requests", "model_count"):
        assert value(html, name) == str(reported[name])
    assert "/ 8" in row(html)
    assert f"<span data-speed>{reported['tokens_per_second']}</span>" in row(html)


def test_a_kept_latency_is_shown_as_old(as_viewer: Api, three: World) -> None:
    assert 'class="stale" data-latency' in row(page(as_viewer, LIST), B)
    assert "connection refused" in row(page(as_viewer, LIST), B)


@pytest.mark.parametrize("rows", [1, 30])
def test_the_list_needs_no_database(as_viewer: Api, rows: int, django_assert_num_queries: Any) -> None:
    for number in range(rows):
        add_endpoint(f"{number:08d}-0000-4000-8000-000000000000", f"box{number}")
    page(as_viewer, LIST)
    with django_assert_num_queries(0):
        assert len(names(page(as_viewer, LIST))) == rows


def test_a_script_request_gets_only_the_table(as_viewer: Api, three: World) -> None:
    part = as_viewer.get(LIST, headers={"X-RouterDash-Part": "true"}).content.decode()
    assert "<html" not in part
    assert len(names(part)) == 3
    assert "<html" in as_viewer.get(LIST).content.decode()


def test_headers_show_the_order_and_link_to_the_reverse(as_viewer: Api, three: World) -> None:
    html = page(as_viewer, f"{LIST}?type=ollama&sort=-latency")
    assert 'aria-sort="descending"><a class="ep-sort" href="?type=ollama&amp;sort=latency"' in html
    assert html.count("aria-sort=") == 1


def test_a_url_has_only_parameters_that_differ_from_the_default() -> None:
    assert EndpointListQuery.of({"sort": "status", "q": " "}).query() == ""
    assert (
        EndpointListQuery.of({"sort": "-name", "tag": "東京", "page": "2"}).query()
        == "tag=%E6%9D%B1%E4%BA%AC&sort=-name"
    )


def test_long_lists_are_paginated(as_viewer: Api, three: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics.pages.endpoints.PAGE", 2)
    assert names(page(as_viewer, f"{LIST}?sort=name")) == ["Alpha", "beta"]
    assert names(page(as_viewer, f"{LIST}?sort=name&page=2")) == ["gamma"]
    assert names(page(as_viewer, f"{LIST}?sort=name&page=9")) == ["gamma"]


def test_viewers_get_no_buttons(as_viewer: Api, as_admin: Api, three: World) -> None:
    for mark in ('name="action"', 'type="checkbox"', "/endpoints/add", "/endpoints/discover"):
        assert mark in page(as_admin, LIST)
        assert mark not in page(as_viewer, LIST)


def test_names_and_tags_are_escaped(as_admin: Api) -> None:
    add_endpoint(A, "<b>x", base_url="http://x.invalid", last_error="</td><script>").set_options(tags=["<i>"])
    registry.reload()
    html = page(as_admin, f"{LIST}?q=<script>alert(1)</script>") + page(as_admin, LIST)
    for mark in ("<b>x", "<i>", "</td><script>", "<script>alert"):
        assert mark not in html


@pytest.mark.parametrize(("share", "shown"), [(PrefixShare(3, 4), "75.0 % of 4"), (PrefixShare(), None)])
def test_the_share_of_found_prefixes_is_shown_if_it_is_known(
    as_viewer: Api, three: World, share: PrefixShare, shown: str | None
) -> None:
    fake_installation().prefix_share = lambda: share
    match = re.search(r"latest responses that found their prefix in a cache: (.*?) *</span>", page(as_viewer, LIST))
    assert (match and match[1]) == shown
