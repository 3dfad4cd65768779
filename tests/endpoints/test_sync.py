import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from django.db import connection
from django.test.utils import CaptureQueriesContext

from benchmarks.simulator import Simulator
from endpoints import engines, sync
from endpoints.changes import log as change_log
from endpoints.changes.models import RegistryChange
from endpoints.changes.watched import ENDPOINT
from endpoints.checks import model_lists
from endpoints.checks.model_lists import ListedModel, SyncFailed
from endpoints.models import (
    BAD_MODEL_NAMES,
    MAX_MODELS,
    REMARKS,
    TOO_MANY_MODELS,
    Endpoint,
    EndpointModel,
    Kind,
)
from endpoints.probe import Probe, ProbeResponse, Unreachable
from endpoints.registry import read_entries, registry
from tests.endpoints.conftest import Serve, Server, break_off, hang, listing, make_endpoint, make_model, run_probe

LLAMA = "meta-llama/Llama-3.3-70B-Instruct"


def parsed(body: Any) -> list[ListedModel]:
    return model_lists.parse(ProbeResponse(200, body))


def fetched(url: str, kind: str = Kind.OPENAI_COMPATIBLE, key: str | None = None) -> list[ListedModel]:
    async def fetch_list(server_probe: Probe) -> sync.ModelList:
        return await sync.fetch(server_probe, kind)

    offer = run_probe(fetch_list, url, key)
    assert isinstance(offer, sync.ModelList)
    return offer.models


def length_from(server: Server, kind: str) -> int | None:
    (model,) = fetched(server.url, kind)
    return model.max_tokens


# Lists


def test_openais_list_is_read() -> None:
    assert parsed(listing("b", "a")) == [ListedModel("b"), ListedModel("a")]


@pytest.mark.parametrize("key", ["name", "model"])
def test_ollamas_list_is_read(key: str) -> None:
    assert parsed({"models": [{key: "llama3.3:70b"}]}) == [ListedModel("llama3.3:70b")]


def test_ollamas_name_field_takes_precedence_over_its_model_field() -> None:
    assert parsed({"models": [{"name": "a", "model": "b"}]}) == [ListedModel("a")]


def test_openais_list_takes_precedence_over_ollamas() -> None:
    assert parsed({"data": [{"id": "a"}], "models": [{"name": "b"}]}) == [ListedModel("a")]


def test_ollamas_list_is_read_if_there_is_no_openai_list() -> None:
    assert parsed({"data": None, "models": [{"name": "b"}]}) == [ListedModel("b")]


@pytest.mark.parametrize("key", ["data", "models"])
def test_an_empty_list_is_a_list(key: str) -> None:
    assert parsed({key: []}) == []


def test_duplicates_count_once() -> None:
    assert parsed(listing("a", "b", "a")) == [ListedModel("a"), ListedModel("b")]


def test_items_without_a_name_are_skipped() -> None:
    assert parsed({"data": [{"id": ""}, {"id": 7}, {}, "a", None, {"id": "b"}]}) == [ListedModel("b")]


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "models",
        7,
        {},
        {"error": "x"},
        {"data": {}},
        {"data": [{}]},
        {"data": ["a"]},
        {"models": [{"id": "a"}]},
    ],
)
def test_anything_else_is_not_a_list(body: Any) -> None:
    with pytest.raises(SyncFailed):
        parsed(body)


@pytest.mark.parametrize(
    "item",
    [
        {"max_model_len": 4096},
        {"max_context_length": 4096},
        {"context_length": 4096},
        {"meta": {"n_ctx": 4096}},
        {"meta": {"n_ctx_train": 4096}},
        {"max_model_len": None, "context_length": 4096},
        {"max_model_len": 4096, "context_length": 1},
        {"max_model_len": -1, "meta": {"n_ctx": 4096}},
    ],
)
def test_lengths_in_the_list_are_read(item: dict[str, Any]) -> None:
    assert parsed({"data": [{"id": "a", **item}]}) == [ListedModel("a", 4096)]


@pytest.mark.parametrize("value", [0, -1, 1 << 31, "4096", 4096.5, True, None, [4096]])
def test_malformed_lengths_are_ignored(value: Any) -> None:
    assert parsed({"data": [{"id": "a", "max_model_len": value, "meta": value}]}) == [ListedModel("a", None)]


# Fetching


def test_a_list_is_fetched(sim: Simulator) -> None:
    assert fetched(sim.add(models=["a", "b"]).url) == [ListedModel("a", 4096), ListedModel("b", 4096)]


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_an_error_is_not_a_list(serve: Serve, status: int) -> None:
    with pytest.raises(SyncFailed, match=f"HTTP {status}"):
        fetched(serve({"/v1/models": status}).url)


