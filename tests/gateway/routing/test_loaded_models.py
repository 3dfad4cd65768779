"""Which models a gateway believes to be in memory, after what control has read and what was sent since."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gateway.registry.schema import EngineState, Speeds
from gateway.routing.adaptive import FASTEST, LOADED, NO_LIMIT, UNKNOWN_LOAD_SECONDS, pick, row
from gateway.routing.balancer import Decision
from gateway.routing.copy_values import MEMORY_SECONDS
from gateway.routing.expected_time import Demand, Row
from gateway.routing.loaded_models import HESITATION, LATE, SETTLED_SECONDS, LoadedModels, ModelLoad, with_reason

READ_AT = 1000.0
COLD = HESITATION * 10.0  # the cost of a load of 10 s where nothing else is known
ENOUGH = math.ceil(COLD / 6.0)  # choices that each would have taken 6 s less with a copy


@dataclass
class Candidate:
    id: str
    rank: int = 0
    slots: int | None = None
    trial_due: float = 0.0
    in_flight: int = 0
    pending: int = 0
    recent_prompt: float = 0.0
    tier: int = 1


FAST, SLOW = Speeds(0.01, 0.0001, 0.01, 0.001, 256), Speeds(0.01, 0.001, 0.1, 0.005, 256)


class World:
    """An endpoint's engine, and a process that sends requests to it."""

    def __init__(self) -> None:
        self.now = READ_AT + 1
        self.changes = 0
        self.announced: list[tuple[str, str]] = []
        self.models = LoadedModels(self._changed, lambda: self.now, lambda *load: self.announced.append(load))
        self.engine = EngineState(READ_AT, ("a",))
        self.others: dict[str, EngineState] = {}

    def _changed(self) -> None:
        self.changes += 1

    def seconds(self, model: str, learned: float = 10.0, endpoint_id: str = "e") -> float:
        engines = {"e": self.engine, **self.others}
        self.models.note(engines, engines)
        return self.models.load_seconds(endpoint_id, engines[endpoint_id], model, learned)

    def send(self, model: str) -> ModelLoad | None:
        return self.models.sent("e", self.engine, model, 10.0)

    def begin_load(self, model: str) -> ModelLoad:
        load = self.send(model)
        assert load is not None
        return load

    def choose(self, model: str, **costs: float) -> None:
        """A request for a model compares endpoints, which cost so many seconds, and goes to the first of them."""
        engines = {"e": self.engine, **self.others}
        self.models.note(engines, engines)
        rows = {
            name: row(Candidate(name), FAST, "ollama", load=self.seconds(model, endpoint_id=name)) for name in costs
        }
        expected_times = [(cost + rows[name].load, name, NO_LIMIT) for name, cost in costs.items()]
        decision = Decision(next(iter(costs)), FASTEST, (), expected_times)
        self.models.chose(decision, rows, {name: (engines[name], model, 10.0) for name in costs})

    def read(self, *loaded: str, loading: tuple[str, ...] = (), most: int = 1) -> None:
        """Control reads the engine now, and publishes what it reports."""
        self.now += 1
        self.engine = EngineState(self.now, loaded, loading, most)
        self.now += 1


@pytest.fixture
def world() -> World:
    return World()


def test_an_engine_that_reports_no_models_needs_no_load(world: World) -> None:
    world.engine = EngineState(READ_AT)
    assert (world.seconds("b"), world.send("b"), world.changes) == (0.0, None, 0)


def test_a_model_in_memory_needs_no_load(world: World) -> None:
    assert (world.seconds("a"), world.send("a"), world.changes) == (0.0, None, 0)


def test_another_model_must_be_loaded_in_its_place(world: World) -> None:
    assert world.seconds("b") == COLD
    assert world.seconds("b", learned=0.0) == HESITATION * UNKNOWN_LOAD_SECONDS


# Savings of copies


def test_a_copy_that_is_in_use_does_not_leave(world: World) -> None:
    world.others["f"] = EngineState(READ_AT, ())
    for _ in range(3):
        world.choose("a", e=1.0, f=1.0)  # without it, another would be loaded each time
    assert world.seconds("b") == pytest.approx(COLD + 3 * 10.0)


def test_a_copy_that_another_one_makes_up_for_may_leave(world: World) -> None:
    world.others["f"] = EngineState(READ_AT, ("a",))
    for _ in range(3):
        world.choose("a", e=1.0, f=1.5)
    assert world.seconds("b") == pytest.approx(COLD + 3 * 0.5)


