"""Answers that last hold no thread, and end with their client."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from metrics.events import hub
from routerdash.asgi import application
from tests.access.people import make_user
from tests.callers import connections_made

pytestmark = pytest.mark.django_db(transaction=True)

PAGES = 200


class Page:
    """One open stream of events, as the server sees it."""

    def __init__(self, cookie: str, path: str = "/api/dashboard/events") -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.left = asyncio.Event()
        self._asked = False
        self._scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": [(b"cookie", cookie.encode())],
        }
        self.task = asyncio.create_task(application(self._scope, self._receive, self.messages.put))

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
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


def test_open_pages_hold_no_threads(cookie: str, teller: object) -> None:
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


def test_a_stream_ends_with_its_server(cookie: str, teller: object) -> None:
    async def scenario() -> None:
        page = Page(cookie)
        await page.opened()
        page.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await page.task
        assert not hub._listeners

    run(scenario)


def test_a_download_leaves_no_connection_of_its_request_open(cookie: str, teller: object) -> None:
    async def scenario() -> None:
        page = Page(cookie, "/api/requests/export")
        start = await page.messages.get()
        assert start["status"] == 200
        assert made
        assert [it.connection for it in made] == [None] * len(made)
        page.left.set()
        await page.task

    with connections_made() as made:
        run(scenario)
