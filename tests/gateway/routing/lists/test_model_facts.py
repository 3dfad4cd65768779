import pytest

from gateway.registry import schema
from gateway.registry.schema import Model
from gateway.routing import model_list
from tests.gateway.routing.test_model_list import EMBED, QWEN, listed, make_name, publish_names, roster_of
from tests.gateway.samples import make_endpoint

__all__ = ["roster_of"]  # a fixture

LARGE = Model("large", capabilities=("chat",), max_tokens=32768, max_output_tokens=8192, features=("tools", "vision"))
LESS = Model("large", capabilities=("chat",), max_tokens=16384, max_output_tokens=4096, lacks=("vision",))
LIMITS = {"context_length", "max_model_len", "max_output_tokens", "max_completion_tokens", "max_output_length"}


def test_limits_are_the_least_of_the_endpoints_that_serve_it(roster_of):
    less = make_endpoint("b", LESS)
    (entry,) = listed(roster_of(make_endpoint("a", LARGE), less, make_endpoint("c", Model("large", max_tokens=0))))
    assert (entry["context_length"], entry["max_model_len"]) == (16384, 16384)
    assert {entry[name] for name in LIMITS - {"context_length", "max_model_len"}} == {4096}
    assert entry["top_provider"] == {"context_length": 16384, "max_completion_tokens": 4096}
    assert entry["max_tokens"] == 32768  # llmlb's field


def test_endpoints_that_serve_nothing_do_not_count(roster_of):
    roster = roster_of(make_endpoint("a", LARGE), make_endpoint("b", LESS, status=schema.OFFLINE))
    assert listed(roster)[0]["context_length"] == model_list.get_model(roster, "large")["context_length"] == 32768


def test_what_is_unknown_is_absent(roster_of):
    (entry,) = listed(roster_of(make_endpoint("a", Model("m"))))
    assert not entry.keys() & (LIMITS | {"top_provider", "architecture", "created", "supported_features"})
    assert not any(name.endswith("_modalities") for name in entry)


@pytest.mark.parametrize(
    ("model", "reads", "has"),
    [
        (Model("m", capabilities=("chat",)), None, None),
        (Model("m", capabilities=("chat",), features=("tools",)), None, ["tools"]),
        (Model("m", capabilities=("chat",), features=("vision",)), ["text", "image"], None),
        (Model("m", capabilities=("chat",), lacks=("tools", "vision")), ["text"], []),
        (Model("m", capabilities=("chat",), lacks=("tools",), features=("thinking",)), None, ["reasoning"]),
        (LARGE, ["text", "image"], ["tools", "vision"]),
        (EMBED, ["text"], None),
        (Model("m", capabilities=("audio_transcription",)), ["audio"], None),
    ],
)
def test_modalities_and_features(roster_of, model, reads, has):
    (entry,) = listed(roster_of(make_endpoint("a", model)))
    assert entry.get("input_modalities") == entry["architecture"].get("input_modalities") == reads
    assert entry.get("supported_features") == has


def test_a_feature_of_one_endpoint_counts(roster_of):
    (entry,) = listed(roster_of(make_endpoint("a", LESS), make_endpoint("b", LARGE)))
    assert (entry["input_modalities"], entry["supported_features"]) == (["text", "image"], ["tools", "vision"])


def test_the_first_time_at_an_endpoint_is_that_of_the_model(roster_of):
    (entry,) = listed(
        roster_of(make_endpoint("a", Model("m", created=200)), make_endpoint("b", Model("m", created=100)))
    )
    assert entry["created"] == 100


def test_a_name_has_the_facts_of_its_first_step(roster_of, control, roster):
    roster_of(make_endpoint("a", LARGE), make_endpoint("b", Model("small", max_tokens=2048, lacks=("tools",))))
    publish_names(control, roster, make_name("fast", "small", "large"), make_name("outer", "fast"))
    for name in ("fast", "outer"):
        entry = model_list.get_model(roster, name)
        assert (entry["context_length"], entry["supported_features"]) == (2048, [])
        assert "max_output_tokens" not in entry
        assert entry["created"] == 1_700_000_000


def test_a_name_keeps_its_facts_while_its_first_step_is_offline(roster_of, control, roster):
    roster_of(make_endpoint("a", LARGE), make_endpoint("b", Model("small", max_tokens=2048), status=schema.OFFLINE))
    publish_names(control, roster, make_name("fast", "small", "large"))
    assert model_list.get_model(roster, "fast")["context_length"] == 2048


def test_a_model_wins_over_a_pattern(roster_of, control, roster):
    roster_of(make_endpoint("a", Model("claude-3", max_tokens=1000)), make_endpoint("b", QWEN))
    publish_names(control, roster, make_name("claude-*", "qwen3"))
    assert model_list.get_model(roster, "claude-3")["context_length"] == 1000
    assert model_list.get_model(roster, "claude-4")["context_length"] == 4096
