"""The choice between two endpoints is the same as that among any number."""

from random import Random

import pytest

from gateway.registry.schema import Speeds
from gateway.routing.adaptive import COUNTED, FASTEST, SLOW_START, Demand, Row, pick, row
from gateway.routing.balancer import Decision, recorded_costs
from gateway.routing.pairs import Pair, among_two, pair_of
from tests.gateway.routing.candidates import CHAT, FAST, SLOW, Endpoint


def as_recorded(decision: Decision | None) -> tuple[object, ...]:
    assert decision is not None
    return decision.endpoint_id, decision.reason, recorded_costs(decision)


def pair(*rows: Row[Endpoint]) -> Pair:
    found = pair_of(rows)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_that_of_the_careful_one(seed: int) -> None:
    """Also its costs, and the numbers that it draws."""
    random, compared = Random(seed), 0
    for number in range(200):
        fleet = [
            Speeds(random.random() / 9, random.random() / 1e3, random.random() / 9, random.random() / 99, 256)
            for _ in range(2)
        ]
        rows = [
            row(
                Endpoint(
                    name,
                    in_flight=random.choice([0, 0, 1, 9, COUNTED]),
                    pending=random.choice([0, 0, 700]),
                    slots=random.choice([None, None, None, 9, 12]),
                    rank=random.choice([0] * 30 + [1]),
                ),
                random.choice(fleet),
                "vllm",
                weight=random.choice([1.0, 2.5]),
            )
            for name in random.sample("abc", 2)
        ]
        demand = Demand(random.randint(1, 9000), random.choice([0.0, 150.0, random.random() * 999]))
        careful = pick(rows, demand, lambda it: (it.in_flight, it.pending), draw=Random(number).random)
        decision = among_two(pair(*rows), demand.prompt, demand.output, Random(number).random)
        if decision is not None:
            assert as_recorded(decision) == as_recorded(careful)
            compared += 1
    assert compared > 50


@pytest.mark.parametrize("names", ["ab", "ba"])
@pytest.mark.parametrize(("drawn", "chosen"), [(0.0, "a"), (0.49, "a"), (0.5, "b"), (0.99, "b")])
def test_of_two_alike_either_is_drawn(names: str, drawn: float, chosen: str) -> None:
    rows = [row(Endpoint(name), FAST, "vllm") for name in names]
    decision = among_two(pair(*rows), CHAT.prompt, CHAT.output, lambda: drawn)
    assert decision is not None
    assert (decision.endpoint_id, decision.reason) == (chosen, FASTEST)
    assert [name for name, _ in decision.whole_costs] == ["a", "b"]
    assert as_recorded(decision) == as_recorded(pick(rows, CHAT, draw=lambda: drawn))


@pytest.mark.parametrize(
    "other",
    [Endpoint("b", rank=1), Endpoint("b", slots=2, in_flight=2), Endpoint("b", in_flight=COUNTED)],
    ids=["other rank", "full", "many requests"],
)
def test_other_choices_need_more_care(other: Endpoint) -> None:
    for first, second in ((Endpoint("a"), other), (other, Endpoint("a"))):
        two = pair(row(first, FAST, "vllm"), row(second, SLOW, "vllm"))
        assert among_two(two, CHAT.prompt, CHAT.output) is None


def test_where_the_model_must_be_loaded_more_care_is_needed() -> None:
    two = pair(row(Endpoint("a"), FAST, "ollama", load=9.0), row(Endpoint("b"), SLOW, "ollama"))
    assert among_two(two, CHAT.prompt, CHAT.output) is None


def test_one_that_is_measured_makes_no_pair() -> None:
    new = Speeds(FAST.setup, FAST.read, FAST.write, FAST.share, SLOW_START - 1)
    rows = [row(Endpoint("a"), FAST, "vllm"), row(Endpoint("b"), new, "vllm")]
    assert pair_of(rows) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_only_two_make_a_pair(number: int) -> None:
    rows = [row(Endpoint(name), FAST, "vllm") for name in "abc"[:number]]
    assert pair_of(rows) is None  # type: ignore[arg-type]