def test_a_copy_is_loaded_when_it_would_have_saved_more_than_the_load_costs(world: World) -> None:
    """A model that many want waits at a slow endpoint, while a fast one has a model that nobody wants."""
    world.others["f"] = EngineState(READ_AT, ("b",))
    for count in range(ENOUGH - 1):
        assert world.seconds("b") == pytest.approx(COLD - 6.0 * count)
        world.choose("b", f=8.0, e=2.0)
    world.choose("b", f=8.0, e=2.0)
    assert world.seconds("b") == pytest.approx(LATE * 10.0)


def test_no_request_saves_more_than_a_load(world: World) -> None:
    world.others["f"] = EngineState(READ_AT, ("b",))
    world.choose("b", f=500.0, e=2.0)
    assert world.seconds("b") == pytest.approx(COLD - 10.0)


def test_what_a_copy_saved_is_forgotten(world: World) -> None:
    world.choose("a", e=1.0)
    world.now += 5 * MEMORY_SECONDS
    assert world.seconds("b") == pytest.approx(COLD, rel=0.01)


def test_a_new_copy_takes_what_others_might_have_saved(world: World) -> None:
    """Else each endpoint would load the model that waits."""
    world.others |= {"f": EngineState(READ_AT, ("b",)), "g": EngineState(READ_AT, ("c",))}
    for _ in range(ENOUGH):
        world.choose("b", f=8.0, e=2.0, g=2.0)
    assert world.seconds("b", endpoint_id="g") == pytest.approx(LATE * 10.0)
    world.send("b")
    assert world.seconds("b", endpoint_id="g") == COLD


def test_a_request_that_starts_a_load_asks_for_no_other_copy(world: World) -> None:
    world.others["f"] = EngineState(READ_AT, ())
    world.choose("b", e=1.0, f=2.0)
    assert world.seconds("b", endpoint_id="f") == COLD


def test_each_process_sees_its_part_of_the_requests(world: World) -> None:
    world.choose("a", e=1.0)
    world.models.processes = 2
    assert world.seconds("b") == pytest.approx(math.sqrt(2) * COLD + 2 * 10.0)


def test_an_endpoint_that_reports_nothing_has_every_model(world: World) -> None:
    world.models.note({"e": world.engine}, {"e"})
    decision = Decision("x", FASTEST, (), ((8.0, "x", NO_LIMIT), (2.0 + COLD, "e", NO_LIMIT)))
    rows = {"x": row(Candidate("x"), FAST, "vllm"), "e": row(Candidate("e"), FAST, "ollama", load=COLD)}
    world.models.chose(decision, rows, {"e": (world.engine, "b", 10.0)})
    assert world.seconds("b") == pytest.approx(COLD - 6.0)


# Loads


def test_there_may_be_room_for_another_model(world: World) -> None:
    world.choose("a", e=1.0)
    assert world.seconds("b") > COLD
    world.read("a", most=2)
    assert world.seconds("b") == COLD


def test_a_request_starts_a_load_for_which_others_wait(world: World) -> None:
    first = world.send("b")
    world.now += 4
    assert first is world.send("b") is not None
    assert (world.seconds("b"), world.models.loading) == (6.0, 1)
    assert world.seconds("a") == 6.0 + COLD  # its memory is given away, and that load comes first


def test_other_processes_hear_of_a_load(world: World) -> None:
    world.send("b")
    world.send("b")
    world.send("a")
    assert world.announced == [("e", "b"), ("e", "a")]


def test_a_load_of_another_process_is_waited_for(world: World) -> None:
    world.seconds("a")
    world.models.heard("e", "b", 10.0)
    world.now += 4
    needed = COLD * math.exp(-4 / MEMORY_SECONDS)  # by the other process
    assert (world.seconds("b"), world.announced) == (6.0, [])
    assert world.seconds("a") == pytest.approx(6.0 + COLD + needed)
    load = world.begin_load("b")
    assert not load.is_ours
    load.response_began()
    assert (world.seconds("b"), world.models.loading) == (0.0, 0)


def test_a_load_of_another_process_is_over_after_its_time(world: World) -> None:
    world.seconds("a")
    world.models.heard("e", "b", 10.0)
    world.now += 9.9
    world.models.expire()
    assert world.models.loading == 1
    world.now += 0.2
    world.models.expire()
    assert (world.seconds("b"), world.models.loading, world.send("b")) == (0.0, 0, None)


