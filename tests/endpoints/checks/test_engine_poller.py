"""When engines are polled, and what of their reports is published."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from endpoints.checks import engine_poller
from endpoints.checks.engine_poller import (
    ABSENT_SECONDS,
    BUSY_SECONDS,
    IDLE_SECONDS,
    MAX_FAILURES,
    MAX_POLLS,
    REPEAT_SECONDS,
    REST_TICK_SECONDS,
    TICK_SECONDS,
    EnginePoller,
    States,
)
from endpoints.engine_reports import NOTHING, EngineReading, EngineReport
from endpoints.models import Kind, OperatorState, Status
from endpoints.probe import Unreachable
from endpoints.registry import Entry, ModelEntry, Models, Registry
from gateway.registry.schema import EngineState

A, B = "a", "b"


def entry(endpoint_id: str = A, **fields: Any) -> Entry:
    values = {"name": endpoint_id, "base_url": "http://a.invalid", "kind": Kind.OLLAMA, "status": Status.ONLINE}
    return Entry(**{"id": endpoint_id, **values, **fields})


class World:
    """A poller with a clock of its own, and engines that a test lets answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.registry = Registry()
        self.now = 1000.0
        self.own: dict[str, int] = {}
        self.generation = 1
        self.reports: dict[str, EngineReport | Exception | None] = {}
        self.polls: list[str] = []
        self.hangs: asyncio.Event | None = None
        self.published: list[States] = []
        self.poller = EnginePoller(
            self.registry,
            lambda entry: None,
            lambda endpoint_id: self.own.get(endpoint_id, 0),
            self.published.append,
            lambda: self.generation,
            clock=lambda: self.now,
            now=lambda: self.now,
        )
        self.poller._session = object()  # type: ignore[assignment]
        monkeypatch.setattr(engine_poller, "read_engine", self._read)

    async def _read(self, probe: Any, kind: str) -> EngineReport | None:
        name = probe.base_url.removeprefix("http://").removesuffix(".invalid")
        self.polls.append(name)
        if self.hangs is not None:
            await self.hangs.wait()
        report = self.reports[name]
        if isinstance(report, Exception):
            raise report
        return report

    def have(self, *entries: Entry) -> None:
        self.registry.fill({one.id: one for one in entries})

    async def step(self, seconds: float = 0.0) -> States:
        """Let time pass, poll what is due, and return what is to be published."""
        self.now += seconds
        self.poller.start_due()
        for _ in range(3):
            await asyncio.sleep(0)
        return self.poller.take_changed()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def run(test: Callable[[], Any]) -> None:
    asyncio.run(test())


def loaded(*names: str) -> EngineReport:
    return EngineReport(names)


# When


def test_an_idle_endpoint_is_polled_seldom_and_a_busy_one_often(world: World) -> None:
    world.have(entry())
    world.reports[A] = loaded("m")

    async def test() -> None:
        await world.step()
        await world.step(IDLE_SECONDS - 0.1)
        assert len(world.polls) == 1
        await world.step(0.1)
        assert len(world.polls) == 2
        world.own[A] = 1
        await world.step(0.5)  # it became busy: what it has loaded matters now
        assert len(world.polls) == 3
        await world.step(BUSY_SECONDS - 0.1)
        assert len(world.polls) == 3
        await world.step(0.1)
        assert len(world.polls) == 4

    run(test)


def test_an_idle_installation_is_looked_at_less_often(world: World) -> None:
    world.have(entry())
    world.reports[A] = loaded("m")

    async def test() -> None:
        world.poller.start_due()
        assert world.poller.tick_seconds == TICK_SECONDS  # the report is to be published soon
        await world.step()
        assert world.poller.tick_seconds == REST_TICK_SECONDS
        world.own[A] = 1
        await world.step()
        assert world.poller.tick_seconds == TICK_SECONDS

    run(test)


@pytest.mark.parametrize("report", [EngineReport(("m",), ("n",)), EngineReport(requests=3)])
def test_an_endpoint_that_loads_or_serves_others_is_polled_often(world: World, report: EngineReport) -> None:
    world.have(entry())
    world.reports[A] = report

    async def test() -> None:
        await world.step()
        await world.step(BUSY_SECONDS)
        assert len(world.polls) == 2

    run(test)


def test_a_server_that_reports_nothing_is_hardly_polled(world: World) -> None:
    world.have(entry())
    world.reports[A] = NOTHING
    world.own[A] = 1

    async def test() -> None:
        assert await world.step() == {A: None}  # an earlier process may have published something
        assert await world.step(ABSENT_SECONDS - 1) == {}
        assert len(world.polls) == 1
        await world.step(1)
        assert len(world.polls) == 2

    run(test)


