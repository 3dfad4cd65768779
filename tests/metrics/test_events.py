"""Live events: one telling for all open pages, when something has changed, to those who may still listen."""

import asyncio
import json
import random
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import AsyncClient

from access.directory import access
from access.models import User
from endpoints.registry import registry
from metrics import api, events
from metrics import teller as teller_module
from metrics import trackers as trackers_module
from metrics.events import HEARTBEAT_SECONDS, MIN_GAP_SECONDS, Hub
from tests.access.people import make_user
from tests.callers import connections_made
from tests.metrics.records import AT, A, B, load, request
from tests.metrics.world import World, add_endpoint

pytestmark = pytest.mark.django_db(transaction=True)


class Clock:
    """In place of the module `time`, for those who look at it."""

    def __init__(self) -> None:
        self.now = AT

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (events, api):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=made, monotonic=made))
    return made


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Hub:
    """A new one, in the place of the process's own; caches are filled, so that no event asks the database."""
    made = Hub()
    for module in (events, api):
        monkeypatch.setattr(module, "hub", made)
    add_endpoint(A, "a")
    access.reload()
    return made


def parse(event: bytes) -> tuple[str, str, Any]:
    """Its id, its name and its data."""
    lines = dict(line.split(": ", 1) for line in event.decode().strip().splitlines() if line)
    assert event.endswith(b"\n\n")
    return lines["id"], lines["event"], json.loads(lines["data"])


def data(event: bytes) -> Any:
    return parse(event)[2]


Scenario = Callable[[AsyncGenerator[bytes]], Awaitable[None]]


def listening(hub: Hub, scenario: Scenario) -> None:
    """Run a scenario with a listener that has got its first event."""

    async def run() -> None:
        stream = hub.listen()
        await anext(stream)
        await scenario(stream)
        await stream.aclose()

    asyncio.run(run())


def waiting(hub: Hub) -> list[bytes]:
    """Events that were sent and not yet taken."""
    (listener,) = hub._listeners
    found = list(listener.pending)
    listener.pending.clear()
    return found


def change(latency: int) -> None:
    registry.note_check(A, success=True, latency_ms=latency, error=None)


async def first_of(hub: Hub, last_id: str = "") -> bytes:
    stream = hub.listen(last_id)
    try:
        return await anext(stream)
    finally:
        await stream.aclose()


def test_the_first_event_is_the_overview(hub: Hub, teller: World) -> None:
    teller.gateway(request())
    event = asyncio.run(first_of(hub))
    assert event.startswith(b"retry: 2000\n\n")
    _, name, told = parse(event)
    assert (name, told["stats"]["total_requests"]) == ("overview", 1)


def test_a_change_is_told_and_nothing_else(hub: Hub, teller: World, clock: Clock) -> None:
    gateway = teller.gateway()

    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        gateway.append(request())
        teller.folder.catch_up()
        clock.pass_by(MIN_GAP_SECONDS)
        await hub.tell()
        (event,) = waiting(hub)
        _, name, told = parse(event)
        assert name == "changes"
        assert told["endpoints"] == {A: {"total_requests": 1, "successful_requests": 1}}
        assert told["stats"]["total_requests"] == 1
        assert "online_runtimes" not in told["stats"]

    listening(hub, scenario)


@pytest.mark.parametrize("what", ["in flight", "waiting", "breaker", "registry", "minute"])
def test_each_kind_of_change_is_told(hub: Hub, clock: Clock, what: str) -> None:
    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        if what == "in flight":
            teller_module.surroundings.in_flight = lambda: {A: 1}
        elif what == "waiting":
            teller_module.surroundings.waiting = lambda: 1
        elif what == "breaker":
            teller_module.surroundings.trials = lambda: {A: int(AT) + 60}
        elif what == "registry":
            change(5)
        clock.pass_by(60 if what == "minute" else MIN_GAP_SECONDS)
        await hub.tell()
        assert len(waiting(hub)) == 1

    listening(hub, scenario)


