import asyncio
import json

import pytest

from gateway.base.errors import Refusal
from gateway.base.request_kinds import KINDS
from gateway.loop.time_slices import TimeSlices, run_unsliced
from gateway.registry import schema
from gateway.registry.key_rules import KeyRules, compiled
from gateway.registry.schema import Model, ModelName, Step, Target
from gateway.registry.writer import Changes
from gateway.routing import model_list
from gateway.routing.lists import built_lists
from gateway.routing.lists.model_access import ModelAccess
from gateway.routing.model_list import ModelList
from tests.gateway.samples import make_endpoint

QWEN = Model("qwen3:8b", "Qwen/Qwen3-8B", ("qwen3:8b", "qwen3"), ("chat",), 4096)
SAME = Model("Qwen3-8B-FP8", "Qwen/Qwen3-8B", (), ("chat", "embeddings"), 32768)
EMBED = Model("embed", capabilities=("embeddings",))


@pytest.fixture
def roster_of(control, roster):
    def make(*endpoints):
        control.publish(*endpoints)
        assert roster.refresh()
        return roster

    return make


def listed(roster):
    payload = json.loads(run_unsliced(model_list.listing(roster)))
    assert payload["object"] == "list"
    return payload["data"]


def test_without_models_the_list_is_empty(roster_of):
    assert listed(roster_of()) == []


def test_the_entry_of_a_model(roster_of):
    (entry,) = listed(roster_of(make_endpoint("a", QWEN)))
    assert entry == {
        "id": "Qwen/Qwen3-8B",
        "object": "model",
        "owned_by": "routerdash",
        "lifecycle_status": "registered",
        "download_progress": None,
        "ready": True,
        "capabilities": ["chat"],
        "supported_apis": [
            "chat_completions",
            "completions",
            "count_tokens",
            "messages",
            "response_compactions",
            "responses",
            "tokenize",
        ],
        "max_tokens": 4096,
        "endpoint_ids": ["a"],
        "canonical_name": "Qwen/Qwen3-8B",
        "aliases": ["qwen3", "qwen3:8b"],
        "context_length": 4096,
        "max_model_len": 4096,
        "top_provider": {"context_length": 4096},
        "output_modalities": ["text"],
        "architecture": {"output_modalities": ["text"]},
    }


def test_one_entry_for_a_model_of_several_endpoints(roster_of):
    (entry,) = listed(roster_of(make_endpoint("b", SAME), make_endpoint("a", QWEN)))
    assert entry["endpoint_ids"] == ["a", "b"]
    assert entry["aliases"] == ["Qwen3-8B-FP8", "qwen3", "qwen3:8b"]
    assert entry["max_tokens"] == 32768
    assert "embeddings" in entry["supported_apis"]


@pytest.mark.parametrize(
    ("capability", "apis"),
    [
        ("embeddings", ["embeddings"]),
        ("audio_transcription", ["audio_transcriptions", "audio_translations"]),
        ("audio_speech", ["audio_speech"]),
        ("image_generation", ["image_edits", "image_generations", "image_variations"]),
        ("rerank", ["rerank"]),
        ("moderation", ["moderations"]),
        ("telepathy", []),
    ],
)
def test_a_capability_is_listed_with_its_request_kinds(roster_of, capability, apis):
    (entry,) = listed(roster_of(make_endpoint("a", Model("m", capabilities=(capability,)))))
    assert (entry["capabilities"], entry["supported_apis"]) == ([capability], apis)


def test_a_model_of_unknown_capabilities_gets_every_request(roster_of):
    (entry,) = listed(roster_of(make_endpoint("a", Model("m")), make_endpoint("b", Model("m", capabilities=("chat",)))))
    assert entry["capabilities"] == ["chat"]
    assert entry["supported_apis"] == sorted(kind.name for kind in KINDS)


def test_entries_are_sorted_by_name(roster_of):
    assert [entry["id"] for entry in listed(roster_of(make_endpoint("a", "z", "m", "a")))] == ["a", "m", "z"]


def test_a_model_without_a_canonical_name(roster_of):
    (entry,) = listed(roster_of(make_endpoint("a", EMBED)))
    assert (entry["id"], entry["canonical_name"], entry["aliases"]) == ("embed", None, [])
    assert entry["supported_apis"] == ["embeddings"]