def test_a_closed_port_is_unreachable(nowhere: str) -> None:
    with pytest.raises(Unreachable):
        fetched(nowhere)


def test_the_key_is_sent(sim: Simulator) -> None:
    assert fetched(sim.add(api_key="sk-upstream").url, key="sk-upstream") == [ListedModel("tiny", 4096)]


@pytest.mark.parametrize("kind", [Kind.OPENAI_COMPATIBLE, Kind.VLLM, "of-the-future"])
def test_only_the_list_is_requested_from_other_engines(serve: Serve, kind: str) -> None:
    server = serve({"/v1/models": listing("a")})
    assert length_from(server, kind) is None
    assert server.paths() == ["/v1/models"]


@pytest.mark.parametrize("kind", [Kind.XLLM, Kind.OLLAMA, Kind.LM_STUDIO])
def test_a_complete_list_needs_no_second_request(serve: Serve, kind: Kind) -> None:
    server = serve({"/v1/models": listing("a", max_model_len=4096, capabilities=["chat"])})
    assert length_from(server, kind) == 4096
    assert server.paths() == ["/v1/models"]


@pytest.mark.parametrize(
    ("kind", "path"), [(Kind.XLLM, "/api/models/a%2Fb/info"), (Kind.LM_STUDIO, "/api/v1/models/a%2Fb")]
)
@pytest.mark.parametrize("field", ["max_context_length", "context_length"])
def test_engines_report_lengths_by_their_own_api(serve: Serve, kind: Kind, path: str, field: str) -> None:
    assert length_from(serve({"/v1/models": listing("a/b"), path: {field: 8192}}), kind) == 8192


@pytest.mark.parametrize(
    "limit",
    [
        {"max_output_tokens": 512},
        {"max_completion_tokens": 512},
        {"max_output_length": 512},
        {"top_provider": {"max_completion_tokens": 512}},
        {"max_input_tokens": 8192, "max_tokens": 512},
    ],
)
def test_a_limit_of_the_output_is_read_from_any_list(serve: Serve, limit: dict[str, Any]) -> None:
    (model,) = fetched(serve({"/v1/models": listing("a", **limit)}).url)
    assert model.max_output_tokens == 512


def test_a_llamacpp_offers_the_context_of_a_slot_not_that_of_the_training(serve: Serve) -> None:
    props = {"total_slots": 4, "default_generation_settings": {"n_ctx": 2048}}
    responses = {"/v1/models": listing("a", meta={"n_ctx_train": 8192}), "/props": props, "/v1/chat/completions": 400}
    assert length_from(serve(responses | {"/v1/embeddings": 501, "/v1/rerank": 501}), Kind.LLAMACPP) == 2048


@pytest.mark.parametrize(
    "body",
    [
        {"model_info": {"llama.context_length": 8192, "llama.block_count": 80}},
        {"model_info": {"context_length": 8192}},
        {"model_info": {"llama.context_length": 8192}, "parameters": "num_ctx 16384"},
        {"model_info": {"llama.context_length": 32768}, "parameters": "num_ctx 8192"},
        {"model_info": {}, "parameters": "stop <eos>\nnum_ctx                        8192"},
        {"model_info": None, "parameters": "context_length 8192"},
        {"parameters": "temperature 0.7\nn_ctx 8192\n"},
    ],
)
def test_ollama_reports_lengths_by_show(serve: Serve, body: dict[str, Any]) -> None:
    assert length_from(serve({"/v1/models": listing("a"), "/api/show": body}), Kind.OLLAMA) == 8192


def test_show_is_requested_for_each_model_of_ollama(serve: Serve) -> None:
    requested: list[Any] = []

    async def show(request: web.Request) -> web.Response:
        requested.append(await request.json())
        return web.json_response({"model_info": {"context_length": 1024 * len(requested)}})

    fetched(serve({"/v1/models": listing("a", "b"), "/api/show": show}).url, Kind.OLLAMA)
    assert sorted(body["model"] for body in requested) == ["a", "b"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        404,
        500,
        {"model_info": {"llama.context_length": "8192"}},
        {"model_info": {"xcontext_length": 8192}},
        {"model_info": [8192]},
        {"parameters": "num_ctx many"},
        {"parameters": "num_ctx"},
        {"parameters": None},
        break_off,
    ],
)
@pytest.mark.parametrize(
    ("kind", "path"),
    [(Kind.OLLAMA, "/api/show"), (Kind.XLLM, "/api/models/a/info"), (Kind.LM_STUDIO, "/api/v1/models/a")],
)
def test_an_engine_without_lengths_gives_no_length(serve: Serve, kind: Kind, path: str, body: Any) -> None:
    assert length_from(serve({"/v1/models": listing("a"), path: body}), kind) is None


