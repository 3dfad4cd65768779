"""Models over all endpoints: rows, filters, sums; API and pages agree."""

import re
from typing import Any

import pytest
from django.utils.http import urlencode

from access.models import INFERENCE, User
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from gateway.ipc import record
from gateway.registry.schema import EndpointFacts, Model
from metrics.memory.runtime import runtime
from tests.access.people import Api, key_for, with_key
from tests.metrics.records import A, B, request
from tests.metrics.world import World, add_endpoint

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

MODELS = "/api/dashboard/models"
LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
DAY = 86_400.0


@pytest.fixture
def offered(shown_world: World, endpoints: tuple[Endpoint, Endpoint]) -> World:
    """A is online and has three models, B is offline and has one of them under another name."""
    a, b = endpoints
    Endpoint.objects.filter(pk=A).update(status="online")
    Endpoint.objects.filter(pk=B).update(status="offline")
    for endpoint, name, fields in (
        (a, LLAMA, {"canonical_name": LLAMA, "capabilities": ["chat"], "max_tokens": 8192}),
        (b, "llama3.3:70b", {"canonical_name": LLAMA, "capabilities": ["chat"], "max_tokens": 4096}),
        (a, "embed", {"capabilities": ["embeddings"]}),
        (b, "日本語/モデル", {"capabilities": []}),
    ):
        EndpointModel(endpoint=endpoint, model_id=name, **fields).save(force_insert=True)
    registry.reload()
    return shown_world


def rows(api: Api, **query: Any) -> Any:
    return api.call("GET", f"{MODELS}?{urlencode(query)}").json()["data"]


def names(api: Api, **query: Any) -> list[str]:
    return [row["id"] for row in rows(api, **query)]


def test_the_same_weights_are_one_row(script: Api, offered: World) -> None:
    assert names(script) == ["embed", LLAMA, "日本語/モデル"]
    row = rows(script)[1]
    assert (row["ready"], row["endpoints_online"], row["max_tokens"]) == (True, 1, 8192)
    assert row["endpoint_ids"] == [A, B]
    assert "llama3.3:70b" in row["aliases"]
    assert [(offer["endpoint_name"], offer["model_id"], offer["shown_status"]) for offer in row["endpoints"]] == [
        ("a", LLAMA, "online"),
        ("b", "llama3.3:70b", "offline"),
    ]


def test_what_a_model_can_do(script: Api, offered: World) -> None:
    embed, llama, unknown = rows(script)
    assert [model["capabilities"] for model in (embed, llama, unknown)] == [["embeddings"], ["chat"], []]
    assert embed["supported_apis"] == ["embeddings"]
    assert "messages" in llama["supported_apis"]
    assert "audio_speech" in unknown["supported_apis"]  # any name: gateways accept all


@pytest.mark.parametrize(
    ("query", "expected_names"),
    [
        ({"q": "llama3.3"}, [LLAMA]),
        ({"q": "LLAMA"}, [LLAMA]),
        ({"q": "モデル"}, ["日本語/モデル"]),
        ({"q": "nothing"}, []),
        ({"q": ""}, ["embed", LLAMA, "日本語/モデル"]),
        ({"capability": "embeddings"}, ["embed"]),
        ({"endpoint_id": B}, [LLAMA, "日本語/モデル"]),
        ({"state": "ready"}, ["embed", LLAMA]),
        ({"state": "not_ready"}, ["日本語/モデル"]),
        ({"endpoint_id": B, "state": "ready"}, [LLAMA]),
        ({"sort": "endpoints"}, [LLAMA, "embed", "日本語/モデル"]),
    ],
)
def test_filters(script: Api, offered: World, query: dict[str, str], expected_names: list[str]) -> None:
    assert names(script, **query) == expected_names


@pytest.mark.parametrize(
    "query", ["capability=flying", "endpoint_id=x", "state=maybe", "sort=upwards", "colour=red", f"q={'x' * 201}"]
)
def test_a_wrong_filter_is_one_clear_error(script: Api, offered: World, query: str) -> None:
    assert script.call("GET", f"{MODELS}?{query}").status_code == 400


