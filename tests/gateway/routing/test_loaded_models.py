"""Which models a gateway believes to be in memory, after what control has read and what was sent since."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gateway.registry.schema import EngineState, Speeds
from gateway.routing.adaptive import EVICTION, FASTEST, LOADED, UNKNOWN_LOAD_SECONDS, Demand, Row, pick, row
from gateway.routing.loaded_models import LATE, SETTLED_SECONDS, UNDER_WAY, UNUSED_SECONDS, LoadedModels, with_reason

READ_AT = 1000.0


class World:
    """An endpoint's engine, and a process that sends requests to it."""

    def __init__(self) -> None:
        self.now = READ_AT + 1
        self.changes = 0
        self.models = LoadedModels(self._changed, lambda: self.now)
        self.engine = EngineState(READ_AT, ("a",))
        self.others: dict[str, EngineState] = {}

    def _changed(self) -> None:
        self.changes += 1

    def seconds(self, model: str, learned: float = 10.0, *, is_idle: bool = False) -> float:
        self.models.note({"e": self.engine, **self.others}, {"e", *self.others})
        return self.models.load_seconds("e", self.engine, model, learned, is_idle=is_idle)

    def send(self, model: str) -> object:
        return self.models.sent("e", self.engine, model)

    def read(self, *loaded: str, loading: tuple[str, ...] = (), most: int = 1) -> None:
        """Control reads the engine now, and publishes what it reports."""
        self.now += 1
        self.engine = EngineState(self.now, loaded, loading, most)
        self.now += 1


@pytest.fixture
def world() -> World:
    return World()


def test_a_model_at_a_deleted_endpoint_is_no_copy(world: World) -> None:
    world.others["deleted"] = EngineState(READ_AT, ("a",))
    assert world.seconds("b") == 10.0
    del world.others["deleted"]
    assert world.seconds("b") == 10.0 * EVICTION


def test_an_engine_that_reports_no_models_needs_no_load(world: World) -> None:
    world.engine = EngineState(READ_AT)
    assert (world.seconds("b"), world.send("b"), world.changes) == (0.0, None, 0)


def test_a_model_in_memory_needs_no_load(world: World) -> None:
    assert (world.seconds("a"), world.send("a"), world.changes) == (0.0, None, 0)


def test_another_model_must_be_loaded_in_its_place(world: World) -> None:
    assert world.seconds("b") == 10.0 * EVICTION
    assert world.seconds("b", learned=0.0) == UNKNOWN_LOAD_SECONDS * EVICTION


def test_a_model_that_is_elsewhere_too_may_leave(world: World) -> None:
    world.others["f"] = EngineState(READ_AT, ("a", "x"), most_loaded=2)
    assert world.seconds("b") == 10.0
    world.others["f"] = EngineState(READ_AT, ("x",))
    assert world.seconds("b") == 10.0 * EVICTION


def test_a_model_that_nobody_uses_may_leave(world: World) -> None:
    world.send("a")
    world.now += UNUSED_SECONDS - 1
    assert world.seconds("b", is_idle=True) == 10.0 * EVICTION
    world.now += 1
    assert (world.seconds("b"), world.seconds("b", is_idle=True)) == (10.0 * EVICTION, 10.0)


def test_a_model_counts_as_used_when_it_was_first_seen(world: World) -> None:
    world.now = READ_AT + UNUSED_SECONDS - 1
    assert world.seconds("b", is_idle=True) == 10.0 * EVICTION
    world.now += 1
    assert world.seconds("b", is_idle=True) == 10.0


def test_there_may_be_room_for_another_model(world: World) -> None:
    world.read()
    assert world.seconds("b") == 10.0
    world.read("a", most=2)
    assert world.seconds("b") == 10.0


def test_a_request_starts_a_load_for_which_others_wait(world: World) -> None:
    first = world.send("b")
    world.now += 4
    assert first is world.send("b") is not None
    assert (world.seconds("b"), world.models.loading) == (6.0, 1)
    assert world.seconds("a") == 10.0 * EVICTION  # its memory is given away


