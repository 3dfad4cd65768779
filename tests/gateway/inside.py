"""A gateway in a thread of the test's process, to which a test can add routes."""

import asyncio
import hashlib
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvloop
from uvicorn.server import ServerState

from gateway.application import INFERENCE, Gateway
from gateway.base.config import Config
from gateway.base.sealing import Sealer
from gateway.http.control_proxy import ControlProxy
from gateway.http.exchange import Exchange, HttpRoute
from gateway.http.protocol import GatewayProtocol
from gateway.http.shared import Shared
from gateway.ipc.live_page import LivePage
from gateway.registry import schema
from gateway.routing.roster import Roster
from gateway.server import server_config
from gateway.upstream.pool import Sweeper
from tests.gateway.conftest import Control
from tests.gateway.process import ALL, KEY
from tests.gateway.samples import KEY as SEALING_KEY
from tests.http import Served

PATH = "/v1/streamed"
Handler = Callable[[Exchange], Coroutine[Any, Any, None]]


class Inside(threading.Thread, Served):
    """`streamed` handles POST requests on PATH, whose bodies are streamed."""

    def __init__(self, config: Config, streamed: Handler) -> None:
        super().__init__(daemon=True)
        self.config = config
        self.key = KEY
        self.streamed = streamed
        self.gateway: Gateway
        self.state = ServerState()
        self._ready, self._ended = threading.Event(), asyncio.Event()
        self.start()
        assert self._ready.wait(30)

    @property
    def connections(self) -> list[GatewayProtocol]:
        return [each for each in list(self.state.connections) if isinstance(each, GatewayProtocol)]

    def run(self) -> None:
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.sweeper = Sweeper(self.loop)
        page = LivePage(self.config.live_page_path)
        roster = Roster(
            self.config.registry_dir, page, page.claim_row(), Sealer([SEALING_KEY]), self.sweeper, measures=True
        )
        control = ControlProxy(self.config.control_socket, self.sweeper, lambda: True)
        self.gateway = Gateway(self.config, roster, control)
        self.gateway.services.refresh()
        self.gateway.admission.routes.paths[PATH.encode()] = HttpRoute(b"POST", INFERENCE, self.streamed, streams=True)
        protocol = partial(GatewayProtocol, Shared(self.gateway))
        config = server_config(self.config, protocol, None, 1)
        config.load()
        server = await self.loop.create_server(self._factory(protocol, config), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()
        while self.connections or self.sweeper.connections:  # no event reports their end
            for transport in [each.transport for each in self.connections + list(self.sweeper.connections)]:
                transport.abort()
            await asyncio.sleep(0.005)
        self.sweeper.stop()
        self.gateway.services.close()

    def _factory(self, protocol: Callable[..., GatewayProtocol], config: Any) -> Callable[[], GatewayProtocol]:
        return lambda: protocol(config=config, server_state=self.state, app_state={})

    def in_loop(self, function: Callable[[], Any]) -> Any:
        """Call the function in the gateway's thread, and return its result."""
        done, results = threading.Event(), []

        def call() -> None:
            results.append(function())
            done.set()

        self.loop.call_soon_threadsafe(call)
        assert done.wait(30)
        return results[0]

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._ended.set)
        self.join(10)

    # Actions of clients

    @contextmanager
    def connect(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            yield connection

    def head(self, *headers: str, path: str = PATH, version: str = "1.1") -> bytes:
        usual = ("Host: localhost", f"Authorization: Bearer {KEY}")
        return "\r\n".join((f"POST {path} HTTP/{version}", *usual, *headers, "", "")).encode()


@contextmanager
def inside(config: Config, streamed: Handler, *endpoints: schema.PublishedEndpoint) -> Iterator[Inside]:
    key = schema.PublishedKey(KEY[3:11], hashlib.sha256(KEY.encode()).hexdigest(), ALL, None)
    control = Control(config)
    control.publish(*endpoints, api_keys=(key,))
    made = Inside(config, streamed)
    try:
        yield made
    finally:
        made.close()
        control.registry.close()