def test_capabilities_in_the_list_are_read() -> None:
    assert parsed(listing("a", capabilities=["embeddings", "vision"])) == [
        ListedModel("a", None, ("embeddings",), features=("vision",))
    ]


def test_capabilities_of_the_engine_take_precedence_over_the_list(serve: Serve) -> None:
    responses = {"/v1/models": listing("a", capabilities=["chat"]), "/api/show": {"capabilities": ["embedding"]}}
    assert fetched(serve(responses).url, Kind.OLLAMA) == [ListedModel("a", None, ("embeddings",))]


def test_a_few_models_are_requested_concurrently(serve: Serve) -> None:
    running, peak = 0, 0

    async def info(request: web.Request) -> web.Response:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0)
        running -= 1
        return web.json_response({"context_length": 8192})

    names = [f"m{number}" for number in range(30)]
    responses = {"/v1/models": listing(*names), **{f"/api/models/{name}/info": info for name in names}}
    assert {model.max_tokens for model in fetched(serve(responses).url, Kind.XLLM)} == {8192}
    assert peak <= engines.AT_ONCE


# Storing


@pytest.fixture
def endpoint(db: None) -> Endpoint:
    return make_endpoint()


def stored(endpoint: Endpoint) -> dict[str, int | None]:
    return dict(EndpointModel.objects.filter(endpoint=endpoint).values_list("model_id", "max_tokens"))


def test_a_first_sync_adds_everything(endpoint: Endpoint) -> None:
    result = sync.store(endpoint, [ListedModel("b", 4096), ListedModel("a")])
    assert (result.models, result.added, result.removed, result.updated) == (["a", "b"], 2, 0, 0)
    assert stored(endpoint) == {"a": None, "b": 4096}


def test_a_second_sync_counts_what_changed(endpoint: Endpoint) -> None:
    sync.store(endpoint, [ListedModel("a"), ListedModel("b"), ListedModel("c")])
    result = sync.store(endpoint, [ListedModel("c"), ListedModel("d")])
    assert (result.added, result.removed, result.updated) == (1, 2, 1)
    assert sorted(stored(endpoint)) == ["c", "d"]


def test_an_empty_list_removes_everything(endpoint: Endpoint) -> None:
    make_model(endpoint)
    assert sync.store(endpoint, []).removed == 1
    assert stored(endpoint) == {}


def test_a_context_stays_while_the_api_that_states_it_does_not_respond(endpoint: Endpoint) -> None:
    make_model(endpoint, max_tokens=2048)
    sync.store(endpoint, [ListedModel("tiny", 8192, responded=False), ListedModel("new", 8192, responded=False)])
    assert stored(endpoint) == {"tiny": 2048, "new": 8192}


def test_the_first_time_that_a_model_was_listed_stays(endpoint: Endpoint) -> None:
    make_model(endpoint)
    for _ in range(2):
        sync.store(endpoint, [ListedModel("tiny"), ListedModel("new")])
        seen = dict(EndpointModel.objects.filter(endpoint=endpoint).values_list("model_id", "first_seen"))
        first = seen["new"]
        assert seen == {"tiny": None, "new": first}
        assert first is not None
    entry = read_entries()[str(endpoint.pk)]
    assert entry.registered_at is not None
    assert first is not None
    created = {model.id: entry.created(model) for model in entry.models}
    assert created == {"tiny": int(entry.registered_at.timestamp()), "new": int(first.timestamp())}


@pytest.mark.parametrize(("reported", "stored_length"), [(None, 4096), (8192, 8192)])
def test_a_missing_length_keeps_the_old_one(endpoint: Endpoint, reported: int | None, stored_length: int) -> None:
    make_model(endpoint, max_tokens=4096)
    sync.store(endpoint, [ListedModel("tiny", reported)])
    assert stored(endpoint) == {"tiny": stored_length}


@pytest.mark.parametrize(("kind", "canonical"), [(Kind.OLLAMA, LLAMA), (Kind.VLLM, None)])
def test_canonical_names_depend_on_the_engine(db: None, kind: Kind, canonical: str | None) -> None:
    endpoint = make_endpoint(endpoint_type=kind)
    sync.store(endpoint, [ListedModel("llama3.3:70b")])
    assert EndpointModel.objects.get().canonical_name == canonical