def test_requests_are_counted_under_any_name(script: Api, offered: World) -> None:
    offered.gateway(
        request(model=LLAMA),
        request(record.FAILED, model="llama3.3:70b"),
        request(model="LLAMA3.3:70B", ago=DAY),
        request(record.CANCELLED, model=LLAMA),
        request(model=LLAMA, ago=6 * DAY),
        request(model=LLAMA, ago=7 * DAY),
        request(model="gone"),
    )
    offered.write()
    row = rows(script, q="llama")[0]
    assert [row[name] for name in ("requests_today", "failed_today", "cancelled_today")] == [2, 1, 1]
    assert [row[name] for name in ("requests_7_days", "failed_7_days", "cancelled_7_days")] == [4, 1, 1]
    assert names(script, sort="requests")[0] == LLAMA


def test_speeds_are_listed_by_endpoint_and_kind(script: Api, offered: World) -> None:
    offered.gateway(
        request(model=LLAMA, output_tokens=100),
        request(model="llama3.3:70b", output_tokens=50),
        request(model=LLAMA, endpoint=B, output_tokens=30, kind="messages"),
    )
    offered.write()
    row = rows(script, sort="speed")[0]
    reported = [
        [(speed["model_id"], speed["api_kind"], speed["tps"]) for speed in offer["speeds"]]
        for offer in row["endpoints"]
    ]
    assert reported == [
        [("llama3.3:70b", "chat_completions", 25.0), (LLAMA, "chat_completions", 50.0)],
        [(LLAMA, "messages", 15.0)],
    ]
    assert (row["fastest_tps"], row["endpoints"][1]["fastest_tps"]) == (50.0, 15.0)


@pytest.mark.parametrize("name", [LLAMA, "llama3.3:70b", "LLAMA3.3:70B"])
def test_one_model_by_any_of_its_names(script: Api, offered: World, name: str) -> None:
    offered.gateway(
        request(model=LLAMA, output_tokens=100),
        request(model="llama3.3:70b", ago=DAY, duration_us=4_000_000),
        request(record.FAILED, model=LLAMA, ago=20 * DAY),
    )
    offered.write()
    model = script.call("GET", f"{MODELS}/{name}").json()
    assert (model["id"], model["asked_names"]) == (LLAMA, sorted([LLAMA, "llama3.3:70b"]))
    days = [(day["day"], day["requests"], day["failed_requests"], day["average_duration_ms"]) for day in model["days"]]
    assert days == [("2026-03-10", 1, 0, 2000.0), ("2026-03-09", 1, 0, 4000.0), ("2026-02-18", 1, 1, None)]


def test_a_removed_model_keeps_its_figures(script: Api, as_viewer: Api, offered: World) -> None:
    offered.gateway(request(model="gone/by <now>"))
    offered.write()
    model = script.call("GET", f"{MODELS}/gone/by%20%3Cnow%3E").json()
    assert (model["endpoints"], model["requests_today"], model["ready"]) == ([], 1, False)
    html = as_viewer.get("/models/gone/by%20%3Cnow%3E").content.decode()
    assert "No endpoint offers this model now." in html
    assert "<now>" not in html


def test_an_unknown_model_is_not_found(script: Api, as_viewer: Api, offered: World) -> None:
    assert script.call("GET", f"{MODELS}/nobody").status_code == 404
    assert as_viewer.get("/models/nobody").status_code == 404


def test_stats_of_all_time(script: Api, offered: World) -> None:
    offered.gateway(request(model=LLAMA), request(model=LLAMA, endpoint=B), request(model="embed", ago=90 * DAY))
    offered.write()
    reported = script.call("GET", "/api/dashboard/model-stats").json()
    assert [(row["model_id"], row["total_requests"]) for row in reported] == [(LLAMA, 2), ("embed", 1)]
    Endpoint.objects.get(pk=B).delete()
    registry.reload()
    reported = script.call("GET", "/api/dashboard/model-stats").json()
    assert [(row["model_id"], row["total_requests"]) for row in reported] == [("embed", 1), (LLAMA, 1)]


