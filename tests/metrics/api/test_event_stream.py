"""Live events: one stream of changes for all open pages, sent only to sessions with access."""

import asyncio
import json
import random
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import AsyncClient

from access.directory import access
from access.models import User
from endpoints.registry import registry
from gateway.routing.set_aside import AsideNote
from metrics.api import event_stream, events
from metrics.api.event_stream import HEARTBEAT_SECONDS, MIN_GAP_SECONDS, Hub
from metrics.memory import trackers as trackers_module
from metrics.queries.live import shown_endpoints
from metrics.times import json_time
from tests.access.people import make_user
from tests.django_fixtures import connections_made
from tests.metrics.records import AT, A, B, load, request
from tests.metrics.world import World, add_endpoint, fake_installation

pytestmark = pytest.mark.django_db(transaction=True)


class Clock:
    """A clock in place of the module `time`."""

    def __init__(self) -> None:
        self.now = AT

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (event_stream, events):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=made, monotonic=made))
    return made


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Hub:
    """A new hub in place of that of the process; caches are filled, so that no event queries the database."""
    made = Hub()
    for module in (event_stream, events):
        monkeypatch.setattr(module, "hub", made)
    add_endpoint(A, "a")
    access.reload()
    return made


def parse(event: bytes) -> tuple[str, str, Any]:
    """Return the ID, name and data of an event."""
    lines = dict(line.split(": ", 1) for line in event.decode().strip().splitlines() if line)
    assert event.endswith(b"\n\n")
    return lines["id"], lines["event"], json.loads(lines["data"])


def data(event: bytes) -> Any:
    return parse(event)[2]


Scenario = Callable[[AsyncGenerator[bytes]], Awaitable[None]]


def listening(hub: Hub, scenario: Scenario) -> None:
    """Run a scenario with a listener that has received its first event."""

    async def run() -> None:
        stream = hub.listen()
        await anext(stream)
        await scenario(stream)
        await stream.aclose()

    asyncio.run(run())


def waiting(hub: Hub) -> list[bytes]:
    """Return events that were sent and not yet received."""
    (listener,) = hub._listeners
    pending = list(listener.pending)
    listener.pending.clear()
    return pending


def change(latency: int) -> None:
    registry.note_check(A, success=True, latency_ms=latency, error=None)


async def first_of(hub: Hub, last_id: str = "") -> bytes:
    stream = hub.listen(last_id)
    try:
        return await anext(stream)
    finally:
        await stream.aclose()


def test_the_first_event_is_the_overview(hub: Hub, shown_world: World) -> None:
    shown_world.gateway(request())
    event = asyncio.run(first_of(hub))
    assert event.startswith(b"retry: 2000\n\n")
    _, name, reported = parse(event)
    assert (name, reported["stats"]["total_requests"]) == ("overview", 1)


def test_a_page_gets_the_overview_after_the_first_page_disconnected(hub: Hub) -> None:
    async def run() -> bytes:
        disconnected = asyncio.create_task(first_of(hub))
        await asyncio.sleep(0)  # its figures are being read
        disconnected.cancel()
        await asyncio.wait([disconnected])
        assert disconnected.cancelled()
        return await first_of(hub)

    _, name, overview = parse(asyncio.run(run()))
    assert name == "overview"
    assert [endpoint["id"] for endpoint in overview["endpoints"]] == [A]


def test_only_a_change_is_sent(hub: Hub, shown_world: World, clock: Clock) -> None:
    gateway = shown_world.gateway()

    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        gateway.append(request())
        shown_world.follower.catch_up()
        clock.pass_by(MIN_GAP_SECONDS)
        await hub.publish()
        (event,) = waiting(hub)
        _, name, reported = parse(event)
        assert name == "changes"
        assert reported["endpoints"] == {A: {"total_requests": 1, "successful_requests": 1}}
        assert reported["stats"]["total_requests"] == 1
        assert "online_runtimes" not in reported["stats"]

    listening(hub, scenario)