@pytest.mark.parametrize(
    ("facts", "shown", "ready"),
    [
        ({"status": schema.ONLINE}, True, True),
        ({"status": schema.PENDING}, True, False),
        ({"status": schema.ERROR}, True, False),
        ({"status": schema.OFFLINE}, False, False),
        ({"operator_state": schema.DISABLED}, False, False),
        ({"operator_state": schema.DRAINING}, False, False),
    ],
)
def test_models_that_can_be_requested_are_listed(roster_of, facts, shown, ready):
    roster = roster_of(make_endpoint("a", "m", **facts))
    assert [entry["ready"] for entry in listed(roster)] == [ready] * shown
    assert dict(model_list.get_model(roster, "m"))["ready"] is ready


@pytest.mark.parametrize("name", ["qwen3:8b", "qwen3", "QWEN3", "Qwen/Qwen3-8B", "qwen/qwen3-8b"])
def test_a_model_by_any_of_its_names(roster_of, name):
    assert model_list.get_model(roster_of(make_endpoint("a", QWEN)), name)["id"] == name


def test_an_unknown_model_is_refused(roster_of):
    with pytest.raises(Refusal, match="The model 'nope' does not exist") as caught:
        model_list.get_model(roster_of(make_endpoint("a", QWEN)), "nope")
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")


def test_models_of_several_endpoints_are_one_entry_of_their_canonical_name(roster_of):
    entries = listed(roster_of(make_endpoint("a", Model("x", "m"), "z"), make_endpoint("b", Model("y", "m"))))
    assert [(entry["id"], len(entry["endpoint_ids"])) for entry in entries] == [("m", 2), ("z", 1)]


# The response


@pytest.fixture
def built(monkeypatch):
    """The number of lists that were built."""
    calls = []
    listing = model_list.listing

    def counted(roster, access):
        calls.append(1)
        return listing(roster, access)

    monkeypatch.setattr(model_list, "listing", counted)
    return calls


def test_the_list_is_built_once_for_each_snapshot(roster_of, control, built):
    roster = roster_of(make_endpoint("a", QWEN))

    async def request_lists():
        models = ModelList(roster, TimeSlices(asyncio.get_running_loop()))
        first = [await models.current() for _ in range(3)]
        control.publish(make_endpoint("a", QWEN, EMBED))
        roster.refresh()
        return first, json.loads(await models.current())["data"]

    first, later = asyncio.run(request_lists())
    assert len(set(first)) == 1
    assert [len(json.loads(first[0])["data"]), len(later), len(built)] == [1, 2, 2]


def test_requests_during_a_build_wait_for_it(roster_of, built, monkeypatch):
    monkeypatch.setattr(model_list, "SLICE_ROUTES", 1)
    roster = roster_of(make_endpoint("a", *(Model(f"model {number}") for number in range(20))))

    async def request_lists():
        models = ModelList(roster, TimeSlices(asyncio.get_running_loop()))
        return await asyncio.gather(*(models.current() for _ in range(5)))

    assert {len(json.loads(body)["data"]) for body in asyncio.run(request_lists())} == {20}
    assert len(built) == 1


def test_a_build_whose_client_leaves_is_taken_over(roster_of, monkeypatch):
    monkeypatch.setattr(model_list, "SLICE_ROUTES", 1)
    roster = roster_of(make_endpoint("a", *(Model(f"model {number}") for number in range(20))))

    async def request_lists():
        models = ModelList(roster, TimeSlices(asyncio.get_running_loop()))
        leaving = asyncio.ensure_future(models.current())
        await asyncio.sleep(0)
        other = asyncio.ensure_future(models.current())
        await asyncio.sleep(0)
        leaving.cancel()
        return await other

    assert len(json.loads(asyncio.run(request_lists()))["data"]) == 20


def test_a_long_list_is_built_in_slices(roster_of):
    roster = roster_of(make_endpoint("a", *(Model(f"model {number}") for number in range(3 * model_list.SLICE_ROUTES))))
    assert sum(1 for _ in model_list.listing(roster)) >= 3


# Model names


def make_name(name, *models, **fields):
    steps = tuple(Step((Target(model),)) for model in models)
    return ModelName(**{"id": name, "name": name, "steps": steps, "created": 1_700_000_000.5} | fields)