def test_reading_needs_a_permission(anybody: Api, as_viewer: Api, admin: User, offered: World) -> None:
    weak = with_key(key_for(admin, INFERENCE))
    for path in (MODELS, f"{MODELS}/embed", "/api/dashboard/model-stats"):
        assert [api.call("GET", path).status_code for api in (anybody, weak, as_viewer)] == [401, 403, 200]
    for path in ("/models", "/models/embed"):
        assert anybody.get(path).status_code == 302


# Pages


def page(client: Api, path: str = "/models") -> str:
    response = client.get(path)
    assert response.status_code == 200
    text: str = response.content.decode()
    return text


def shown(html: str) -> list[str]:
    return re.findall(r'<tr data-model="([^"]+)"', html)


def test_the_page_shows_the_figures_of_the_api(as_viewer: Api, offered: World) -> None:
    for query in ("", "?q=llama", "?capability=embeddings", "?state=not_ready", "?sort=endpoints"):
        api = [row["id"] for row in as_viewer.call("GET", f"{MODELS}{query}").json()["data"]]
        assert shown(page(as_viewer, f"/models{query}")) == api


def test_invalid_filters_are_ignored_and_reported(as_viewer: Api, offered: World) -> None:
    html = page(as_viewer, "/models?capability=flying&q=llama&colour=red&page=x")
    assert "capability, colour" in html
    assert shown(html) == [LLAMA]


def test_many_models_are_paginated(as_viewer: Api, offered: World) -> None:
    for number in range(60):
        EndpointModel(endpoint_id=A, model_id=f"m{number:02}").save(force_insert=True)
    registry.reload()
    first, second = page(as_viewer, "/models?q=m"), page(as_viewer, "/models?q=m&page=2")
    assert (len(shown(first)), shown(second)[-1]) == (40, LLAMA)
    assert "q=m&amp;page=2" in first
    assert shown(page(as_viewer, "/models?q=m&page=99")) == shown(second)


@pytest.mark.parametrize("number", [1, 40])
def test_number_of_queries_does_not_grow_with_models(
    as_viewer: Api, offered: World, django_assert_num_queries: Any, number: int
) -> None:
    for index in range(number):
        made = add_endpoint(f"dddddddd-0000-4000-8000-{index:012}", f"d{index}")
        EndpointModel(endpoint=made, model_id=f"model-{index}").save(force_insert=True)
    registry.reload()
    offered.gateway(*(request(model=f"model-{position}") for position in range(number)))
    offered.write()
    page(as_viewer)
    with django_assert_num_queries(2):
        page(as_viewer)
    with django_assert_num_queries(4):
        page(as_viewer, "/models/model-0")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(LLAMA, LLAMA, ("llama3.3:70b",), ("chat",))
    facts: Any = {"slot": 0, "base_url": "http://x", "kind": "vllm"}
    one = EndpointFacts(id=A, name="a", status="online", **facts)
    other = EndpointFacts(id=B, name="b", status="offline", **facts)
    monkeypatch.setattr(runtime.installation, "routes", lambda name: [(one, model), (other, model)])


def test_the_page_shows_the_routing_preview(as_viewer: Api, offered: World, published: None) -> None:
    html = page(as_viewer, f"/models/{LLAMA}").split('id="where"')[1]
    assert "The request goes to the only candidate." in html
    assert html.split('class="win"')[1].split("</tr>")[0].count(f"/endpoints/{A}") == 1
    assert "offline" in html


def test_the_kind_is_a_query_parameter(as_viewer: Api, offered: World, published: None) -> None:
    chosen = '<option value="messages" selected>'
    assert [chosen in page(as_viewer, f"/models/{LLAMA}{query}") for query in ("?kind=messages", "?kind=x")] == [
        True,
        False,
    ]


def test_before_the_first_publication_the_page_shows_a_message(as_viewer: Api, offered: World) -> None:
    assert "No endpoint known to the gateways offers this model." in page(as_viewer, f"/models/{LLAMA}")


def test_snippets_are_quoted_for_shell_and_html(as_viewer: Api, offered: World) -> None:
    EndpointModel(endpoint_id=A, model_id="it's <b>").save(force_insert=True)
    registry.reload()
    html = page(as_viewer, "/models/it%27s%20%3Cb%3E")
    assert "it&#x27;\\&#x27;&#x27;s &lt;b&gt;" in html
    assert "<b>" not in html.split('id="how"')[1]