def test_a_model_that_another_process_has_loaded_does_not_leave_soon(world: World) -> None:
    world.models.processes = 2
    world.seconds("a")
    before = world.seconds("c")
    world.models.heard("e", "b", 10.0)
    world.now += 10
    world.models.expire()
    value = COLD * math.exp(-10 / MEMORY_SECONDS)
    assert world.seconds("c") == pytest.approx(before + value)
    world.models.heard("e", "b", 10.0)  # it is worth no more for being heard of again
    assert world.seconds("c") == pytest.approx(10.0 + before + COLD)


def test_several_processes_hesitate_more_than_one(world: World) -> None:
    world.models.processes = 4
    assert world.seconds("b") == 2 * COLD


def test_a_load_at_an_endpoint_that_reports_nothing_is_not_heard(world: World) -> None:
    world.models.heard("unknown", "b", 10.0)
    assert world.models.loading == 0


def test_a_late_load_is_still_expected(world: World) -> None:
    world.send("b")
    world.now += 100
    assert world.seconds("b") == LATE * 10.0


def test_the_first_response_ends_a_load(world: World) -> None:
    load = world.begin_load("b")
    world.now += 12
    load.response_began()
    assert (world.seconds("b"), world.models.loading, world.send("b")) == (0.0, 0, None)
    load.left()  # another that waited left: the model is loaded anyway
    assert world.seconds("b") == 0.0


def test_a_load_without_waiting_requests_is_over(world: World) -> None:
    load, _ = world.begin_load("b"), world.send("b")
    load.left()
    assert world.models.loading == 1
    load.left()
    assert (world.models.loading, world.seconds("b"), world.seconds("a")) == (0, COLD, 0.0)


@pytest.mark.parametrize("changes", [lambda world: world.send("b"), lambda world: world.begin_load("b").left()])
def test_each_change_is_told(world: World, changes: Callable[[World], object]) -> None:
    changes(world)
    assert world.changes > 0


def test_control_may_read_the_old_model_during_a_load(world: World) -> None:
    """An engine unloads a model only when its last request has ended."""
    world.send("b")
    world.read("a")
    assert 0 < world.seconds("b") < 10.0
    assert world.seconds("a") > COLD


def test_control_may_read_the_new_model_before_it_is_loaded(world: World) -> None:
    load = world.begin_load("b")
    world.read("b")
    assert 0 < world.seconds("b") < 10.0
    load.response_began()
    assert world.seconds("b") == 0.0


def test_what_control_reads_later_counts_more(world: World) -> None:
    world.begin_load("b").response_began()
    world.read("c")
    assert (world.seconds("b"), world.seconds("c")) == (COLD, 0.0)


def test_what_control_has_read_counts_again_after_a_while(world: World) -> None:
    """The engine may have loaded another model for somebody else between two polls."""
    world.begin_load("b").response_began()
    world.now += SETTLED_SECONDS
    assert (world.seconds("b"), world.seconds("a")) == (COLD, 0.0)


def test_the_least_recently_used_model_leaves_the_memory(world: World) -> None:
    world.read("a", "b", most=2)
    world.send("a")
    world.send("c")
    assert (world.seconds("a"), world.seconds("b")) == (0.0, 10.0 + COLD)


def test_a_load_of_others_is_waited_for(world: World) -> None:
    world.read("a", loading=("b",))
    world.now += 2
    assert world.seconds("b") == 7.0
    assert world.send("b") is not None


# The reason


def decide(*rows: Row[Candidate]) -> tuple[str, str]:
    decision = pick(rows, Demand(100, 100))
    assert decision is not None
    decided = with_reason(decision, {candidate.id: candidate for candidate in rows})
    return decided.endpoint_id, decided.reason


def test_the_model_in_memory_is_the_reason_if_another_would_be_faster_with_it() -> None:
    slow = row(Candidate("slow"), SLOW, "ollama")
    assert decide(slow, row(Candidate("fast"), FAST, "ollama", load=60.0)) == ("slow", LOADED)
    assert decide(slow, row(Candidate("fast"), FAST, "ollama")) == ("fast", FASTEST)


def test_a_faster_endpoint_is_the_fastest_whatever_others_must_load() -> None:
    fast = row(Candidate("fast"), FAST, "ollama")
    assert decide(fast, row(Candidate("slow"), SLOW, "ollama", load=60.0)) == ("fast", FASTEST)
    loading = row(Candidate("fast"), FAST, "ollama", load=1.0)
    assert decide(loading, row(Candidate("slow"), SLOW, "ollama", load=60.0)) == ("fast", FASTEST)