def test_there_is_one_poll_at_a_time(world: World) -> None:
    world.have(entry())
    world.reports[A] = loaded("m")

    async def test() -> None:
        world.hangs = asyncio.Event()
        await world.step()
        await world.step(1000)
        assert world.polls == [A]
        world.hangs.set()
        await world.step()
        await world.step(1000)
        assert world.polls == [A, A]

    run(test)


@pytest.mark.parametrize(
    "fields",
    [
        {"status": Status.OFFLINE},
        {"status": Status.PENDING},
        {"operator_state": OperatorState.DISABLED},
        {"kind": Kind.XLLM},
    ],
)
def test_an_endpoint_that_gets_no_requests_is_not_polled(world: World, fields: dict[str, Any]) -> None:
    world.have(entry())
    world.reports[A] = loaded("m")

    async def test() -> None:
        assert await world.step() == {A: EngineState(1000.0, ("m",))}
        world.have(entry(**fields))
        assert await world.step(1000) == {A: None}
        assert len(world.polls) == 1

    run(test)


def test_a_server_that_comes_and_goes_and_reports_nothing_is_hardly_polled(world: World) -> None:
    world.have(entry())
    world.reports[A] = NOTHING
    world.own[A] = 1

    async def test() -> None:
        assert await world.step() == {A: None}
        for _ in range(3):
            world.have(entry(status=Status.OFFLINE))
            assert await world.step(100) == {}
            assert world.poller.tick_seconds == REST_TICK_SECONDS
            world.have(entry())
            assert await world.step(99) == {}
        assert len(world.polls) == 1
        world.have(entry(status=Status.OFFLINE))
        await world.step(100)
        assert len(world.polls) == 1
        world.have(entry(kind=Kind.VLLM))
        await world.step()
        assert len(world.polls) == 2
        world.have()
        assert await world.step() == {A: None}

    run(test)


def test_another_address_is_polled_at_once(world: World) -> None:
    world.have(entry())
    world.reports |= {A: loaded("m"), B: loaded("n")}

    async def test() -> None:
        await world.step()
        world.have(entry(base_url="http://b.invalid"))
        assert await world.step() == {A: EngineState(1000.0, ("n",))}

    run(test)


# What


def test_only_changes_are_published(world: World) -> None:
    world.have(entry())
    world.reports[A] = loaded("m")

    async def test() -> None:
        assert await world.step() == {A: EngineState(1000.0, ("m",))}
        assert await world.step(IDLE_SECONDS) == {}
        world.reports[A] = loaded("m", "n")
        assert await world.step(IDLE_SECONDS) == {A: EngineState(1030.0, ("m", "n"), most_loaded=2)}
        world.reports[A] = loaded("n")
        assert await world.step(IDLE_SECONDS) == {A: EngineState(1045.0, ("n",), most_loaded=2)}

    run(test)


def test_the_order_of_models_in_memory_is_no_change(world: World) -> None:
    world.have(entry())
    world.reports[A] = loaded("m", "n")

    async def test() -> None:
        await world.step()
        world.reports[A] = loaded("n", "m")
        assert await world.step(IDLE_SECONDS) == {}

    run(test)


def test_what_an_earlier_process_published_is_withdrawn(world: World) -> None:
    world.have(entry())
    world.reports[A] = None

    async def test() -> None:
        published = [await world.step(IDLE_SECONDS) for _ in range(MAX_FAILURES + 1)]
        assert published == [{}, {}, {A: None}, {}]

    run(test)


def test_polls_are_limited(world: World) -> None:
    names = [f"a{number}" for number in range(MAX_POLLS + 5)]
    world.have(*(entry(name, base_url=f"http://{name}.invalid") for name in names))
    world.reports |= dict.fromkeys(names, loaded("m"))

    async def test() -> None:
        world.hangs = asyncio.Event()
        await world.step()
        assert len(world.polls) == MAX_POLLS
        world.hangs.set()
        await world.step()
        await world.step()
        assert len(world.polls) == len(names)

    run(test)


