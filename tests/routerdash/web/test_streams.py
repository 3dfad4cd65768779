"""Long-lived responses occupy no threads, and end with their client."""

import asyncio
import gc
import json
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from gateway.base import bounds
from gateway.ipc.bound_hits import Hits
from gateway.ipc.live_page import LivePage
from metrics.api.event_stream import hub
from metrics.api.events import open_streams
from metrics.exports.long_response import MAX_STREAMS_PER_USER, UserSlots
from metrics.memory.runtime import runtime
from routerdash.web.asgi import application
from tests.access.people import make_user
from tests.django_fixtures import connections_made

pytestmark = pytest.mark.django_db(transaction=True)

PAGES = 200


class Page:
    """An open stream of events, as the server sees it."""

    def __init__(self, cookie: str, path: str = "/api/dashboard/events", query: bytes = b"") -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.left = asyncio.Event()
        self._requested = False
        self._scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": query,
            "headers": [(b"cookie", cookie.encode())],
        }
        self.task = asyncio.create_task(application(self._scope, self._receive, self.messages.put))

    async def _receive(self) -> dict[str, Any]:
        if not self._requested:
            self._requested = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def opened(self) -> None:
        start, first = await self.messages.get(), await self.messages.get()
        assert start["status"] == 200
        assert first["body"].startswith(b"retry: ")


@pytest.fixture
def cookie() -> str:
    client = Client()
    client.force_login(make_user())
    name = settings.SESSION_COOKIE_NAME
    return f"{name}={client.cookies[name].value}"


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_open_pages_hold_no_threads(cookie: str, shown_world: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_streams, "limit", PAGES + 1)

    async def scenario() -> None:
        first = Page(cookie)
        await first.opened()
        before = threading.active_count()
        pages = [first]
        for _ in range(PAGES):
            pages.append(Page(cookie))
            await pages[-1].opened()
        assert len(hub._listeners) == PAGES + 1
        assert threading.active_count() - before < 8  # the pool that all share
        for page in pages:
            page.left.set()
        await asyncio.gather(*(page.task for page in pages))
        assert not hub._listeners

    run(scenario)


def test_the_number_of_streams_per_user_is_limited_and_closed_ones_are_freed(
    cookie: str, shown_world: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.installation, "bound_hits", Hits(LivePage(tmp_path / "page")))
    other = Client()
    other.force_login(make_user("other"))
    name = settings.SESSION_COOKIE_NAME
    others = f"{name}={other.cookies[name].value}"

    async def refused(page: Page) -> None:
        start, body = await page.messages.get(), await page.messages.get()
        assert (start["status"], dict(start["headers"])[b"Retry-After"]) == (429, b"10")
        assert "20 live pages" in json.loads(body["body"])["error"]
        await page.task

    async def scenario() -> None:
        pages = [Page(cookie) for _ in range(MAX_STREAMS_PER_USER)]
        for page in pages:
            await page.opened()
        for _ in range(2):
            await refused(Page(cookie))
        assert runtime.installation.bound_hits.totals() == {bounds.EVENT_STREAMS.name: 2}
        assert await poll(cookie) == b"full"
        assert await poll(others) == b"free"
        stranger = Page(others)
        await stranger.opened()
        pages.pop().left.set()
        await until_free()
        pages.append(Page(cookie))
        await pages[-1].opened()
        for page in [*pages, stranger]:
            page.left.set()
        await asyncio.gather(*(page.task for page in [*pages, stranger]))
        assert await poll(cookie) == b"free"

    async def poll(client: str) -> bytes:
        page = Page(client, query=b"once=")
        start = await page.messages.get()
        await page.task
        assert start["status"] == 200
        value: bytes = dict(start["headers"])[b"X-RouterDash-Streams"]
        return value

    async def until_free() -> None:
        while await poll(cookie) == b"full":
            await asyncio.sleep(0)

    run(scenario)


def test_a_stream_whose_response_is_never_sent_is_freed() -> None:
    places = UserSlots(1)
    place = places.take("a")
    assert places.take("a") is None
    assert places.take("b") is not None
    del place
    gc.collect()
    assert places.take("a") is not None


def test_a_stream_ends_with_its_server(cookie: str, shown_world: object) -> None:
    async def scenario() -> None:
        page = Page(cookie)
        await page.opened()
        page.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await page.task
        assert not hub._listeners

    run(scenario)


def test_a_download_leaves_no_connection_of_its_request_open(cookie: str, shown_world: object) -> None:
    async def scenario() -> None:
        page = Page(cookie, "/api/requests/export")
        start = await page.messages.get()
        assert start["status"] == 200
        assert made
        assert [wrapper.connection for wrapper in made] == [None] * len(made)
        page.left.set()
        await page.task

    with connections_made() as made:
        run(scenario)
