"""What a save of a model name refuses."""

from typing import Any

import pytest

from endpoints.model_names.name_cache import NameEntry
from endpoints.model_names.rules import MAX_NAMES, problems
from gateway.registry.schema import Step, Target

ENDPOINT = "11111111-0000-4000-8000-000000000001"


def entry(name: str, *steps: str, **fields: Any) -> NameEntry:
    """Each step is a text of targets."""
    made = tuple(Step(tuple(Target(model) for model in targets.split())) for targets in steps or ("tiny",))
    return NameEntry(**{"id": name, "name": name, "steps": made} | fields)


def refused(draft: NameEntry, *others: NameEntry, before: NameEntry | None = None) -> list[str]:
    refusals = problems(draft, others, lambda endpoint_id: endpoint_id == ENDPOINT, before)
    assert all(problem.text for problem in refusals)
    return [problem.place for problem in refusals]


@pytest.mark.parametrize("name", ["fast", "claude-*", "*", "a b", "モデル", "x" * 256, "openai:gpt"])
def test_a_name_that_is_accepted(name: str) -> None:
    assert refused(entry(name)) == []


@pytest.mark.parametrize("name", ["", " ", " a", "a ", "x" * 257, "a\nb", "a\u202eb", "a*b*", "taken"])
def test_a_name_that_is_refused(name: str) -> None:
    assert refused(entry(name), entry("taken")) == ["name"]


def test_the_number_of_names_is_limited() -> None:
    others = [entry(f"n{number}") for number in range(MAX_NAMES)]
    assert refused(entry("one more"), *others) == ["name"]
    assert refused(others[0], *others[1:], before=others[0]) == []


def test_steps_and_targets_are_limited() -> None:
    assert refused(entry("a", *["m"] * 8)) == []
    assert refused(entry("a", *["m"] * 9)) == ["steps"]
    assert refused(entry("a", "m " * 16)) == []
    assert refused(entry("a", "m " * 16, "m")) == ["steps"]
    assert refused(entry("a", steps=())) == ["steps"]
    assert refused(entry("a", "m", "")) == ["steps[1].targets"]


@pytest.mark.parametrize(
    ("target", "place"),
    [
        (Target(""), "model"),
        (Target(" m"), "model"),
        (Target("m\n"), "model"),
        (Target("m*"), "model"),
        (Target("m", 0), "weight"),
        (Target("m", 101), "weight"),
        (Target("m", endpoint_id=ENDPOINT, tag="lab"), "tag"),
        (Target("m", tag="x" * 41), "tag"),
        (Target("m", endpoint_id="22222222-0000-4000-8000-000000000002"), "endpoint_id"),
    ],
)
def test_a_target_that_is_refused(target: Target, place: str) -> None:
    steps = (Step((Target("tiny"), target)),)
    assert refused(entry("a", steps=steps)) == [f"steps[0].targets[1].{place}"]


def test_the_target_of_a_pattern_may_be_the_requested_model() -> None:
    assert refused(entry("claude-*", "claude-*")) == []


def test_an_endpoint_that_was_deleted_since_may_stay() -> None:
    gone = entry("a", steps=(Step((Target("m", endpoint_id="22222222-0000-4000-8000-000000000002"),)),))
    assert refused(gone, before=gone) == []


@pytest.mark.parametrize("secs", [-1.0, 601.0, float("nan"), float("inf")])
def test_a_time_that_is_refused(secs: float) -> None:
    assert refused(entry("a", steps=(Step((Target("m"),), if_full_secs=secs),))) == ["steps[0].if_full_secs"]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"defaults": {"model": "x"}}, "defaults"),
        ({"overrides": {"messages": []}}, "overrides"),
        ({"dropped": ("stream",)}, "dropped"),
        ({"overrides": {"input": 1}}, "overrides"),
        ({"defaults": {"": 1}}, "defaults"),
        ({"defaults": {"a": 1}, "dropped": ("a",)}, "dropped"),
        ({"defaults": {"seed": 1 << 80}}, "defaults"),
        ({"defaults": {"x": float("nan")}}, "defaults"),
        ({"overrides": {"x": "\ud800"}}, "overrides"),
        ({"overrides": {"x": "y" * 20_000}}, "overrides"),
        ({"defaults": {f"p{number}": 1 for number in range(65)}}, "defaults"),
    ],
)
def test_parameters_that_are_refused(fields: Any, place: str) -> None:
    assert refused(entry("a", **fields)) == [place]


def test_parameters_that_are_accepted() -> None:
    draft = entry("a", defaults={"temperature": 0.2}, overrides={"stop": ["x"]}, dropped=("logit_bias",))
    assert refused(draft) == []


# Names that lead to other names


def test_a_name_that_leads_to_the_model_of_its_own_id() -> None:
    assert refused(entry("tiny", "tiny")) == []


def test_a_cycle_of_two_is_refused() -> None:
    assert refused(entry("a", "m", "x b"), entry("b", "a")) == ["steps[1].targets[1].model"]


def test_a_cycle_over_others_is_named() -> None:
    others = (entry("b", "c"), entry("c", "m", "a"))
    (problem,) = problems(entry("a", "b"), others, lambda endpoint_id: True)
    assert "a → b → c → a" in problem.text


def test_a_cycle_of_others_is_not_the_fault_of_this_name() -> None:
    """Another program may have stored it."""
    assert refused(entry("d", "m"), entry("a", "b"), entry("b", "a")) == []


def test_a_target_at_an_endpoint_leads_to_the_model() -> None:
    pinned = entry("b", steps=(Step((Target("a", endpoint_id=ENDPOINT),)),))
    assert refused(entry("a", "b"), pinned) == []


@pytest.mark.parametrize("disabled", [False, True])
def test_five_names_may_lead_to_each_other(disabled: bool) -> None:
    chain = [entry(f"n{number}", f"n{number + 1}", enabled=not disabled) for number in range(6)]
    for index in range(5):  # whichever is saved last
        assert refused(chain[index], *chain[:index], *chain[index + 1 : 5]) == []
    for index in range(5):
        others = [*chain[:index], *chain[index + 1 :]]
        assert refused(chain[index], *others) == ["steps[0].targets[0].model"]
