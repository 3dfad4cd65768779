"""Fits of a fleet: endpoints with few samples begin from the others, and nothing depends on an order."""

import math
import random
from itertools import pairwise

import pytest

from gateway.registry.schema import Model, Speeds
from gateway.routing.expected_time import Parameters
from metrics.counting.speeds import merge_samples
from metrics.learning import fit
from metrics.learning.fit import DEFAULT_PRIOR
from metrics.learning.fleet import Fleet, Target, group_of, merged, offer
from metrics.learning.samples import WINDOW, SpeedSample
from tests.metrics.learning.work import CPU, DESKTOP, GPU, answers

GROUP = ("model", "chat")
Given = dict[Target, list[SpeedSample]]


def target(name: str) -> Target:
    return name, "model", "chat"


GIVEN: Given = {
    target("gpu"): answers(256, GPU),
    target("cpu"): answers(200, CPU),
    target("new"): answers(5, CPU, seed=3),
    target("newer"): answers(2, DESKTOP, seed=4),
}


def taken(given: Given) -> dict[Target, Speeds]:
    fleet = Fleet()
    for given_target, samples in given.items():
        fleet.put(given_target, GROUP, "ollama", 0, samples)
    return fleet.take()


def test_the_order_of_endpoints_has_no_effect() -> None:
    expected = taken(GIVEN)
    for seed in range(6):
        order = list(GIVEN.items())
        random.Random(seed).shuffle(order)
        assert taken(dict(order)) == expected


def test_updates_end_in_the_same_bits_as_a_new_start() -> None:
    fleet = Fleet()
    published: dict[Target, Speeds] = {}
    for length in (1, 3, 20, 63, 64, 256):
        for given_target, samples in GIVEN.items():
            fleet.put(given_target, GROUP, "ollama", 0, samples[:length])
            published |= fleet.take()
    assert published == taken(GIVEN)


def test_journals_in_any_order_and_grouping_give_the_same_bits() -> None:
    samples = answers(400, DESKTOP, noise=0.2)
    expected = taken({target("a"): samples[-WINDOW:]})
    for seed in range(6):
        rng = random.Random(seed)
        shuffled = rng.sample(samples, len(samples)) + rng.sample(samples, 50)  # some are repeated
        cuts = [0, *sorted(rng.sample(range(1, len(shuffled)), 7)), len(shuffled)]
        window: list[SpeedSample] = []
        for first, last in pairwise(cuts):
            window = merge_samples(window, shuffled[first:last], WINDOW)
        assert taken({target("a"): window}) == expected


def test_an_endpoint_with_few_samples_begins_from_the_others() -> None:
    few = {target("new"): answers(2, GPU, seed=9)}
    prior = [
        math.sqrt(one * other) for one, other in zip(fit.fit(answers(256, CPU), "ollama"), DEFAULT_PRIOR, strict=True)
    ]
    beside = taken({target("cpu"): answers(256, CPU), target("silent"): answers(2, DESKTOP), **few})[target("new")]
    assert beside.write == pytest.approx(fit.fit(few[target("new")], "ollama", Parameters(*prior)).write)
    assert beside != taken(few)[target("new")]


def test_only_what_may_have_changed_is_taken() -> None:
    fleet = Fleet()
    for given_target, samples in GIVEN.items():
        fleet.put(given_target, GROUP, "ollama", 0, samples)
    fleet.take()
    assert fleet.take() == {}
    fleet.put(target("gpu"), GROUP, "ollama", 0, answers(256, GPU, seed=8))
    assert fleet.take().keys() == {target("gpu"), target("new"), target("newer")}


def test_other_models_and_kinds_have_no_effect() -> None:
    fleet = Fleet()
    fleet.put(target("new"), GROUP, "ollama", 0, GIVEN[target("new")])
    fleet.put(("cpu", "other", "chat"), ("other", "chat"), "ollama", 0, answers(256, CPU))
    assert fleet.take()[target("new")] == taken({target("new"): GIVEN[target("new")]})[target("new")]


def test_an_endpoint_that_was_forgotten_has_no_effect() -> None:
    fleet = Fleet()
    for given_target, samples in GIVEN.items():
        fleet.put(given_target, GROUP, "ollama", 0, samples)
    fleet.take()
    fleet.drop(target("cpu"))
    fleet.drop(target("unknown"))
    without = taken({kept_target: window for kept_target, window in GIVEN.items() if kept_target != target("cpu")})
    assert fleet.take().items() <= without.items()
    assert target("cpu") not in fleet.targets()


def test_a_model_that_gets_another_canonical_name_moves_to_its_group() -> None:
    fleet = Fleet()
    fleet.put(target("cpu"), GROUP, "ollama", 0, GIVEN[target("cpu")])
    fleet.put(target("cpu"), ("other", "chat"), "ollama", 0, GIVEN[target("cpu")])
    fleet.put(target("new"), GROUP, "ollama", 0, GIVEN[target("new")])
    assert fleet.take()[target("new")] == taken({target("new"): GIVEN[target("new")]})[target("new")]


# Names


MODEL = Model("llama3:8b", canonical="Meta/Llama-3-8B", aliases=("llama",))


def test_requests_find_the_model_as_gateways_do() -> None:
    offered = offer("ollama", [MODEL])
    assert {offered.model(name) for name in ("llama3:8b", "Meta/Llama-3-8B", "LLAMA", "meta/llama-3-8b")} == {MODEL}
    assert offered.model("other") is None


def test_a_model_is_the_same_at_endpoints_with_other_names_for_it() -> None:
    assert group_of(MODEL, "chat") == group_of(Model("meta/llama-3-8b"), "chat")
    assert group_of(MODEL, "chat") != group_of(MODEL, "completions")


def test_samples_under_several_names_are_one_window() -> None:
    samples = answers(300, GPU)
    assert merged([samples[::2], samples[1::2]]) == samples[-WINDOW:]
    assert fit.fit(merged([samples[1::2], samples[::2]]), "vllm") == fit.fit(samples, "vllm")


def test_prefixes_of_a_fleet_are_those_of_its_targets() -> None:
    fleet = Fleet()
    fleet.put(target("gpu"), GROUP, "vllm", 0, [sample._replace(cached=9) for sample in answers(2, GPU)])
    assert fleet.prefixes.total == (2, 2)
    fleet.drop(target("gpu"))
    assert fleet.prefixes.total == (0, 0)