@pytest.mark.parametrize("what", ["in flight", "waiting", "breaker", "registry", "minute"])
def test_each_kind_of_change_is_sent(hub: Hub, clock: Clock, what: str) -> None:
    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        if what == "in flight":
            fake_installation().in_flight = lambda: {A: 1}
        elif what == "waiting":
            fake_installation().waiting = lambda: 1
        elif what == "breaker":
            fake_installation().trials = lambda: {A: int(AT) + 60}
        elif what == "registry":
            change(5)
        clock.pass_by(60 if what == "minute" else MIN_GAP_SECONDS)
        await hub.publish()
        assert len(waiting(hub)) == 1

    listening(hub, scenario)


def test_a_breaker_that_becomes_half_open_is_sent(hub: Hub, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_installation().trials = lambda: {A: int(AT) + 2}
    monkeypatch.setattr(trackers_module, "time", SimpleNamespace(time=clock))

    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        clock.pass_by(3)
        await hub.publish()
        (event,) = waiting(hub)
        assert data(event)["endpoints"] == {A: {"breaker": "half_open"}}

    listening(hub, scenario)


def test_a_pause_and_its_end_are_sent(hub: Hub, clock: Clock) -> None:
    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        shown = []
        paused: dict[str, AsideNote] = {A: AsideNote(int(AT) + 60, "limited", ("rerank",))}
        for notes in (paused, dict[str, AsideNote]()):
            fake_installation().aside = notes.copy
            clock.pass_by(MIN_GAP_SECONDS)
            await hub.publish()
            shown.append(data(waiting(hub)[-1])["endpoints"])
        until = json_time(datetime.fromtimestamp(int(AT) + 60, UTC))
        assert shown == [
            {A: {"paused_until": until, "pause_cause": "limited", "lacks": ["/v1/rerank"]}},
            {A: {"paused_until": None, "pause_cause": None, "lacks": []}},
        ]

    listening(hub, scenario)


def test_without_changes_no_event_is_sent(hub: Hub, clock: Clock) -> None:
    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        clock.pass_by(MIN_GAP_SECONDS)
        await hub.publish()
        assert waiting(hub) == []

    listening(hub, scenario)


def test_a_quiet_stream_sends_heartbeats(hub: Hub, clock: Clock) -> None:
    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        clock.pass_by(HEARTBEAT_SECONDS)
        await hub.publish()
        (event,) = waiting(hub)
        assert set(data(event)) == {"generated_at"}

    listening(hub, scenario)


def test_at_most_four_events_a_second(hub: Hub, clock: Clock) -> None:
    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        for latency in range(4):
            clock.pass_by(MIN_GAP_SECONDS / 8)
            change(latency)
            await hub.publish()
        assert waiting(hub) == []

    listening(hub, scenario)


def test_many_pages_get_fewer_events(hub: Hub, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_SENDS_PER_SECOND", 0.5)

    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        change(5)
        for passed in (1.9, 0.1):
            clock.pass_by(passed)
            await hub.publish()
        assert len(waiting(hub)) == 1

    listening(hub, scenario)


def test_a_page_that_does_not_keep_up_gets_a_new_overview(hub: Hub, clock: Clock) -> None:
    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        for latency in range(1, event_stream.MAX_PENDING + 3):
            clock.pass_by(MIN_GAP_SECONDS)
            change(latency)
            await hub.publish()
        _, name, reported = parse(await anext(stream))
        assert (name, reported["endpoints"][0]["latency_ms"]) == ("overview", event_stream.MAX_PENDING + 2)
        clock.pass_by(MIN_GAP_SECONDS)
        change(77)
        await hub.publish()
        assert data(await anext(stream))["endpoints"] == {A: {"latency_ms": 77}}

    listening(hub, scenario)


def test_all_listeners_get_the_same_events(hub: Hub, clock: Clock) -> None:
    async def run() -> None:
        streams = [hub.listen() for _ in range(3)]
        assert len({await anext(stream) for stream in streams}) == 1
        clock.pass_by(MIN_GAP_SECONDS)
        change(5)
        await hub.publish()
        reported = [await anext(stream) for stream in streams]
        assert len({id(event) for event in reported}) == 1  # encoded once
        for stream in streams:
            await stream.aclose()

    asyncio.run(run())


def test_added_endpoints_are_sent_with_all_fields(hub: Hub, clock: Clock) -> None:
    def added() -> None:
        add_endpoint(B, "b")

    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        await asyncio.to_thread(in_own_connection, added)
        clock.pass_by(MIN_GAP_SECONDS)
        await hub.publish()
        (event,) = waiting(hub)
        _, name, reported = parse(event)
        assert (name, reported["shown"], [*reported["endpoints"]]) == ("changes", [A, B], [B])
        assert reported["endpoints"][B] == data(await first_of(hub))["endpoints"][1]

    listening(hub, scenario)


@pytest.mark.parametrize("missed", [0, 1, 3])
def test_a_reconnected_page_gets_missed_events(hub: Hub, clock: Clock, missed: int) -> None:
    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        clock.pass_by(MIN_GAP_SECONDS)
        change(1)
        await hub.publish()
        last_id, _, _ = parse(waiting(hub)[0])
        for latency in range(missed):
            clock.pass_by(MIN_GAP_SECONDS)
            change(10 + latency)
            await hub.publish()
        reported = (await first_of(hub, last_id)).split(b"\n\n")[1:-1]
        assert [data(event + b"\n\n")["endpoints"] for event in reported] == [
            {A: {"latency_ms": 10 + latency}} for latency in range(missed)
        ]

    listening(hub, scenario)


@pytest.mark.parametrize(
    "last_id", ["", "x", "-", "-1", "{epoch}-", "{epoch}-0", "{epoch}-99", "other-1", "{epoch}-1²"]
)
def test_a_page_with_an_unknown_last_event_gets_the_overview(hub: Hub, clock: Clock, last_id: str) -> None:
    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        event = await first_of(hub, last_id.format(epoch=hub._epoch))
        assert parse(event)[1] == "overview"

    listening(hub, scenario)


def test_events_that_are_no_longer_stored_are_replaced_by_the_overview(
    hub: Hub, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub._changes = deque(maxlen=2)

    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        for latency in range(4):
            clock.pass_by(MIN_GAP_SECONDS)
            change(latency)
            await hub.publish()
        assert parse(await first_of(hub, f"{hub._epoch}-2"))[1] == "overview"
        assert parse(await first_of(hub, f"{hub._epoch}-4"))[1] == "changes"

    listening(hub, scenario)


def test_changes_lead_from_any_state_to_the_next(hub: Hub, shown_world: World, clock: Clock) -> None:
    """Applying every change to an open page gives the state of a newly opened page."""
    gateway = shown_world.gateway()
    rng = random.Random(5)

    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        shown = data(await first_of(hub))
        for _ in range(40):
            for record in load(rng.randrange(1000), rng.randrange(3)):
                gateway.append(record)
            shown_world.follower.catch_up()
            change(rng.randrange(9))
            clock.pass_by(rng.choice((MIN_GAP_SECONDS, 61)))
            await hub.publish()
            for event in waiting(hub):
                apply(shown, data(event))
            assert shown == data(await first_of(hub))

    listening(hub, scenario)


def apply(shown: Any, reported: Any) -> None:
    """Apply changes as static/js/overview.js does."""
    shown["generated_at"] = reported["generated_at"]
    shown["stats"] |= reported.get("stats", {})
    known = {endpoint["id"]: endpoint for endpoint in shown["endpoints"]}
    for name, fields in reported.get("endpoints", {}).items():
        known[name] = known.get(name, {}) | fields
    shown["endpoints"] = [
        known[name] for name in reported.get("shown", [endpoint["id"] for endpoint in shown["endpoints"]])
    ]
    for name in ("history", "minutes"):
        minutes = {slot["minute"]: slot for slot in (*shown[name], *reported.get(name, ()))}
        shown[name] = list(minutes.values())[-60:]
    shown["speeds"] = reported.get("all_speeds", shown["speeds"])
    rows = {event_stream._model(row): row for row in reported.get("speeds", ())}
    shown["speeds"] = [rows.get(event_stream._model(row), row) for row in shown["speeds"]]
    shown |= {name: reported[name] for name in event_stream._WHOLE if name in reported}


def test_unchanged_endpoints_do_not_enlarge_an_event(hub: Hub, clock: Clock) -> None:
    for number in range(100):
        add_endpoint(str(uuid.uuid4()), f"other-{number}", status="online")
    change(4)

    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        change(5)
        clock.pass_by(MIN_GAP_SECONDS)
        await hub.publish()
        (event,) = waiting(hub)
        assert len(event) < 500

    listening(hub, scenario)


def add_many(monkeypatch: pytest.MonkeyPatch, shown: int = 3) -> list[str]:
    """Add endpoints of which the overview shows only `shown`; return their ids."""
    monkeypatch.setattr(shown_endpoints, "SHOWN", shown)
    shown_endpoints.shown_endpoints.reset()
    ids = [str(uuid.uuid4()) for _ in range(20)]
    for number, name in enumerate(ids):
        add_endpoint(name, f"b-{number:02}", status="online")
    change(1)  # A is online too
    return ids


async def published(hub: Hub, clock: Clock) -> None:
    clock.pass_by(MIN_GAP_SECONDS)
    await hub.publish()


def test_the_overview_of_many_endpoints_has_those_that_it_shows(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = add_many(monkeypatch)
    reported = data(asyncio.run(first_of(hub)))
    assert [endpoint["id"] for endpoint in reported["endpoints"]] == [A, *ids[:2]]
    assert reported["states"] == {"online": 21}


def test_an_endpoint_that_fails_is_shown_from_then_on(hub: Hub, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    *_others, last = add_many(monkeypatch)

    async def scenario(stream: AsyncGenerator[bytes]) -> None:
        shown = data(await first_of(hub))
        for _ in range(3):
            registry.note_check(last, success=False, latency_ms=None, error="refused")
        await published(hub, clock)
        (event,) = waiting(hub)
        assert last in data(event)["shown"]
        assert set(data(event)["endpoints"]) == {last}
        apply(shown, data(event))
        assert shown == data(await first_of(hub))

    listening(hub, scenario)


def test_a_page_follows_the_endpoints_that_it_names(hub: Hub, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    *_others, one, other = add_many(monkeypatch)

    async def run() -> None:
        followed = frozenset([one, "unknown"])
        stream, none = hub.listen("", followed), hub.listen("", frozenset())
        assert [endpoint["id"] for endpoint in data(await anext(stream))["endpoints"]] == [one]
        assert data(await anext(none))["endpoints"] == []
        for name in (A, one, other):
            registry.note_check(name, success=True, latency_ms=7, error=None)
        await published(hub, clock)
        assert data(await anext(stream))["endpoints"] == {one: {"latency_ms": 7}}
        event = data(await anext(none))
        assert "endpoints" not in event
        await stream.aclose()
        await none.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("is_followed", [True, False])
def test_a_page_that_reconnects_gets_missed_changes_of_endpoints_that_were_followed(
    hub: Hub, clock: Clock, monkeypatch: pytest.MonkeyPatch, is_followed: bool
) -> None:
    *_others, one = add_many(monkeypatch)

    async def run() -> None:
        stays = hub.listen("", frozenset([one] if is_followed else []))
        await anext(stays)
        last_id = f"{hub._epoch}-{hub._number}"
        registry.note_check(one, success=True, latency_ms=7, error=None)
        await published(hub, clock)
        missed = await hub.missed(last_id, frozenset([one]))
        _, name, reported = parse(missed.split(b"\n\n", 1)[1])
        if is_followed:
            assert (name, reported["endpoints"]) == ("changes", {one: {"latency_ms": 7}})
        else:
            assert (name, reported["endpoints"][0]["latency_ms"]) == ("overview", 7)
        await stays.aclose()

    asyncio.run(run())


def test_a_disconnected_listener_is_removed(hub: Hub) -> None:
    async def nothing(stream: AsyncGenerator[bytes]) -> None:
        assert len(hub._listeners) == 1

    listening(hub, nothing)
    assert not hub._listeners


def test_without_listeners_no_events_are_created(hub: Hub) -> None:
    asyncio.run(hub.publish())
    assert hub._number == 0


# The view


def opened(user: User | None) -> AsyncClient:
    client = AsyncClient()
    if user is not None:
        client.force_login(user)
    return client


def open_response(client: AsyncClient) -> Any:
    """Open a response without reading its body."""
    return asyncio.run(_request(client))


async def _request(client: AsyncClient, query: str = "") -> Any:
    return await client.get(f"/api/dashboard/events{query}")


def test_without_a_session_there_are_no_events(hub: Hub) -> None:
    response = open_response(opened(None))
    assert (response.status_code, response.json()) == (401, {"error": "Log in first."})


def test_an_api_key_opens_no_events(hub: Hub, script: Any) -> None:
    client = AsyncClient(headers={"X-API-Key": script.defaults["HTTP_X_API_KEY"]})
    assert open_response(client).status_code == 401


def test_a_generated_password_opens_no_events(hub: Hub) -> None:
    response = open_response(opened(make_user(must_change_password=True)))
    assert (response.status_code, response.json()) == (403, {"error": "password_change_required"})


@pytest.mark.parametrize(
    ("query", "ids"), [("", [A, B]), (f"?endpoints={B},{uuid.UUID(int=1)}", [B]), ("?endpoints=", [])]
)
def test_the_address_names_the_endpoints(hub: Hub, query: str, ids: list[str]) -> None:
    add_endpoint(B, "b")
    client = opened(make_user())

    async def run() -> None:
        response = await _request(client, query)
        event = await anext(aiter(response.streaming_content))
        assert [endpoint["id"] for endpoint in data(event)["endpoints"]] == ids

    asyncio.run(run())


def test_a_viewer_gets_events(hub: Hub) -> None:
    client = opened(make_user())

    async def run() -> None:
        response = await _request(client)
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
        stream = aiter((await _request(client)).streaming_content)
        await anext(stream)
        await asyncio.to_thread(in_own_connection, end)
        clock.pass_by(events.SESSION_SECONDS + 1)
        await hub.publish()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        for _ in range(5):  # iterations of the loop in which the ended stream is released
            await asyncio.sleep(0)
        assert not hub._listeners

    asyncio.run(run())


def test_events_continue_while_the_session_lasts(hub: Hub, clock: Clock) -> None:
    client = opened(make_user())

    async def run() -> None:
        stream = aiter((await _request(client)).streaming_content)
        await anext(stream)
        for _ in range(3):
            clock.pass_by(events.SESSION_SECONDS + 1)
            await hub.publish()
            assert data(await anext(stream))

    asyncio.run(run())


def test_checking_the_session_leaves_no_connection_open(hub: Hub, clock: Clock) -> None:
    client = opened(make_user())

    async def run() -> list[BaseDatabaseWrapper]:
        stream = aiter((await _request(client)).streaming_content)
        await anext(stream)
        access.forget()  # then it queries the database
        with connections_made() as made:
            clock.pass_by(events.SESSION_SECONDS + 1)
            await hub.publish()
            await anext(stream)
        return made

    made = asyncio.run(run())
    assert made
    assert [wrapper.connection for wrapper in made] == [None] * len(made)


def in_own_connection(work: Callable[[], None]) -> None:
    """Run in a thread of the test, whose connection would otherwise stay open."""
    from django.db import connection

    try:
        work()
    finally:
        connection.close()


def test_a_polling_page_gets_missed_events(hub: Hub, clock: Clock) -> None:
    client = opened(make_user())

    async def poll(last_id: str) -> Any:
        response = await client.get(f"/api/dashboard/events?once=&last_event_id={last_id}")
        assert response.headers["Content-Type"] == "text/event-stream"
        return parse(response.content)

    async def run() -> None:
        last_id, name, _ = await poll("")
        assert name == "overview"
        clock.pass_by(MIN_GAP_SECONDS)
        change(5)
        _, name, reported = await poll(last_id)
        assert (name, reported["endpoints"]) == ("changes", {A: {"status": "online", "latency_ms": 5}})
        assert not hub._listeners

    asyncio.run(run())


def test_a_stream_continues_after_the_event_in_its_url(hub: Hub, clock: Clock) -> None:
    client = opened(make_user())

    async def run() -> None:
        last_id, _, _ = parse(await first_of(hub))
        clock.pass_by(MIN_GAP_SECONDS)
        change(5)
        response: Any = await client.get(f"/api/dashboard/events?last_event_id={last_id}")
        assert parse(await anext(aiter(response.streaming_content)))[1] == "changes"

    asyncio.run(run())
