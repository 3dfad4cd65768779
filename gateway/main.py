"""A gateway process: `python -m gateway.main --worker N --listen FD --alive FD`, started by the supervisor.

It owns nothing that another process needs. It inherits the listening sockets, and the pipe that closes when the
supervisor exits. Control reads its journal. The supervisor clears its row of the live page after a
crash.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import uvloop

from gateway.application import Gateway
from gateway.base import logs, sealing
from gateway.base.config import ADAPTIVE, Config, load
from gateway.base.process import keep_freed_memory, raise_descriptor_limit, watch_parent
from gateway.certificate import Certificate, tls_context
from gateway.http.control_proxy import ControlProxy
from gateway.http.expiry import expire
from gateway.http.ollama.port import OllamaProtocol
from gateway.http.protocol import GatewayProtocol
from gateway.http.shared import Shared
from gateway.inference.housekeeping import Housekeeping
from gateway.inference.services import Services
from gateway.ipc.bound_hits import Hits
from gateway.ipc.live_page import LivePage
from gateway.ipc.wake import BY_CONTROL, WakePipe
from gateway.loop.rest import Rest, sleep_until_next
from gateway.routing.roster import Roster
from gateway.server import Server, server_config
from gateway.upstream.dialer import Dialer
from gateway.upstream.pool import Sweeper

log = logging.getLogger(__name__)

CERTIFICATE_SECONDS = 10.0
EXPIRED_AT_ONCE = 100  # connections whose deadlines are checked in one iteration of the event loop


async def _no_application(scope: object, receive: object, send: object) -> None:
    """Satisfy uvicorn, which requires an application; the protocol handles every request without it."""


async def serve(config: Config, listen: socket.socket, ollama: socket.socket | None = None) -> None:
    """Serve requests until SIGTERM or SIGINT, and finish the running ones. `ollama`: the port of Ollama's own API."""
    loop = asyncio.get_running_loop()
    page = LivePage(config.live_page_path)
    row = page.claim_row()
    sweeper = Sweeper(loop, Dialer.of(config))
    sealer = sealing.load(config.encryption_keys, config.key_file)
    measures = config.balancer == ADAPTIVE
    roster = Roster(config.registry_dir, page, row, sealer, sweeper, measures=measures)
    control = ControlProxy(config.control_socket, sweeper, lambda: roster.version > 0, Hits(page, row.number))
    gateway = Gateway(config, roster, control)
    gateway.services.refresh()
    shared = Shared(gateway)
    uvicorn_config = server_config(config, partial(GatewayProtocol, shared), _no_application, config.drain_secs)
    server = Server(uvicorn_config, shared.connection_bound, gateway.bound_hits)
    if ollama is not None:
        server.others.append((ollama, partial(OllamaProtocol, shared)))
    _stop_on_signals(loop, gateway, server)
    housekeeping = Housekeeping(gateway.services, gateway.strangers)
    rest = Rest(lambda: bool(server.server_state.connections) or housekeeping.has_work())
    gateway.on_connect = rest.wake
    sweeper.is_resting = lambda: rest.resting
    rest.on_wake(housekeeping.run)
    rest.on_wake(sweeper.wake)
    wake = WakePipe(row.wake_path)
    loop.add_reader(wake.descriptor, _woken, wake, housekeeping)
    background = [loop.create_task(task) for task in _periodic(config, gateway, housekeeping, server, shared, rest)]
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        await server.serve(sockets=[listen])
        await _write_last_records(server)
    finally:
        for task in background:
            task.cancel()
        loop.remove_reader(wake.descriptor)
        wake.close()
        sweeper.stop()
        gateway.strangers.write()
        gateway.services.close()
        row.release()


def _woken(wake: WakePipe, housekeeping: Housekeeping) -> None:
    """Apply what control has published, as soon as it calls, and serve the queue: a limit may have room."""
    if BY_CONTROL in wake.drain():
        housekeeping.follow()
    housekeeping.serve_queue()


def _stop_on_signals(loop: asyncio.AbstractEventLoop, gateway: Gateway, server: Server) -> None:
    def stop() -> None:
        gateway.stop()
        for connection in server.server_state.connections:
            connection.shutdown()  # uvicorn does so a moment later: idle deadlines begin now
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


def _periodic(
    config: Config,
    gateway: Gateway,
    housekeeping: Housekeeping,
    server: Server,
    shared: Shared,
    rest: Rest,
) -> list[Coroutine[Any, Any, None]]:
    """Return the periodic work of the process."""
    work = [
        every(0.05, housekeeping.run, rest),
        every(0.5, lambda: _expire_connections(server, gateway, shared), rest),
    ]
    if config.journal_fsync_secs:
        work.append(every(config.journal_fsync_secs, lambda: _sync_journal(gateway.services)))
    if config.tls_certificate is not None:
        tls = tls_context(config)
        server.config.ssl_context_factory = lambda *_: tls
        work.append(every(CERTIFICATE_SECONDS, Certificate(config, tls).refresh))
    return work


async def _write_last_records(server: Server) -> None:
    """Wait for the records of requests that uvicorn has cancelled at the end of the drain."""
    until = time.monotonic() + 1
    while server.server_state.tasks and time.monotonic() < until:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)


async def every(seconds: float, work: Callable[[], Awaitable[None] | None], rest: Rest | None = None) -> None:
    """Repeat periodic work until the process ends, even if it fails: otherwise revoked keys would remain valid.

    With `rest`, it runs less often while the process rests.
    """
    pause = sleep_until_next if rest is None else rest.sleep
    while True:
        await pause(seconds)
        try:
            pending = work()
            if pending is not None:
                await pending
        except Exception:
            log.exception("periodic work of the gateway failed; the next attempt follows in %g s", seconds)


async def _expire_connections(server: Server, gateway: Gateway, shared: Shared) -> None:
    """Check the deadlines of all connections."""
    shared.buffers.expire(time.monotonic())
    for number, connection in enumerate(list(server.server_state.connections), 1):
        if isinstance(connection, GatewayProtocol):
            expire(connection, time.monotonic(), stopping=gateway.stopping)
        if number % EXPIRED_AT_ONCE == 0:
            await asyncio.sleep(0)


async def _sync_journal(services: Services) -> None:
    """Write to the disk, in a thread, what the journal got since the last time."""
    journal = services.journal
    if journal is None or (descriptor := journal.descriptor()) is None:
        return
    try:
        await asyncio.to_thread(os.fdatasync, descriptor)
    except BaseException:
        journal.is_synced = False
        raise
    finally:
        os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", type=int, required=True)
    parser.add_argument("--listen", type=int, required=True)
    parser.add_argument("--ollama", type=int, default=None)
    parser.add_argument("--alive", type=int, required=True)
    options = parser.parse_args()
    config = load(os.environ)
    raise_descriptor_limit()
    keep_freed_memory()
    logs.configure(config, f"gateway-{options.worker}")
    watch_parent(options.alive)
    listen = socket.socket(fileno=options.listen)
    ollama = None if options.ollama is None else socket.socket(fileno=options.ollama)
    uvloop.run(serve(config, listen, ollama))


if __name__ == "__main__":
    main()