def publish_names(control, roster, *names):
    control.registry.writer.apply(Changes(model_names={name.id: name for name in names}))
    assert roster.refresh()
    return roster


def test_a_model_name_is_listed_with_what_it_leads_to(roster_of, control, roster):
    roster_of(make_endpoint("a", QWEN), make_endpoint("b", EMBED))
    publish_names(control, roster, make_name("fast", "qwen3", "embed"))
    entries = {entry["id"]: entry for entry in listed(roster)}
    assert list(entries) == ["Qwen/Qwen3-8B", "embed", "fast"]
    fast = entries["fast"]
    assert (fast["owned_by"], fast["created"], fast["ready"]) == ("routerdash", 1_700_000_000, True)
    assert (fast["capabilities"], fast["max_tokens"]) == (["chat", "embeddings"], 4096)
    assert (fast["endpoint_ids"], fast["aliases"], fast["canonical_name"]) == (["a", "b"], [], None)
    assert fast == model_list.get_model(roster, "fast")


def test_a_name_replaces_the_model_of_its_id(roster_of, control, roster):
    roster_of(make_endpoint("a", EMBED), make_endpoint("b", QWEN))
    publish_names(control, roster, make_name("embed", "qwen3"))
    assert [(entry["id"], entry["endpoint_ids"]) for entry in listed(roster)] == [
        ("Qwen/Qwen3-8B", ["b"]),
        ("embed", ["b"]),
    ]


def test_names_that_nobody_can_serve_are_not_listed(roster_of, control, roster):
    roster_of(make_endpoint("a", EMBED), make_endpoint("b", QWEN, operator_state=schema.DISABLED))
    names = (make_name("lost", "nowhere"), make_name("off", "qwen3"), make_name("inner", "embed"))
    publish_names(control, roster, *names, make_name("outer", "nowhere", "inner"))
    assert [entry["id"] for entry in listed(roster)] == ["embed", "inner", "outer"]
    assert dict(model_list.get_model(roster, "lost"))["ready"] is False


def test_a_target_is_listed_at_its_endpoint_or_tag_only(roster_of, control, roster):
    roster_of(make_endpoint("a", QWEN), make_endpoint("b", QWEN, tags=("lab",)))
    pinned, tagged = Target("qwen3", endpoint_id="a"), Target("qwen3", tag="lab")
    publish_names(
        control, roster, make_name("pinned", steps=(Step((pinned,)),)), make_name("tagged", steps=(Step((tagged,)),))
    )
    endpoint_ids = {entry["id"]: entry["endpoint_ids"] for entry in listed(roster)}
    assert (endpoint_ids["pinned"], endpoint_ids["tagged"]) == (["a"], ["b"])


def test_external_endpoints_count_only_for_names_that_may_use_them(roster_of, control, roster):
    roster_of(make_endpoint("a", QWEN, external=True))
    publish_names(control, roster, make_name("house", "qwen3"), make_name("cloud", "qwen3", external=True))
    assert [entry["id"] for entry in listed(roster)] == ["Qwen/Qwen3-8B", "cloud"]


def test_a_pattern_is_not_listed_and_found_by_its_names(roster_of, control, roster):
    roster_of(make_endpoint("a", QWEN))
    publish_names(control, roster, make_name("claude-*", "qwen3"))
    assert [entry["id"] for entry in listed(roster)] == ["Qwen/Qwen3-8B"]
    assert model_list.get_model(roster, "claude-9")["id"] == "claude-9"
    with pytest.raises(Refusal):
        model_list.get_model(roster, "gpt-9")


# Memory


def test_lists_beyond_a_size_are_forgotten(roster_of, monkeypatch):
    roster = roster_of(make_endpoint("a", *(Model(f"model {number}") for number in range(20))))
    accesses = [ModelAccess(external=external, endpoints=ends) for external in (True, False) for ends in (True, False)]

    async def request_lists():
        models = ModelList(roster, TimeSlices(asyncio.get_running_loop()))
        lists = [await models.current(access) for access in accesses]
        monkeypatch.setattr(built_lists, "MAX_BYTES", len(lists[-1]) + len(lists[-2]))
        again = await models.current(ModelAccess())
        await models.current(ModelAccess(compiled(KeyRules(models=("model*",)))))
        return again is lists[-1], len(models._built)

    assert asyncio.run(request_lists()) == (True, 2)