def test_a_canonical_name_follows_the_type(endpoint: Endpoint) -> None:
    make_model(endpoint, "llama3.3:70b", canonical_name=LLAMA)
    sync.store(endpoint, [ListedModel("llama3.3:70b")])
    assert EndpointModel.objects.get().canonical_name is None


def test_capabilities_are_guessed_from_the_name(endpoint: Endpoint) -> None:
    make_model(endpoint, "old-embed", capabilities=["chat"])
    sync.store(endpoint, [ListedModel("tiny"), ListedModel("old-embed")])
    rows = EndpointModel.objects.order_by("model_id").values_list("capabilities", flat=True)
    assert list(rows) == [["embeddings"], ["chat"]]


def can(endpoint: Endpoint) -> Any:
    return EndpointModel.objects.get(endpoint=endpoint).capabilities


def test_reported_capabilities_take_precedence_over_the_guess(endpoint: Endpoint) -> None:
    sync.store(endpoint, [ListedModel("tiny-embed", None, ("chat",))])
    assert can(endpoint) == ["chat"]


@pytest.mark.parametrize(
    ("offered", "stored_length"),
    [
        (ListedModel("tiny", responded=False), ["embeddings"]),
        (ListedModel("tiny"), ["chat"]),
        (ListedModel("tiny", None, ("rerank",), responded=False), ["rerank"]),
    ],
)
def test_a_guess_does_not_replace_capabilities_reported_earlier(
    endpoint: Endpoint, offered: ListedModel, stored_length: Any
) -> None:
    make_model(endpoint, capabilities=["embeddings"])
    sync.store(endpoint, [offered])
    assert can(endpoint) == stored_length


@pytest.mark.parametrize("known", [None, [], "chat", ["unheard of"]])
def test_unknown_capabilities_of_a_silent_server_are_guessed(endpoint: Endpoint, known: Any) -> None:
    make_model(endpoint, capabilities=known)
    sync.store(endpoint, [ListedModel("tiny", responded=False)])
    assert can(endpoint) == ["chat"]


@pytest.mark.parametrize(("slots", "learned"), [(4, 4), (0, None), (None, 2)])
def test_slots_are_learned_and_kept_without_a_response(
    endpoint: Endpoint, slots: int | None, learned: int | None
) -> None:
    endpoint.set_options(learned_slots=2)
    sync.store(endpoint, [], slots)
    assert Endpoint.objects.get().options.learned_slots == learned


def test_a_server_without_slots_gets_no_options(endpoint: Endpoint) -> None:
    sync.store(endpoint, [], 0)
    assert not hasattr(Endpoint.objects.get(), "options")


def test_every_model_gets_the_time_of_the_sync(endpoint: Endpoint) -> None:
    before = datetime.now(UTC)
    make_model(endpoint, "old")
    sync.store(endpoint, [ListedModel("old"), ListedModel("new")])
    assert all(row.last_checked and row.last_checked >= before for row in EndpointModel.objects.all())


def test_other_columns_of_llmlb_are_unchanged(endpoint: Endpoint) -> None:
    make_model(endpoint, "old", supported_apis=["responses"])
    sync.store(endpoint, [ListedModel("old"), ListedModel("new")])
    rows = EndpointModel.objects.order_by("model_id").values_list("supported_apis", flat=True)
    assert list(rows) == [["chat_completions"], ["responses"]]


def test_models_of_other_endpoints_are_unchanged(endpoint: Endpoint) -> None:
    other = make_endpoint("other")
    make_model(other)
    sync.store(endpoint, [])
    assert stored(other) == {"tiny": None}


@pytest.mark.django_db(transaction=True)
def test_a_sync_updates_the_registry_at_once() -> None:
    endpoint = make_endpoint()
    registry.all()
    sync.store(endpoint, [ListedModel("tiny", 4096)])
    entry = registry.get(str(endpoint.pk))
    assert entry is not None
    assert [(model.id, model.max_tokens) for model in entry.models] == [("tiny", 4096)]


# More models than the limit


def test_the_first_of_too_many_models_are_stored(serve: Serve) -> None:
    server = serve({"/v1/models": listing(*(f"m{number}" for number in range(MAX_MODELS + 1)))})
    offer = run_probe(lambda server_probe: sync.fetch(server_probe, Kind.OPENAI_COMPATIBLE), server.url)
    assert [offer.models[0].id, offer.models[-1].id] == ["m0", f"m{MAX_MODELS - 1}"]
    assert (len(offer.models), offer.remark) == (MAX_MODELS, TOO_MANY_MODELS)