def test_the_polls_of_many_endpoints_are_spread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_poller, "MANY", 3)
    monkeypatch.setattr(engine_poller, "REST_TICK_SECONDS", MAX_POLLS * 3600.0)  # an hour between two polls
    world.have(*(entry(name, base_url=f"http://{name}.invalid") for name in "abc"))
    world.reports |= dict.fromkeys("abc", loaded("m"))

    async def test() -> None:
        await world.step()
        await world.step(1000)
        assert world.polls == ["a"] * 2
        assert {task.get_name() for task in asyncio.all_tasks()} > {"engine b", "engine c"}
        world.have()
        await world.step()
        assert {task.get_name() for task in asyncio.all_tasks()}.isdisjoint({"engine b", "engine c"})

    run(test)


def test_a_new_registry_store_gets_everything(world: World) -> None:
    world.have(entry())
    world.reports[A] = loaded("m")

    async def test() -> None:
        await world.step()
        world.generation += 1
        assert await world.step() == {A: EngineState(1000.0, ("m",))}

    run(test)


@pytest.mark.parametrize("failure", [None, Unreachable("no answer"), ValueError("internal")])
def test_after_some_failures_a_state_is_unknown(world: World, failure: Exception | None) -> None:
    world.have(entry())
    world.reports[A] = loaded("m")

    async def test() -> None:
        await world.step()
        world.reports[A] = failure
        for _ in range(MAX_FAILURES - 1):
            assert await world.step(IDLE_SECONDS) == {}
        assert await world.step(IDLE_SECONDS) == {A: None}
        entries = world.registry.all()
        # Its health is another matter.
        assert [(endpoint.status, endpoint.error_count) for endpoint in entries] == [(Status.ONLINE, 0)]
        world.reports[A] = loaded("m")
        assert await world.step(IDLE_SECONDS) == {A: EngineState(world.now, ("m",))}

    run(test)


def test_names_are_those_of_the_endpoints_models(world: World) -> None:
    world.have(entry(models=Models([ModelEntry("tiny:latest"), ModelEntry("big")])))
    world.reports[A] = loaded("tiny", "big:latest", "other")

    async def test() -> None:
        state = (await world.step())[A]
        assert state is not None
        assert state.loaded == ("tiny:latest", "big", "other")

    run(test)


def test_requests_of_others_are_those_that_are_not_ours(world: World) -> None:
    world.have(entry())
    world.own[A] = 3
    world.reports[A] = EngineReport(requests=5)

    async def test() -> None:
        published = [await world.step(), await world.step(BUSY_SECONDS)]
        # One poll alone may see requests of ours that have just ended.
        assert published == [{A: EngineState(1000.0)}, {A: EngineState(1001.0, others=2)}]
        assert await world.step(BUSY_SECONDS) == {}
        assert await world.step(REPEAT_SECONDS) == {A: EngineState(1022.0, others=2)}
        world.reports[A] = EngineReport(requests=2)
        assert await world.step(BUSY_SECONDS) == {A: EngineState(1023.0)}

    run(test)


def test_requests_that_end_during_a_poll_are_ours(world: World) -> None:
    world.have(entry())
    world.own[A] = 3
    world.reports[A] = EngineReport(requests=3)

    async def test() -> None:
        world.hangs = asyncio.Event()
        await world.step()
        world.own[A] = 0
        world.hangs.set()
        await world.step()
        world.reports[A] = EngineReport(requests=0)
        await world.step(IDLE_SECONDS)
        reading = world.poller.reading(A)
        assert reading is not None
        assert (len(world.polls), reading.others, reading.loaded) == (2, 0, None)

    run(test)


def test_a_reading_has_the_time_of_the_last_report(world: World) -> None:
    world.have(entry())
    world.reports[A] = EngineReport(("m",), ("n",))

    async def test() -> None:
        assert world.poller.reading(A) is None
        await world.step()
        await world.step(BUSY_SECONDS)
        assert world.poller.reading(A) == EngineReading(("m",), ("n",), None, datetime.fromtimestamp(1001, UTC))
        assert await world.step() == {}

    run(test)


def test_a_report_is_as_old_as_its_poll(world: World) -> None:
    """A model that was loaded during a poll may be missing in its report."""

    async def test() -> None:
        world.have(entry())
        world.reports[A] = EngineReport(loaded=())
        world.hangs = asyncio.Event()
        began_at = world.now
        await world.step()
        world.hangs.set()
        changed = await world.step(1.5)
        assert (state := changed[A]) is not None
        assert state.read_at == began_at

    run(test)


def test_looks_are_at_multiples_of_their_pause(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        raise asyncio.CancelledError

    monkeypatch.setattr(engine_poller, "sleep_until_next", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(world.poller.run())
    assert pauses == [REST_TICK_SECONDS]