def test_a_breaker_that_becomes_half_open_is_told(hub: Hub, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    teller_module.surroundings.trials = lambda: {A: int(AT) + 2}
    monkeypatch.setattr(trackers_module, "time", SimpleNamespace(time=clock))

    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        clock.pass_by(3)
        await hub.tell()
        (event,) = waiting(hub)
        assert data(event)["endpoints"] == {A: {"breaker": "half_open"}}

    listening(hub, scenario)


def test_nothing_new_is_not_told(hub: Hub, clock: Clock) -> None:
    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        clock.pass_by(MIN_GAP_SECONDS)
        await hub.tell()
        assert waiting(hub) == []

    listening(hub, scenario)


def test_a_quiet_stream_beats_now_and_then(hub: Hub, clock: Clock) -> None:
    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        clock.pass_by(HEARTBEAT_SECONDS)
        await hub.tell()
        (event,) = waiting(hub)
        assert set(data(event)) == {"generated_at"}

    listening(hub, scenario)


def test_at_most_four_events_a_second(hub: Hub, clock: Clock) -> None:
    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        for latency in range(4):
            clock.pass_by(MIN_GAP_SECONDS / 8)
            change(latency)
            await hub.tell()
        assert waiting(hub) == []

    listening(hub, scenario)


def test_very_many_pages_get_fewer(hub: Hub, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_SENDS", 0.5)

    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        change(5)
        for passed in (1.9, 0.1):
            clock.pass_by(passed)
            await hub.tell()
        assert len(waiting(hub)) == 1

    listening(hub, scenario)


def test_a_page_that_does_not_keep_up_gets_everything_anew(hub: Hub, clock: Clock) -> None:
    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        for latency in range(1, events.MOST_PENDING + 3):
            clock.pass_by(MIN_GAP_SECONDS)
            change(latency)
            await hub.tell()
        _, name, told = parse(await anext(stream))
        assert (name, told["endpoints"][0]["latency_ms"]) == ("overview", events.MOST_PENDING + 2)
        clock.pass_by(MIN_GAP_SECONDS)
        change(77)
        await hub.tell()
        assert data(await anext(stream))["endpoints"] == {A: {"latency_ms": 77}}

    listening(hub, scenario)


def test_all_listeners_are_told_the_same(hub: Hub, clock: Clock) -> None:
    async def run() -> None:
        streams = [hub.listen() for _ in range(3)]
        assert len({await anext(stream) for stream in streams}) == 1
        clock.pass_by(MIN_GAP_SECONDS)
        change(5)
        await hub.tell()
        told = [await anext(stream) for stream in streams]
        assert len({id(event) for event in told}) == 1  # encoded once
        for stream in streams:
            await stream.aclose()

    asyncio.run(run())


def test_other_endpoints_are_told_whole(hub: Hub, clock: Clock) -> None:
    def added() -> None:
        add_endpoint(B, "b")

    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        await asyncio.to_thread(in_own_connection, added)
        clock.pass_by(MIN_GAP_SECONDS)
        await hub.tell()
        (event,) = waiting(hub)
        _, name, told = parse(event)
        assert (name, [it["id"] for it in told["endpoints"]]) == ("overview", [A, B])

    listening(hub, scenario)


@pytest.mark.parametrize("missed", [0, 1, 3])
def test_a_page_that_comes_back_gets_what_it_missed(hub: Hub, clock: Clock, missed: int) -> None:
    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        clock.pass_by(MIN_GAP_SECONDS)
        change(1)
        await hub.tell()
        last_id, _, _ = parse(waiting(hub)[0])
        for latency in range(missed):
            clock.pass_by(MIN_GAP_SECONDS)
            change(10 + latency)
            await hub.tell()
        told = (await first_of(hub, last_id)).split(b"\n\n")[1:-1]
        assert [data(event + b"\n\n")["endpoints"] for event in told] == [
            {A: {"latency_ms": 10 + latency}} for latency in range(missed)
        ]

    listening(hub, scenario)


@pytest.mark.parametrize(
    "last_id", ["", "x", "-", "-1", "{epoch}-", "{epoch}-0", "{epoch}-99", "other-1", "{epoch}-1²"]
)
def test_a_page_whose_past_is_unknown_gets_everything(hub: Hub, clock: Clock, last_id: str) -> None:
    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        event = await first_of(hub, last_id.format(epoch=hub._epoch))
        assert parse(event)[1] == "overview"

    listening(hub, scenario)


def test_what_was_forgotten_is_told_whole(hub: Hub, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    hub._changes = deque(maxlen=2)

    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        for latency in range(4):
            clock.pass_by(MIN_GAP_SECONDS)
            change(latency)
            await hub.tell()
        assert parse(await first_of(hub, f"{hub._epoch}-2"))[1] == "overview"
        assert parse(await first_of(hub, f"{hub._epoch}-4"))[1] == "changes"

    listening(hub, scenario)


def test_changes_lead_from_any_state_to_the_next(hub: Hub, teller: World, clock: Clock) -> None:
    """A page that applies every change shows what a page shows that opens now."""
    gateway = teller.gateway()
    rng = random.Random(5)

    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        shown = data(await first_of(hub))
        for _ in range(40):
            for record in load(rng.randrange(1000), rng.randrange(3)):
                gateway.append(record)
            teller.folder.catch_up()
            change(rng.randrange(9))
            clock.pass_by(rng.choice((MIN_GAP_SECONDS, 61)))
            await hub.tell()
            for event in waiting(hub):
                apply(shown, data(event))
            assert shown == data(await first_of(hub))

    listening(hub, scenario)


def apply(shown: Any, told: Any) -> None:
    """As static/js/overview.js does."""
    shown["generated_at"] = told["generated_at"]
    shown["stats"] |= told.get("stats", {})
    for endpoint in shown["endpoints"]:
        endpoint |= told.get("endpoints", {}).get(endpoint["id"], {})
    for name in ("history", "minutes"):
        minutes = {slot["minute"]: slot for slot in (*shown[name], *told.get(name, ()))}
        shown[name] = list(minutes.values())[-60:]
    shown["speeds"] = told.get("all_speeds", shown["speeds"])
    rows = {events._model(row): row for row in told.get("speeds", ())}
    shown["speeds"] = [rows.get(events._model(row), row) for row in shown["speeds"]]
    shown |= {name: told[name] for name in events._WHOLE if name in told}


def test_an_event_is_no_larger_for_what_does_not_change(hub: Hub, clock: Clock) -> None:
    for number in range(100):
        add_endpoint(str(uuid.uuid4()), f"other-{number}")

    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        change(5)
        clock.pass_by(MIN_GAP_SECONDS)
        await hub.tell()
        (event,) = waiting(hub)
        assert len(event) < 500

    listening(hub, scenario)


def test_who_left_is_forgotten(hub: Hub) -> None:
    async def nothing(stream: AsyncGenerator[bytes]) -> None:
        assert len(hub._listeners) == 1

    listening(hub, nothing)
    assert not hub._listeners


def test_without_listeners_nothing_is_made(hub: Hub) -> None:
    asyncio.run(hub.tell())
    assert hub._number == 0


# The view


def opened(user: User | None) -> AsyncClient:
    client = AsyncClient()
    if user is not None:
        client.force_login(user)
    return client


def answer(client: AsyncClient) -> Any:
    """An answer whose body is not yet read."""
    return asyncio.run(_ask(client))


async def _ask(client: AsyncClient) -> Any:
    return await client.get("/api/dashboard/events")


def test_without_a_session_there_are_no_events(hub: Hub) -> None:
    response = answer(opened(None))
    assert (response.status_code, response.json()) == (401, {"error": "Log in first."})


def test_a_key_is_no_session(hub: Hub, script: Any) -> None:
    client = AsyncClient(headers={"X-API-Key": script.defaults["HTTP_X_API_KEY"]})
    assert answer(client).status_code == 401


def test_a_generated_password_opens_no_events(hub: Hub) -> None:
    response = answer(opened(make_user(must_change_password=True)))
    assert (response.status_code, response.json()) == (403, {"error": "password_change_required"})


def test_a_viewer_gets_events(hub: Hub) -> None:
    client = opened(make_user())

    async def run() -> None:
        response = await _ask(client)
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        assert set(data(await anext(aiter(response.streaming_content)))) > {"stats", "endpoints", "speeds"}

    asyncio.run(run())


@pytest.mark.parametrize("how", ["removed", "new password"])
def test_events_end_when_the_session_does(hub: Hub, clock: Clock, how: str) -> None:
    user = make_user()
    client = opened(user)

    def end() -> None:
        if how == "removed":
            user.delete()
        else:
            user.set_password("another, longer password")
            user.save()

    async def run() -> None:
        stream = aiter((await _ask(client)).streaming_content)
        await anext(stream)
        await asyncio.to_thread(in_own_connection, end)
        clock.pass_by(api.SESSION_SECONDS + 1)
        await hub.tell()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        for _ in range(5):  # turns of the loop, in which the ended stream is let go
            await asyncio.sleep(0)
        assert not hub._listeners

    asyncio.run(run())


def test_events_go_on_while_the_session_does(hub: Hub, clock: Clock) -> None:
    client = opened(make_user())

    async def run() -> None:
        stream = aiter((await _ask(client)).streaming_content)
        await anext(stream)
        for _ in range(3):
            clock.pass_by(api.SESSION_SECONDS + 1)
            await hub.tell()
            assert data(await anext(stream))

    asyncio.run(run())


def test_looking_at_the_session_leaves_no_connection_open(hub: Hub, clock: Clock) -> None:
    client = opened(make_user())

    async def run() -> list[BaseDatabaseWrapper]:
        stream = aiter((await _ask(client)).streaming_content)
        await anext(stream)
        access.forget()  # then it asks the database
        with connections_made() as made:
            clock.pass_by(api.SESSION_SECONDS + 1)
            await hub.tell()
            await anext(stream)
        return made

    made = asyncio.run(run())
    assert made
    assert [it.connection for it in made] == [None] * len(made)


def in_own_connection(work: Callable[[], None]) -> None:
    """In a thread of the test, whose connection nobody else would close."""
    from django.db import connection

    try:
        work()
    finally:
        connection.close()


def test_a_page_that_no_stream_reaches_asks_for_what_it_missed(hub: Hub, clock: Clock) -> None:
    client = opened(make_user())

    async def ask(last_id: str) -> Any:
        response = await client.get(f"/api/dashboard/events?once=&last_event_id={last_id}")
        assert response.headers["Content-Type"] == "text/event-stream"
        return parse(response.content)

    async def run() -> None:
        last_id, name, _ = await ask("")
        assert name == "overview"
        clock.pass_by(MIN_GAP_SECONDS)
        change(5)
        _, name, told = await ask(last_id)
        assert (name, told["endpoints"]) == ("changes", {A: {"status": "online", "latency_ms": 5}})
        assert not hub._listeners

    asyncio.run(run())


def test_a_stream_goes_on_where_its_address_says(hub: Hub, clock: Clock) -> None:
    client = opened(make_user())

    async def run() -> None:
        last_id, _, _ = parse(await first_of(hub))
        clock.pass_by(MIN_GAP_SECONDS)
        change(5)
        response: Any = await client.get(f"/api/dashboard/events?last_event_id={last_id}")
        assert parse(await anext(aiter(response.streaming_content)))[1] == "changes"

    asyncio.run(run())
