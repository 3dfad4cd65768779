"""Django for control's Unix socket. The gateway in front says who the client is, in two headers of its own."""

import asyncio
import os
from typing import Any

import django
from django.core.handlers.asgi import ASGIHandler

from gateway.forward import CLIENT_IP, CLIENT_SCHEME
from metrics.streams import LastingResponse

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
        """Until it ends, or the client goes. Raises what its content raises: then the client sees it break off."""
        sending = asyncio.create_task(super().send_response(response, send))
        leaving = asyncio.create_task(_client_left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = sending.done()
            for task in (sending, leaving):
                task.cancel()
            await asyncio.wait((sending, leaving))
        if ended:
            sending.result()


async def _client_left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


django.setup(set_prefix=False)
_django = Handler()


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Takes the client's address and scheme from the gateway, the only one who can reach this socket."""
    headers = dict(scope["headers"])
    if (client := headers.get(CLIENT_IP)) is not None:
        scope["client"] = (client.decode("latin-1"), 0)
    scope["scheme"] = headers.get(CLIENT_SCHEME, b"http").decode("latin-1")
    await _django(scope, receive, send)