def test_models_up_to_the_limit_cause_no_remark(serve: Serve) -> None:
    names = [f"m{number}" for number in range(MAX_MODELS)]
    server = serve({"/v1/models": listing(*names, *names)})
    offer = run_probe(lambda server_probe: sync.fetch(server_probe, Kind.OPENAI_COMPATIBLE), server.url)
    assert (len(offer.models), offer.remark) == (MAX_MODELS, None)


@pytest.mark.parametrize("name", ["a" * 257, "a\nb", "a\x00b", "\u2028", "\x9b31m"])
def test_models_with_unprintable_names_are_left_out_and_reported(name: str) -> None:
    assert model_lists.read([ProbeResponse(200, listing("good", name))]) == ([ListedModel("good")], BAD_MODEL_NAMES)


def test_both_remarks_are_reported_together() -> None:
    models, remark = model_lists.read([ProbeResponse(200, listing("\x00", *map(str, range(MAX_MODELS + 1))))])
    assert (len(models), remark) == (MAX_MODELS, f"{TOO_MANY_MODELS}; {BAD_MODEL_NAMES}")
    assert remark in REMARKS


def test_a_response_cut_before_its_list_is_reported_as_too_large() -> None:
    with pytest.raises(SyncFailed, match="too large"):
        model_lists.parse(ProbeResponse(200, None, cut=True))


def test_left_out_models_are_in_last_error_while_checks_pass(endpoint: Endpoint) -> None:
    def last_error() -> str | None:
        message: str | None = Endpoint.objects.get().last_error
        return message

    sync.store(endpoint, [ListedModel("a")], None, TOO_MANY_MODELS)
    assert last_error() == TOO_MANY_MODELS
    check: dict[str, Any] = {"latency_ms": 1, "checked_at": datetime.now(UTC)}
    Endpoint.record_check(endpoint.pk, success=True, error=None, **check)
    assert last_error() == TOO_MANY_MODELS
    Endpoint.record_check(endpoint.pk, success=False, error="HTTP 500", **check)
    sync.store(endpoint, [ListedModel("a")], None, TOO_MANY_MODELS)
    assert last_error() == "HTTP 500"
    Endpoint.record_check(endpoint.pk, success=True, error=None, **check)
    assert last_error() is None
    sync.store(endpoint, [ListedModel("a")], None, TOO_MANY_MODELS)
    sync.store(endpoint, [ListedModel("a")])
    assert last_error() is None


def test_unchanged_models_need_no_statement_each(endpoint: Endpoint) -> None:
    offered = [ListedModel(f"m{number}", 4096) for number in range(40)]
    sync.store(endpoint, offered)
    before = EndpointModel.objects.get(model_id="m0").last_checked
    with CaptureQueriesContext(connection) as captured:
        assert sync.store(endpoint, offered).updated == 40
    assert len(captured) < 12
    assert EndpointModel.objects.get(model_id="m0").last_checked > before


def test_more_rows_than_fit_in_one_statement_are_removed(endpoint: Endpoint) -> None:
    """Rows of an endpoint from before there was a limit."""
    EndpointModel.objects.bulk_create(
        (EndpointModel(endpoint=endpoint, model_id=f"m{number}") for number in range(40_000)), batch_size=5000
    )
    assert sync.store(endpoint, [ListedModel("m7")]).removed == 39_999
    assert list(stored(endpoint)) == ["m7"]


def test_requests_about_models_are_bounded_in_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def show(request: web.Request) -> web.StreamResponse:
        if (await request.json())["model"] == "quick":
            return web.json_response({"capabilities": ["embedding"]})
        return await hang(request)

    monkeypatch.setattr(engines, "QUERY_SECONDS", 0.5)
    names = ["quick", *(f"m{number}" for number in range(50))]
    server = serve({"/v1/models": listing(*names), "/api/show": show})
    offer = run_probe(lambda server_probe: sync.fetch(server_probe, Kind.OLLAMA), server.url, timeout=60)
    assert [model.responded for model in offer.models] == [True] + [False] * 50
    assert offer.models[0].capabilities


@pytest.mark.django_db
def test_each_sync_is_announced_to_other_processes(endpoint: Endpoint) -> None:
    """They show when the models were last checked, and the remark."""
    for models, remark in (
        ([ListedModel("a")], None),
        ([ListedModel("a")], None),
        ([ListedModel("a")], TOO_MANY_MODELS),
    ):
        RegistryChange.objects.all().delete()
        sync.store(endpoint, models, remark=remark)
        assert change_log.read().of(ENDPOINT) == {str(endpoint.pk)}
