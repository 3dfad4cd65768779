"""A gateway in a thread of the test's own process, to whose routes a test may add some."""

import asyncio
import hashlib
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import uvloop
from uvicorn.server import ServerState

from gateway import snapshot
from gateway.config import Config
from gateway.exchange import Exchange
from gateway.forward import Forwarder
from gateway.handler import INFERENCE, Gateway, Route
from gateway.livepage import LivePage
from gateway.main import server_config
from gateway.protocol import GatewayProtocol, bound_to
from gateway.roster import Roster
from gateway.sealing import Sealer
from gateway.upstream import Sweeper
from tests.gateway.conftest import Control
from tests.gateway.process import ALL, KEY
from tests.gateway.samples import KEY as SEALING_KEY
from tests.http import Served

PATH = "/v1/streamed"
Handler = Callable[[Exchange], Coroutine[Any, Any, None]]


class Inside(threading.Thread, Served):
    """`streamed` answers POST on PATH, whose bodies are streamed."""

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
        roster = Roster(
            self.config.snapshot_path, LivePage(self.config.live_page_path), Sealer([SEALING_KEY]), self.sweeper
        )
        forwarder = Forwarder(self.config.control_socket, self.sweeper, lambda: True)
        self.gateway = Gateway(self.config, roster, forwarder)
        self.gateway.refresh()
        self.gateway._routes[PATH.encode()] = Route(b"POST", INFERENCE, self.streamed, streams=True)
        protocol = bound_to(self.gateway)
        config = server_config(self.config, protocol, None, 1)
        config.load()
        server = await self.loop.create_server(self._factory(protocol, config), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()
        while self.connections or self.sweeper.connections:  # their ends have no event
            for transport in [each.transport for each in self.connections + list(self.sweeper.connections)]:
                transport.abort()
            await asyncio.sleep(0.005)
        self.sweeper.stop()
        if self.gateway.journal is not None:
            self.gateway.journal.close()

    def _factory(self, protocol: type[GatewayProtocol], config: Any) -> Callable[[], GatewayProtocol]:
        return lambda: protocol(config=config, server_state=self.state, app_state={})

    def in_loop(self, function: Callable[[], Any]) -> Any:
        """What the function returns, called in the gateway's thread."""
        done, found = threading.Event(), []

        def call() -> None:
            found.append(function())
            done.set()

        self.loop.call_soon_threadsafe(call)
        assert done.wait(30)
        return found[0]

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._ended.set)
        self.join(10)

    # What clients do

    @contextmanager
    def connect(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            yield connection

    def head(self, *headers: str, path: str = PATH, version: str = "1.1") -> bytes:
        usual = ("Host: localhost", f"Authorization: Bearer {KEY}")
        return "\r\n".join((f"POST {path} HTTP/{version}", *usual, *headers, "", "")).encode()


@contextmanager
def inside(config: Config, streamed: Handler, *endpoints: snapshot.Endpoint) -> Iterator[Inside]:
    key = snapshot.ApiKey(KEY[3:11], hashlib.sha256(KEY.encode()).hexdigest(), ALL, None)
    Control(config).publish(*endpoints, api_keys=(key,))
    made = Inside(config, streamed)
    try:
        yield made
    finally:
        made.close()
