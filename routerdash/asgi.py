"""Django for control's Unix socket. The gateway in front says who the client is, in two headers of its own."""

import asyncio
import logging
import os
from typing import Any

import django
from django.core.handlers.asgi import ASGIHandler

from gateway.forward import CLIENT_IP, CLIENT_SCHEME
from metrics.streams import LastingResponse

log = logging.getLogger(__name__)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "routerdash.settings")


class Outlet:
    """Where Django sends an answer to; one that lasts is kept for afterwards."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self.lasting: LastingResponse | None = None

    async def __call__(self, message: Any) -> None:
        await self._send(message)


class Handler(ASGIHandler):
    """Django's, which gives each request a thread of its own until the last byte of the answer: two hundred open pages
    were two hundred threads. Answers that last are sent when all that is done with.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        outlet = Outlet(send)
        await super().__call__(scope, receive, outlet)
        if outlet.lasting is not None:
            await self._send_lasting(outlet.lasting, receive, send)

    async def send_response(self, response: Any, send: Any) -> None:
        if isinstance(response, LastingResponse) and isinstance(send, Outlet):
            send.lasting = response
        else:
            await super().send_response(response, send)

    async def _send_lasting(self, response: LastingResponse, receive: Any, send: Any) -> None:
        """Until it ends, or the client goes, or the session that it was asked for by ends. Raises what its content
        raises: then the client sees it break off.
        """
        sending = asyncio.create_task(super().send_response(response, send))
        leaving = asyncio.create_task(_client_left(receive))
        logged_out = asyncio.create_task(_session_ended(getattr(response, "session_id", "")))
        tasks = (sending, leaving, logged_out)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sent, stopped = sending.done(), logged_out.done()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if sent:
            sending.result()
        elif stopped and response.headers["Content-Type"] == "text/event-stream":
            await send({"type": "http.response.body"})  # the page comes back and is told to log in
        elif stopped:
            log.info("a download is broken off: its session has ended")


async def _client_left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _session_ended(session_id: str) -> None:
    """Never, where there is no session: a script that shows a key has none."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    stop = sessions.watch(session_id, lambda: loop.call_soon_threadsafe(ended.set)) if session_id else None
    try:
        await ended.wait()
    finally:
        if stop is not None:
            stop()


django.setup(set_prefix=False)
_django = Handler()

from access.sessions import sessions  # noqa: E402  # needs Django


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Takes the client's address and scheme from the gateway, the only one who can reach this socket."""
    headers = dict(scope["headers"])
    if (client := headers.get(CLIENT_IP)) is not None:
        scope["client"] = (client.decode("latin-1"), 0)
    scope["scheme"] = headers.get(CLIENT_SCHEME, b"http").decode("latin-1")
    await _django(scope, receive, send)
