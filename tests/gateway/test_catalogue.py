import pytest

from gateway import catalogue, snapshot
from gateway.errors import Refusal
from gateway.kinds import KINDS
from gateway.snapshot import Model
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
    found = catalogue.list_models(roster)
    assert found["object"] == "list"
    return found["data"]


def test_nothing_is_an_empty_list(roster_of):
    assert listed(roster_of()) == []


def test_a_models_entry(roster_of):
    (entry,) = listed(roster_of(make_endpoint("a", QWEN)))
    assert entry == {
        "id": "Qwen/Qwen3-8B",
        "object": "model",
        "created": 0,
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
def test_a_capability_is_told_with_what_it_serves(roster_of, capability, apis):
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
        ({"status": snapshot.ONLINE}, True, True),
        ({"status": snapshot.PENDING}, True, False),
        ({"status": snapshot.ERROR}, True, False),
        ({"status": snapshot.OFFLINE}, False, False),
        ({"operator_state": snapshot.DISABLED}, False, False),
        ({"operator_state": snapshot.DRAINING}, False, False),
    ],
)
def test_what_can_be_asked_for_is_listed(roster_of, facts, shown, ready):
    roster = roster_of(make_endpoint("a", "m", **facts))
    assert [entry["ready"] for entry in listed(roster)] == [ready] * shown
    assert catalogue.get_model(roster, "m")["ready"] is ready


@pytest.mark.parametrize("name", ["qwen3:8b", "qwen3", "QWEN3", "Qwen/Qwen3-8B", "qwen/qwen3-8b"])
def test_a_model_by_any_of_its_names(roster_of, name):
    assert catalogue.get_model(roster_of(make_endpoint("a", QWEN)), name)["id"] == name


def test_an_unknown_model_is_refused(roster_of):
    with pytest.raises(Refusal, match="The model 'nope' does not exist") as caught:
        catalogue.get_model(roster_of(make_endpoint("a", QWEN)), "nope")
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
