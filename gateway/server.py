"""The HTTP server that gateway and control share: uvicorn's, with RouterDash's own acceptors and stop."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

from gateway.base.config import Config
from gateway.http.acceptor import Acceptor, Connecting
from gateway.http.clients import ConnectionBound, TrustedProxies
from gateway.http.deadlines import KEEP_ALIVE_SECONDS
from gateway.ipc.bound_hits import Hits
from gateway.loop import uvicorn_parts as uvicorn
from gateway.loop.rest import Pauses, until_next

TICK_SECONDS = 1.0
LAST_HANDSHAKE_SECONDS = 1.0  # of TLS, with a client that was not accepted when the process began to drain


class Server(uvicorn.Server):
    """uvicorn's server. Only `stop()` ends it, so that the process exits with code 0 instead of by a signal."""

    def __init__(
        self, config: uvicorn.Config, connection_bound: ConnectionBound | None = None, hits: Hits | None = None
    ) -> None:
        """`connection_bound` bounds the connections of each client; None is no bound."""
        super().__init__(config)
        self._connection_bound = connection_bound or ConnectionBound(0, TrustedProxies(()))
        self._hits = hits or Hits()
        self._acceptors: list[Acceptor] = []
        # Further listening sockets with the protocols of their connections. Everything else is that of the first.
        self.others: list[tuple[socket.socket, Callable[..., asyncio.Protocol]]] = []
        self._ticks = Pauses()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """End the server. Call this in the event loop's thread."""
        self.should_exit = True
        self._ticks.end()

    async def main_loop(self) -> None:
        """Run uvicorn's periodic work, the Date header, once a second: it would look ten times a second for a stop."""
        while not await self.on_tick(0):
            await self._ticks.sleep(until_next(TICK_SECONDS))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        self.servers = []
        protocol = cast(Callable[..., asyncio.Protocol], self.config.http_protocol_class)
        listening = [(listen, protocol) for listen in sockets or ()]
        for listen, protocol in [*listening, *self.others]:
            connected = partial(self._connected, protocol)
            acceptor = Acceptor(listen, connected, self._connection_bound, self._hits, self.config.ssl)
            acceptor.start()
            self._acceptors.append(acceptor)
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept the waiting clients before the sockets close: that would reset their connections.

        All sockets close before running requests end, so that no other client connects to a process that accepts none.
        """
        await asyncio.gather(*(acceptor.stop(LAST_HANDSHAKE_SECONDS) for acceptor in self._acceptors))
        await super().shutdown([*(sockets or ()), *(listen for listen, _ in self.others)])

    def _connected(self, protocol: Callable[..., asyncio.Protocol]) -> Connecting:
        create = cast(Callable[..., Connecting], protocol)
        return create(config=self.config, server_state=self.server_state, app_state={})


def server_config(
    config: Config, protocol: Callable[..., asyncio.Protocol] | str, app: object, drain: int
) -> uvicorn.Config:
    """Return the configuration of a server. `drain`: seconds for running requests after a stop."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=protocol,  # type: ignore[arg-type]  # uvicorn only calls it
        loop="uvloop",
        lifespan="off",
        ws="none",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        log_config=None,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=drain,
        backlog=2048,
    )
