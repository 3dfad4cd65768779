"""A gateway in a thread, for measurements of a request and of a streamed event.

A real GatewayProtocol on real sockets, in a thread with an event loop as gateways run it; client and upstream are other
threads.
"""

import asyncio
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from uvicorn.server import ServerState

from benchmarks.bench.tools import chat_body
from gateway.application import Gateway
from gateway.base.config import ADAPTIVE, Config, load
from gateway.base.sealing import Sealer
from gateway.http.control_proxy import ControlProxy
from gateway.http.protocol import GatewayProtocol
from gateway.http.shared import Shared
from gateway.ipc.live_page import LivePage
from gateway.registry import schema
from gateway.routing.roster import Roster
from gateway.server import server_config
from gateway.upstream.pool import Sweeper
from tests.gateway.conftest import Control
from tests.gateway.process import ALL
from tests.gateway.process import KEY as SECRET
from tests.gateway.samples import KEY as SEALING_KEY
from tests.gateway.samples import make_endpoint
from tests.gateway.scripted import DONE, LAST, chunk, http_response

MODEL = "bench-model"
JSON = http_response(b'{"model":"bench-model","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5}}')
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
USAGE = b'data: {"model":"bench-model","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5}}\n\n'


def framed(*events: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)


class Upstream(threading.Thread):
    """Serves one connection at a time. Keeps no requests, which would count as the gateway's memory."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = "http://{}:{}".format(*self.listening.getsockname())
        self.events = 0  # in the next stream; 0: a JSON response
        self.connection: socket.socket | None = None
        self.seen = threading.Semaphore(0)  # released by the client for each received event
        self.start()

    def run(self) -> None:
        buffer = bytearray(1 << 16)
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            with connection:
                self.connection = connection
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while self._request(connection, buffer):
                    self._response(connection)

    def _request(self, connection: socket.socket, buffer: bytearray) -> bool:
        """Detect the end of a request by the brackets that close its JSON, which occur only there."""
        size = 0
        view = memoryview(buffer)
        while not buffer.endswith(b"}", 0, size):
            received = connection.recv_into(view[size:])
            if not received:
                return False
            size += received
        return True

    def _response(self, connection: socket.socket) -> None:
        if not self.events:
            connection.sendall(JSON)
            return
        event = framed(chunk(" token", model=MODEL))
        connection.sendall(HEAD + event)  # one write: two writes would be read as one or as two
        for _ in range(self.events - 1):
            self.seen.acquire()
            connection.sendall(event)
        self.seen.acquire()
        connection.sendall(framed(LAST, USAGE, DONE) + b"0\r\n\r\n")

    def close(self) -> None:
        if self.connection is not None:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.join(10)


class Running(threading.Thread):
    """A gateway in a separate thread, and one client's connection to it."""

    def __init__(self, config: Config, upstream: Upstream) -> None:
        super().__init__(daemon=True)
        self.config = config
        self.upstream = upstream
        self._ready = threading.Event()
        self._ended: asyncio.Event
        self.start()
        assert self._ready.wait(30)
        self.connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        self._buffer = bytearray(1 << 16)

    def run(self) -> None:
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        sweeper = Sweeper(self.loop)
        page = LivePage(self.config.live_page_path)
        measures = self.config.balancer == ADAPTIVE
        sealer = Sealer([SEALING_KEY])
        roster = Roster(self.config.registry_dir, page, page.claim_row(), sealer, sweeper, measures=measures)
        gateway = Gateway(self.config, roster, ControlProxy(self.config.control_socket, sweeper, lambda: True))
        gateway.services.refresh()
        protocol = partial(GatewayProtocol, Shared(gateway))
        config = server_config(self.config, protocol, _no_application, 1)
        config.load()
        state = ServerState()
        server = await self.loop.create_server(_factory(protocol, config, state), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        sweeper.stop()
        gateway.services.close()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._ended.set)
        self.join(10)

    # Work

    def plain(self, number: int) -> None:
        """Send `count` requests, one after the other."""
        self.upstream.events = 0
        for _ in range(number):
            self.connection.sendall(PLAIN)
            self._read_to(b"}}")

    def stream(self, events: int) -> None:
        """Receive one stream. Each event is sent when the client has received the previous one."""
        self.upstream.events = events
        self.connection.sendall(STREAM)
        for _ in range(events):
            self._read_to(b"\n\n\r\n")
            self.upstream.seen.release()
        self._read_to(b"0\r\n\r\n")

    def _read_to(self, end: bytes) -> None:
        size = 0
        view = memoryview(self._buffer)
        while not self._buffer.endswith(end, 0, size):
            received = self.connection.recv_into(view[size:])
            assert received, bytes(self._buffer[:size])
            size += received

    def _in_loop(self, function: Callable[[], None]) -> None:
        done = threading.Event()
        self.loop.call_soon_threadsafe(function)
        self.loop.call_soon_threadsafe(done.set)
        assert done.wait(30)


def _factory(protocol: Callable[..., Any], config: uvicorn.Config, state: ServerState) -> Callable[[], Any]:
    return lambda: protocol(config=config, server_state=state, app_state={})


async def _no_application(scope: Any, receive: Any, send: Any) -> None: ...


def request(body: bytes) -> bytes:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {SECRET}\r\n"
        f"Content-Type: application/json\r\nUser-Agent: budget\r\nAccept: */*\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


PLAIN = request(chat_body(1500))
STREAM = request(chat_body(1500, stream=True))


@contextmanager
def gateway_in_a_thread(directory: Path) -> Iterator[Running]:
    """Serve one model of one endpoint to one API key, with caches that are filled."""
    config = load({"ROUTERDASH_DATA_DIR": str(directory)})
    upstream = Upstream()
    endpoint = make_endpoint("", MODEL, base_url=upstream.url)
    key = schema.PublishedKey(SECRET[3:11], hashlib.sha256(SECRET.encode()).hexdigest(), ALL, None)
    control = Control(config)
    control.publish(endpoint, api_keys=(key,))
    running = Running(config, upstream)
    running.plain(50)
    running.stream(10)
    yield running
    running.connection.close()
    upstream.close()
    running.close()
    control.registry.close()
