import random
from collections import Counter
from itertools import pairwise

import pytest

from gateway.model_names.plan import MAX_DEPTH, MAX_TARGETS, Leaf, ModelNames, NamePlan, Stage, plan_of_list
from gateway.registry.schema import ModelName, Step, Target


def name(text: str, *steps: Step | str, external: bool = False) -> ModelName:
    """Return a model name. A string is a step whose only target is that model."""
    made = tuple(Step((Target(step),)) if isinstance(step, str) else step for step in steps)
    return ModelName(id=f"id of {text}", name=text, steps=made, external=external)


def one_of(**weights: int) -> Step:
    return Step(tuple(Target(model, weight) for model, weight in weights.items()))


def plan_of(names: ModelNames, requested: str) -> NamePlan:
    plan = names.plan(requested)
    assert plan is not None
    return plan


def found_name(names: ModelNames, requested: str) -> str | None:
    model_name = names.find(requested)
    return None if model_name is None else model_name.name


def stages(names: ModelNames, requested: str) -> tuple[Stage, ...]:
    return plan_of(names, requested).stages()


def models(names: ModelNames, requested: str) -> list[list[str]]:
    return [[leaf.model for leaf in stage.leaves] for stage in stages(names, requested)]


# Which name a request means


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ("claude-3", "claude-3"),
        ("claude-4", "claude-*"),
        ("claude-opus-4", "claude-opus-*"),
        ("claude-", "claude-*"),
        ("gpt-mini", "*-mini"),
        ("anything", "*"),
        ("CLAUDE-3", "*"),
    ],
)
def test_the_exact_name_comes_first_then_the_longest_literal(requested, expected):
    names = ModelNames([name(pattern, "m") for pattern in ("*", "claude-*", "claude-opus-*", "claude-3", "*-mini")])
    assert found_name(names, requested) == expected


def test_the_parts_of_a_pattern_do_not_overlap():
    assert ModelNames([name("ab*ba", "m")]).find("aba") is None


def test_of_equally_long_patterns_always_the_same_is_found():
    made = [name("a*", "m"), name("*b", "m")]
    assert {found_name(ModelNames(order), "ab") for order in (made, made[::-1])} == {"*b"}


def test_an_unknown_name_has_no_plan():
    assert ModelNames([name("a", "m")]).plan("b") is None


def test_a_name_without_targets_has_no_plan():
    names = ModelNames([name("a"), name("b", "a")])
    assert names.plan("a") is names.plan("b") is None


# Steps


def test_steps_keep_their_order_and_their_conditions():
    steps = (
        Step((Target("m", endpoint_id="e"),), if_unavailable=False, if_full_secs=3.0),
        Step((Target("n", tag="gpu"),), if_failed=False, if_too_long=False),
    )
    names = ModelNames([name("a", *steps)])
    assert stages(names, "a") == (
        Stage(1, (Leaf("m", "e", None, ("a",), external=False),), False, 3.0, True, True),
        Stage(2, (Leaf("n", None, "gpu", ("a",), external=False),), True, None, False, False),
    )


def test_a_name_that_leads_to_itself_means_the_model():
    assert models(ModelNames([name("m", "m", "n")]), "m") == [["m"], ["n"]]


def test_a_pattern_that_leads_to_itself_means_the_requested_model():
    assert models(ModelNames([name("gpt-*", "local", "gpt-*")]), "gpt-5") == [["local"], ["gpt-5"]]


def test_patterns_are_for_requests_alone():
    assert models(ModelNames([name("*", "default"), name("a", "b")]), "a") == [["b"]]


def test_a_name_may_lead_to_another_one():
    names = ModelNames([name("a", "b", "x"), name("b", one_of(y=1))])
    assert models(names, "a") == [["y"], ["x"]]
    assert stages(names, "a")[0].leaves[0].names == ("a", "b")


def test_the_steps_of_an_inner_name_stay_apart_and_have_the_number_of_the_outer_step():
    inner = name("b", Step((Target("y"),), if_failed=False, if_full_secs=2.0), "z")
    outer = name("a", "w", Step((Target("b"), Target("x", 0)), if_unavailable=False))
    planned = stages(ModelNames([outer, inner]), "a")
    assert [(stage.number, [leaf.model for leaf in stage.leaves]) for stage in planned] == [
        (1, ["w"]), (2, ["y"]), (2, ["z"]), (2, ["x"]),
    ]  # fmt: skip
    assert [(stage.if_unavailable, stage.if_failed, stage.if_full_secs) for stage in planned[1:]] == [
        (True, False, 2.0), (True, True, 0.0), (False, True, None),
    ]  # fmt: skip


def test_a_cycle_in_the_store_ends():
    names = ModelNames([name("a", "b"), name("b", "c", "d"), name("c", "a")])
    assert models(names, "a") == [["a"], ["d"]]


def test_names_lead_to_each_other_up_to_a_depth():
    names = ModelNames(name(str(number), str(number + 1)) for number in range(MAX_DEPTH + 2))
    assert models(names, "0") == [[str(MAX_DEPTH)]]