def test_no_model_in_use_leaves_for_one_that_is_being_loaded_elsewhere(world: World) -> None:
    world.others["f"] = EngineState(READ_AT, ("x",))
    load = world.send("b")
    world.models.note(world.others, {"e", "f"})
    assert world.models.load_seconds("f", world.others["f"], "b", 10.0) == 10.0 * EVICTION * UNDER_WAY
    assert world.models.load_seconds("f", world.others["f"], "c", 10.0) == 10.0 * EVICTION
    load.response_began()  # type: ignore[attr-defined]
    world.models.note(world.others, {"e", "f"})
    assert world.models.load_seconds("f", world.others["f"], "b", 10.0) == 10.0 * EVICTION


def test_a_late_load_is_still_expected(world: World) -> None:
    world.send("b")
    world.now += 100
    assert world.seconds("b") == LATE * 10.0


def test_the_first_response_ends_a_load(world: World) -> None:
    load = world.send("b")
    world.now += 12
    load.response_began()  # type: ignore[attr-defined]
    assert (world.seconds("b"), world.models.loading, world.send("b")) == (0.0, 0, None)
    load.left()  # type: ignore[attr-defined]  # another that waited left: the model is loaded anyway
    assert world.seconds("b") == 0.0


def test_a_load_without_waiting_requests_is_over(world: World) -> None:
    load, _ = world.send("b"), world.send("b")
    load.left()  # type: ignore[attr-defined]
    assert world.models.loading == 1
    load.left()  # type: ignore[attr-defined]
    assert (world.models.loading, world.seconds("b"), world.seconds("a")) == (0, 10.0 * EVICTION, 0.0)


@pytest.mark.parametrize("changes", [lambda world: world.send("b"), lambda world: world.send("b").left()])
def test_each_change_is_told(world: World, changes: Callable[[World], object]) -> None:
    changes(world)
    assert world.changes > 0


def test_control_may_read_the_old_model_during_a_load(world: World) -> None:
    """An engine unloads a model only when its last request has ended."""
    world.send("b")
    world.read("a")
    assert 0 < world.seconds("b") < 10.0
    assert world.seconds("a") == 10.0 * EVICTION


def test_control_may_read_the_new_model_before_it_is_loaded(world: World) -> None:
    load = world.send("b")
    world.read("b")
    assert 0 < world.seconds("b") < 10.0
    load.response_began()  # type: ignore[attr-defined]
    assert world.seconds("b") == 0.0


def test_what_control_reads_later_counts_more(world: World) -> None:
    world.send("b").response_began()  # type: ignore[attr-defined]
    world.read("c")
    assert (world.seconds("b"), world.seconds("c")) == (10.0 * EVICTION, 0.0)


def test_what_control_has_read_counts_again_after_a_while(world: World) -> None:
    """The engine may have loaded another model for somebody else between two polls."""
    world.send("b").response_began()  # type: ignore[attr-defined]
    world.now += SETTLED_SECONDS
    assert (world.seconds("b"), world.seconds("a")) == (10.0 * EVICTION, 0.0)


def test_the_least_recently_used_model_leaves_the_memory(world: World) -> None:
    world.read("a", "b", most=2)
    world.send("a")
    world.send("c")
    assert (world.seconds("a"), world.seconds("b")) == (0.0, 10.0 * EVICTION)


def test_a_load_of_others_is_waited_for(world: World) -> None:
    world.read("a", loading=("b",))
    world.now += 2
    assert world.seconds("b") == 7.0
    assert world.send("b") is not None


# The reason


@dataclass
class Candidate:
    id: str
    rank: int = 0
    slots: int | None = None
    trial_due: float = 0.0
    in_flight: int = 0
    pending: int = 0
    tier: int = 1


FAST, SLOW = Speeds(0.01, 0.0001, 0.01, 0.001, 256), Speeds(0.01, 0.001, 0.1, 0.005, 256)


def decide(*rows: Row[Candidate]) -> tuple[str, str]:
    decision = pick(rows, Demand(100, 100))
    assert decision is not None
    decided = with_reason(decision, {it.id: it for it in rows})
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
