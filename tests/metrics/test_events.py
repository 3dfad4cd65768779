"""Live events: one telling for all open pages, when something has changed, to those who may still listen."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import AsyncClient

from access.directory import access
from access.models import User
from endpoints.registry import registry
from metrics import api, events
from metrics import teller as teller_module
from metrics.events import HEARTBEAT_SECONDS, MIN_GAP_SECONDS, Hub
from tests.access.people import make_user
from tests.metrics.records import AT, A, request
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


def parse(event: bytes) -> tuple[str, Any]:
    """Its id and its data."""
    lines = dict(line.split(": ", 1) for line in event.decode().strip().splitlines() if line)
    assert event.endswith(b"\n\n")
    assert lines["event"] == "overview"
    return lines["id"], json.loads(lines["data"])


Scenario = Callable[[AsyncIterator[bytes]], Awaitable[None]]


def listening(hub: Hub, scenario: Scenario) -> None:
    """Run a scenario with a listener that has got its first event."""

    async def run() -> None:
        stream = hub.listen()
        await anext(stream)
        await scenario(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(run())


async def waiting(stream: AsyncIterator[bytes], hub: Hub) -> list[bytes]:
    """Events that were sent and not yet taken."""
    (queue,) = hub._listeners
    return [queue.get_nowait() for _ in range(queue.qsize())]


def test_the_first_event_is_the_overview(hub: Hub, teller: World) -> None:
    teller.gateway(request())

    async def first() -> bytes:
        return await anext(hub.listen())

    event = asyncio.run(first())
    assert event.startswith(b"retry: 2000\n\n")
    assert parse(event)[1]["stats"]["total_requests"] == 1


def test_a_change_is_told(hub: Hub, teller: World, clock: Clock) -> None:
    gateway = teller.gateway()

    async def scenario(stream: AsyncIterator[bytes]) -> None:
        await hub.tell()
        gateway.append(request())
        teller.folder.catch_up()
        clock.pass_by(MIN_GAP_SECONDS)
        await hub.tell()
        last = (await waiting(stream, hub))[-1]
        assert parse(last)[1]["endpoints"][0]["total_requests"] == 1

    listening(hub, scenario)


@pytest.mark.parametrize("what", ["in flight", "registry", "minute"])
def test_each_kind_of_change_is_told(hub: Hub, clock: Clock, what: str) -> None:
    async def scenario(stream: AsyncIterator[bytes]) -> None:
        await hub.tell()
        await waiting(stream, hub)
        if what == "in flight":
            teller_module.surroundings.in_flight = lambda: {A: 1}
        elif what == "registry":
            registry.note_check(A, success=True, latency_ms=5, error=None)
        clock.pass_by(60 if what == "minute" else MIN_GAP_SECONDS)
        await hub.tell()
        assert len(await waiting(stream, hub)) == 1

    listening(hub, scenario)


def test_nothing_new_is_not_told(hub: Hub, clock: Clock) -> None:
    async def scenario(stream: AsyncIterator[bytes]) -> None:
        await hub.tell()
        await waiting(stream, hub)
        clock.pass_by(MIN_GAP_SECONDS)
        await hub.tell()
        assert await waiting(stream, hub) == []

    listening(hub, scenario)


def test_a_quiet_stream_beats_now_and_then(hub: Hub, clock: Clock) -> None:
    async def scenario(stream: AsyncIterator[bytes]) -> None:
        await hub.tell()
        await waiting(stream, hub)
        clock.pass_by(HEARTBEAT_SECONDS)
        await hub.tell()
        assert len(await waiting(stream, hub)) == 1

    listening(hub, scenario)


def test_at_most_four_events_a_second(hub: Hub, clock: Clock) -> None:
    async def scenario(stream: AsyncIterator[bytes]) -> None:
        await hub.tell()
        await waiting(stream, hub)
        for _ in range(4):
            clock.pass_by(MIN_GAP_SECONDS / 8)
            registry.note_check(A, success=True, latency_ms=5, error=None)
            await hub.tell()
        assert await waiting(stream, hub) == []

    listening(hub, scenario)


def test_a_page_that_does_not_keep_up_gets_the_newest(hub: Hub, clock: Clock) -> None:
    async def scenario(stream: AsyncIterator[bytes]) -> None:
        for latency in range(1, 6):
            clock.pass_by(MIN_GAP_SECONDS)
            registry.note_check(A, success=True, latency_ms=latency, error=None)
            await hub.tell()
        told = [parse(event)[1]["endpoints"][0]["latency_ms"] for event in await waiting(stream, hub)]
        assert told == [4, 5]

    listening(hub, scenario)


def test_all_listeners_are_told_the_same(hub: Hub) -> None:
    async def run() -> None:
        streams = [hub.listen() for _ in range(3)]
        for stream in streams:
            await anext(stream)
        await hub.tell()
        assert len({await anext(stream) for stream in streams}) == 1

    asyncio.run(run())


def test_numbers_grow(hub: Hub) -> None:
    async def run() -> None:
        stream = hub.listen()
        first = await anext(stream)
        await hub.tell()
        assert int(parse(await anext(stream))[0]) > int(parse(first)[0])

    asyncio.run(run())


def test_who_left_is_forgotten(hub: Hub) -> None:
    async def nothing(stream: AsyncIterator[bytes]) -> None:
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
        assert set(parse(await anext(aiter(response.streaming_content)))[1]) > {"stats", "endpoints", "model_tps"}

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
            assert parse(await anext(stream))

    asyncio.run(run())


def in_own_connection(work: Callable[[], None]) -> None:
    """In a thread of the test, whose connection nobody else would close."""
    from django.db import connection

    try:
        work()
    finally:
        connection.close()
