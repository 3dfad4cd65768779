"""ASGI application of control's Unix socket. The gateway passes the client's address and scheme in two headers."""

import asyncio
import logging
import os
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponseBase
from django.middleware.security import SecurityMiddleware
from servestatic.middleware import ServeStaticMiddleware

from gateway.http.control_proxy import CLIENT_IP, CLIENT_SCHEME
from metrics.exports.long_response import LongLivedResponse
from routerdash.web.middleware import ContentSecurityPolicy

log = logging.getLogger(__name__)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "routerdash.settings")


class Outlet:
    """ASGI `send` callable for Django, which stores a long-lived response until Django has finished."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self.lasting: LongLivedResponse | None = None

    async def __call__(self, message: Any) -> None:
        await self._send(message)


class Handler(ASGIHandler):
    """ASGI handler that runs the middleware and the view of a request in one thread, without a switch in between.

    It sends long-lived responses after Django has finished with the request: Django holds a thread for each request
    until the last byte of the response, so that two hundred open pages needed two hundred threads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.load_middleware(is_async=False)  # Django's own asynchronous chain switches threads for each middleware
        self._files = ServeStaticMiddleware(self._no_file)
        self._serve_file: Any = SecurityMiddleware(ContentSecurityPolicy(self._files))

    async def run_get_response(self, request: HttpRequest) -> HttpResponseBase:
        is_file = request.path_info in self._files.files
        response: Any = await (self._serve_file(request) if is_file else sync_to_async(self.get_response)(request))
        response._handler_class = self.__class__
        return response  # type: ignore[no-any-return]

    async def _no_file(self, request: HttpRequest) -> HttpResponseBase:
        raise AssertionError(request.path_info)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        outlet = Outlet(send)
        await super().__call__(scope, receive, outlet)
        if outlet.lasting is not None:
            await self._send_lasting(outlet.lasting, receive, send)

    async def send_response(self, response: Any, send: Any) -> None:
        if isinstance(response, LongLivedResponse) and isinstance(send, Outlet):
            send.lasting = response
        else:
            await super().send_response(response, send)

    async def _send_lasting(self, response: LongLivedResponse, receive: Any, send: Any) -> None:
        """Send the response until it ends, the client disconnects, or the session of the request ends.

        Raises the exceptions of its content: then the client sees an incomplete response.
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
            await send({"type": "http.response.body"})  # the page reconnects and is sent to the login
        elif stopped:
            log.info("a download was aborted: its session has ended")


async def _client_left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _session_ended(session_id: str) -> None:
    """Wait until the session ends; for ever if there is none, as for a script with an API key."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    stop = sessions.watch(session_id, lambda: loop.call_soon_threadsafe(ended.set)) if session_id else None
    try:
        await ended.wait()
    finally:
        if stop is not None:
            stop()


django.setup(set_prefix=False)
_django = Handler()

from access.sessions.store import sessions  # noqa: E402  # needs Django


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Take the client's address and scheme from the gateway, the only client of this socket, then call Django."""
    headers = dict(scope["headers"])
    if (client := headers.get(CLIENT_IP)) is not None:
        scope["client"] = (client.decode("latin-1"), 0)
    scope["scheme"] = headers.get(CLIENT_SCHEME, b"http").decode("latin-1")
    await _django(scope, receive, send)
