"""A gateway process: `python -m gateway.main --worker N --listen FD --alive FD`. Started by the supervisor.

It owns nothing that another process needs: the listening socket and the pipe that tells of the supervisor's death are
inherited, its journal is read by control, its row of the live page is cleared when it dies.
"""

import argparse
import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import cast

import uvicorn
import uvloop

from gateway import logs, sealing
from gateway.acceptor import Acceptor, Connecting
from gateway.bounds import Hits
from gateway.config import Config, load, load_certificate
from gateway.destinations import Destinations
from gateway.forward import Forwarder
from gateway.handler import Gateway
from gateway.livepage import LivePage
from gateway.peer import Crowd, Peers
from gateway.protocol import KEEP_ALIVE_SECONDS, GatewayProtocol, bound_to
from gateway.roster import Roster
from gateway.upstream import Sweeper

log = logging.getLogger(__name__)

CERTIFICATE_SECONDS = 10.0
LOOKED_AT_AT_ONCE = 100  # connections, for timeouts
LAST_HANDSHAKE_SECONDS = 1.0  # of TLS, with a client that was not accepted when the process was told to stop
# glibc's names, and how much freed memory it may keep instead of giving it back with each large body.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES, MAPPED_BYTES = 32 << 20, 4 << 20


async def _no_application(scope: object, receive: object, send: object) -> None:
    """uvicorn wants an application; the protocol answers everything before it would be called."""


class Server(uvicorn.Server):
    """uvicorn's server, stopped by `stop()` alone: the process ends with code 0, not by the signal. Connections are
    accepted by acceptors of ours.
    """

    def __init__(self, config: uvicorn.Config, crowd: Crowd | None = None, hits: Hits | None = None) -> None:
        """`crowd`: how many connections each client may have; without one any number."""
        super().__init__(config)
        self._crowd = crowd or Crowd(0, Peers(()))
        self._hits = hits or Hits()
        self._acceptors: list[Acceptor] = []

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        self.servers = []
        for listen in sockets or ():
            acceptor = Acceptor(listen, self._connected, self._crowd, self._hits, self.config.ssl)
            acceptor.start()
            self._acceptors.append(acceptor)
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Clients that wait to be accepted are connected as far as they know: closing the socket would reset them."""
        await asyncio.gather(*(acceptor.stop(LAST_HANDSHAKE_SECONDS) for acceptor in self._acceptors))
        await super().shutdown(sockets)

    def _connected(self) -> Connecting:
        protocol = cast(Callable[..., Connecting], self.config.http_protocol_class)
        return protocol(config=self.config, server_state=self.server_state, app_state={})


def server_config(config: Config, protocol: type[asyncio.Protocol] | str, app: object, drain: int) -> uvicorn.Config:
    """What gateway and control have in common."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=protocol,
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


def raise_descriptor_limit() -> None:
    """Each stream takes two descriptors; the usual soft limit of 1024 is for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def watch_parent(alive: int, stop: signal.Signals = signal.SIGTERM) -> None:
    """Stop this process when its supervisor is gone: the pipe's other end closes with it, however it died."""

    def wait() -> None:
        os.read(alive, 1)
        os.kill(os.getpid(), stop)

    threading.Thread(target=wait, name="parent", daemon=True).start()


async def serve(config: Config, worker: int, listen: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    page = LivePage(config.live_page_path)
    page.clear(worker)
    sweeper = Sweeper(loop, Destinations.of(config))
    sealer = sealing.load(config.encryption_keys, config.key_file)
    roster = Roster(config.snapshot_path, page, sealer, sweeper, worker=worker, workers=config.workers)
    forwarder = Forwarder(config.control_socket, sweeper, lambda: roster.snapshot is not None, Hits(page, worker))
    gateway = Gateway(config, roster, forwarder)
    gateway.refresh()
    protocol = bound_to(gateway)
    server = Server(server_config(config, protocol, _no_application, config.drain_secs), protocol.crowd, gateway.bounds)
    tls = config.tls()
    if tls is not None:
        server.config.ssl_context_factory = lambda *_: tls

    def stop() -> None:
        gateway.stopping = True
        forwarder.end_events()
        for connection in server.server_state.connections:
            connection.shutdown()  # as uvicorn does in a moment: its patience begins now
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    repeated = [every(0.05, gateway.look_around), every(0.5, lambda: _sweep(server, gateway, protocol))]
    if config.journal_fsync_secs:
        repeated.append(every(config.journal_fsync_secs, lambda: _sync(gateway)))
    if tls is not None:
        repeated.append(every(CERTIFICATE_SECONDS, Certificate(config, tls).refresh))
    background = [loop.create_task(task) for task in repeated]
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        await server.serve(sockets=[listen])
        await _finish(server)
    finally:
        for task in background:
            task.cancel()
        sweeper.stop()
        gateway.close()
        page.clear(worker)


async def _finish(server: Server) -> None:
    """uvicorn has cancelled what outlived the drain limit; let it write its records."""
    until = time.monotonic() + 1
    while server.server_state.tasks and time.monotonic() < until:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)


async def every(seconds: float, work: Callable[[], Awaitable[None] | None]) -> None:
    """For as long as the process runs, whatever goes wrong: a loop that ended would leave keys of long ago valid."""
    while True:
        await asyncio.sleep(seconds)
        try:
            pending = work()
            if pending is not None:
                await pending
        except Exception:
            log.exception("this is tried again in %g s", seconds)


async def _sweep(server: Server, gateway: Gateway, protocol: type[GatewayProtocol]) -> None:
    protocol.buffers.expire(time.monotonic())
    for number, connection in enumerate(list(server.server_state.connections), 1):
        if isinstance(connection, GatewayProtocol) and connection.entered:
            connection.expire(time.monotonic(), stopping=gateway.stopping)
        if number % LOOKED_AT_AT_ONCE == 0:
            await asyncio.sleep(0)  # very many may have to be closed


class Certificate:
    """Watches the files of a certificate that is in use."""

    def __init__(self, config: Config, context: ssl.SSLContext) -> None:
        self._config = config
        self._context = context
        self._seen = self._changed()

    def refresh(self) -> None:
        """Take over a renewed one. Raises ConfigError: the old one stays."""
        changed = self._changed()
        if changed != self._seen:
            load_certificate(self._context, self._config)
            self._seen = changed
            log.info("the TLS certificate was renewed")

    def _changed(self) -> list[int]:
        paths = (self._config.tls_certificate, self._config.tls_key)
        return [path.stat().st_mtime_ns for path in paths if path is not None]


async def _sync(gateway: Gateway) -> None:
    descriptor = gateway.journal.descriptor() if gateway.journal is not None else None
    if descriptor is None:
        return
    try:
        await asyncio.to_thread(os.fdatasync, descriptor)
    finally:
        os.close(descriptor)


def keep_freed_memory() -> None:
    """Have glibc keep what bodies of some hundred KB leave: a third of their time went into getting and clearing the
    same pages anew. Another C library is left as it is.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", type=int, required=True)
    parser.add_argument("--listen", type=int, required=True)
    parser.add_argument("--alive", type=int, required=True)
    options = parser.parse_args()
    config = load(os.environ)
    raise_descriptor_limit()
    keep_freed_memory()
    logs.configure(config, f"gateway-{options.worker}")
    watch_parent(options.alive)
    listen = socket.socket(fileno=options.listen)
    uvloop.run(serve(config, options.worker, listen))


if __name__ == "__main__":
    main()
