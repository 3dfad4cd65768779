"""Budgets of a request and a streamed event, counted instead of timed: calls, memory, garbage.

A real GatewayProtocol on real sockets, in a thread with an event loop as gateways run it; client and upstream are other
threads, whose work is not counted. `budget.json` has the agreed counts.
"""

import asyncio
import gc
import hashlib
import json
import os
import socket
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
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
from gateway.loop.coroutine_runner import PLAIN_TASKS
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

pytestmark = [
    pytest.mark.unmeasured,
    pytest.mark.skipif(PLAIN_TASKS, reason="the budget is that of the CoroutineRunner"),
]
BUDGET = Path(__file__).parent / "budget.json"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"  # another Python makes other calls
UPDATE = "UPDATE_BUDGET"
MARGIN = 1.03
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
        self.counts = {"call": 0, "c_call": 0}
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

    # Counting

    def counted(self, work: Callable[[], None]) -> dict[str, int]:
        """Count the calls of Python and C functions in the gateway's thread during the work."""
        self._in_loop(lambda: sys.setprofile(self._count))
        self.counts = {"call": 0, "c_call": 0}
        work()
        self._in_loop(lambda: sys.setprofile(None))
        return self.counts

    def _count(self, frame: Any, event: str, argument: Any) -> None:
        if event in self.counts:
            self.counts[event] += 1

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


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    config = load({"ROUTERDASH_DATA_DIR": str(tmp_path_factory.mktemp("budget"))})
    upstream = Upstream()
    endpoint = make_endpoint("", MODEL, base_url=upstream.url)
    key = schema.PublishedKey(SECRET[3:11], hashlib.sha256(SECRET.encode()).hexdigest(), ALL, None)
    control = Control(config)
    control.publish(endpoint, api_keys=(key,))
    made = Running(config, upstream)
    made.plain(50)  # caches are filled
    made.stream(10)
    yield made
    made.connection.close()
    upstream.close()
    made.close()
    control.registry.close()


@pytest.fixture(scope="module")
def budget() -> Iterator[dict[str, float]]:
    """The budget of this Python version. With the variable set, the measured counts replace the budget."""
    agreed = json.loads(BUDGET.read_text())
    yield agreed.setdefault(VERSION, {})
    if os.environ.get(UPDATE):
        BUDGET.write_text(json.dumps(agreed, indent=2, sort_keys=True) + "\n")


def hold(budget: dict[str, float], found: dict[str, float]) -> None:
    print({name: round(value, 2) for name, value in found.items()})
    if os.environ.get(UPDATE):
        budget.update({name: round(value, 2) for name, value in found.items()})
    if not budget:
        pytest.skip(f"there is no budget for Python {VERSION}; {UPDATE}=1 makes one")
    over = {name: (round(value, 2), budget[name]) for name, value in found.items() if value > budget[name] * MARGIN}
    assert not over, (
        f"dearer than agreed, as (counted, budget): {over}. If that is worth it, say so in the commit that runs\n"
        f"  {UPDATE}=1 .venv/bin/python -m pytest tests/gateway/test_budget.py"
    )


def least(measure: Callable[[], dict[str, int]]) -> dict[str, int]:
    """The minimum of three measurements, because timers of the loop can add calls."""
    found = [measure() for _ in range(3)]
    return {name: min(one[name] for one in found) for name in found[0]}


def test_calls_of_a_plain_request(running: Running, budget: dict[str, float]) -> None:
    counts = least(lambda: running.counted(lambda: running.plain(200)))
    hold(budget, {"calls of a request": counts["call"] / 200, "C calls of a request": counts["c_call"] / 200})


def test_calls_of_a_streamed_event(running: Running, budget: dict[str, float]) -> None:
    def streams(events: int) -> dict[str, float]:
        """Calls for one request and for five."""

        def work() -> None:
            for _ in range(5):
                running.stream(events)

        return {name: count / 5 for name, count in least(lambda: running.counted(work)).items()}

    few, many = streams(10), streams(210)
    each = {name: (many[name] - few[name]) / 200 for name in few}
    hold(budget, {"calls of an event": each["call"], "C calls of an event": each["c_call"]})
    rest = {name: few[name] - 10 * each[name] for name in few}
    hold(budget, {"calls of a stream beside": rest["call"], "C calls of a stream beside": rest["c_call"]})


def test_memory_of_a_request(running: Running, budget: dict[str, float]) -> None:
    tracemalloc.start()
    try:
        running.plain(50)
        peaks = []
        for _ in range(5):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            running.plain(50)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    hold(budget, {"bytes of a request": min(peaks)})


def test_requests_leave_no_garbage(running: Running) -> None:
    """Requests leave no reference cycles and no additional objects, and streams no reference cycles."""
    number, streams = 10_000, 100
    gc.collect()
    gc.disable()
    try:
        running.plain(1000)  # the collector has emptied the interpreter's free lists
        running.stream(200)
        blocks = sys.getallocatedblocks()
        running.plain(number)
        running.stream(200)
        grown = sys.getallocatedblocks() - blocks
        for _ in range(streams):
            running.stream(1)
        found = gc.collect()
    finally:
        gc.enable()
    print({"requests": number, "unreachable objects": found, "blocks more": grown})
    assert found < streams / 2
    assert grown < number / 100