def test_a_name_that_leads_to_very_many_targets_ends():
    wide = [name(a, Step(tuple(Target(b) for _ in range(50)))) for a, b in pairwise(map(str, range(MAX_DEPTH + 1)))]
    assert 50 <= len(stages(ModelNames(wide), "0")[0].leaves) <= MAX_DEPTH * 50 + MAX_TARGETS


@pytest.mark.parametrize(
    ("outer", "inner", "allowed"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_external_endpoints_need_the_permission_of_each_name(outer, inner, allowed):
    names = ModelNames([name("a", "b", external=outer), name("b", "m", external=inner)])
    assert stages(names, "a")[0].leaves[0].external is allowed


def test_a_list_of_models_is_a_chain_whose_steps_may_be_names():
    plan = ModelNames([name("a", "x", "y")]).plan_of_list(["a", "m"])
    steps = [(stage.number, [leaf.model for leaf in stage.leaves]) for stage in plan.stages()]
    assert steps == [(1, ["x"]), (1, ["y"]), (2, ["m"])]


class FoundRoutes(list[int]):
    lacking: frozenset[str] = frozenset()


class Routed:
    """Endpoints of models at one version."""

    def __init__(self, version: int, *, lacking: str = "", **routes: int) -> None:
        self.version = version
        self.looked_up: list[str] = []
        self._lacking = lacking
        self._routes = routes

    def routes(self, model: str) -> FoundRoutes:
        self.looked_up.append(model)
        routes = FoundRoutes(range(self._routes.get(model, 0)))
        routes.lacking = frozenset(("tools",)) if model == self._lacking else frozenset()
        return routes


def test_a_choice_is_found_at_any_step_and_again_for_each_version():
    plan = plan_of(ModelNames([name("a", "x", "b"), name("b", one_of(y=1, z=0))]), "a")
    assert [leaf.model for leaf in plan.leaves] == ["x", "y", "z"]
    assert not plan.has_choice(Routed(1, x=1, z=1))
    assert plan.has_choice(Routed(2, x=1, z=2))
    assert not plan.has_choice(Routed(3, y=1))


def test_the_models_of_all_steps_are_looked_up_once_for_each_version():
    plan = plan_of(ModelNames([name("a", "x", "unknown")]), "a")
    first, second = Routed(1, x=1), Routed(2, x=1, lacking="x")
    for _ in range(3):
        assert (plan.has_lacking(first), plan.has_choice(first)) == (False, False)
    assert first.looked_up == ["x", "unknown"]
    assert plan.has_lacking(second)


# Weights


def test_targets_are_drawn_by_their_weights():
    """Of 10,000 draws, each share lies within its 99.9 % interval: 3.29 standard deviations."""
    plan = plan_of(ModelNames([name("a", one_of(x=70, y=20, z=10))]), "a")
    draw = random.Random(1).random
    first = Counter(plan.stages(draw)[0].leaves[0].model for _ in range(10_000))
    for model, share in (("x", 0.7), ("y", 0.2), ("z", 0.1)):
        assert abs(first[model] - 10_000 * share) < 3.29 * (10_000 * share * (1 - share)) ** 0.5


def test_the_other_targets_follow_in_drawn_order():
    plan = plan_of(ModelNames([name("a", one_of(x=1, y=1, z=2))]), "a")
    draws = iter((0.3, 0.9))
    assert [leaf.model for leaf in plan.stages(lambda: next(draws))[0].leaves] == ["y", "z", "x"]


def test_a_target_without_weight_comes_last():
    plan = plan_of(ModelNames([name("a", one_of(x=0, y=1, z=0))]), "a")
    assert [leaf.model for leaf in plan.stages(lambda: 0.0)[0].leaves] == ["y", "x", "z"]
    assert plan.leaves[0].model == "x"


class Known:
    """Models that exist, at a version."""

    def __init__(self, *models):
        self.version, self.models, self.lookups = 1, models, 0

    def routes(self, model):
        self.lookups += 1
        return [model] * (model in self.models)


def test_a_model_that_exists_wins_over_a_pattern_but_not_over_a_name():
    names, known = ModelNames([name("gpt-*", "local"), name("gpt-5", "local")]), Known("gpt-4", "gpt-5")
    assert names.plan("gpt-4", known) is None
    assert names.plan("gpt-5", known) is names.plan("gpt-5") is not None
    assert names.plan("gpt-6", known) is not None
    assert plan_of_list(["gpt-4"], names, known).leaves == (Leaf("gpt-4", None, None, (), True),)


def test_a_pattern_that_leads_to_the_requested_model_keeps_its_steps():
    names = ModelNames([name("gpt-*", "gpt-*", "local")])
    plan = names.plan("gpt-4", Known("gpt-4"))
    assert plan is not None
    assert [leaf.model for leaf in plan.leaves] == ["gpt-4", "local"]


def test_whether_a_model_exists_is_looked_up_once_for_each_version():
    names, known = ModelNames([name("gpt-*", "local")]), Known()
    assert all(names.plan("gpt-4", known) is not None for _ in range(3))
    assert known.lookups == 1
    known.version, known.models = 2, ("gpt-4",)
    assert names.plan("gpt-4", known) is None
