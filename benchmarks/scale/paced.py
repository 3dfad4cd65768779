"""Clients in a process of their own: plain requests at a steady rate, and streams whose gaps are measured.

Work for `beside`: the message "take" returns the values since the last one, "stop" ends it.
"""

import asyncio
import json
import multiprocessing
import multiprocessing.connection
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import uvloop

CONNECTIONS = 16
PACE = 100.0  # requests a second
TAKE_SECONDS = 120.0
LAST_CHUNK = b"0\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Samples:
    """Measured times in ms, and the number of failures."""

    def __init__(self, times: list[float], failures: list[str]) -> None:
        self.times = times
        self.failures = failures

    def take(self) -> tuple[list[float], list[str]]:
        taken = self.times, self.failures
        self.times, self.failures = [], []
        return taken


class Client:
    """The measuring process, as its parent sees it."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def take(self) -> Samples:
        """Return what was measured since the last call."""
        self._pipe.send("take")
        if not self._pipe.poll(TAKE_SECONDS):
            raise TimeoutError("the measuring process does not respond")
        return Samples(*self._pipe.recv())


@contextmanager
def beside(work: Callable[..., None], *values: Any) -> "Iterator[multiprocessing.connection.Connection]":
    """Run `work(pipe, *values)` in a process. Any message on the pipe stops it."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(there, *values), daemon=True)
    process.start()
    try:
        yield here
    finally:
        with suppress(OSError):  # it may have been stopped already
            here.send("stop")
        process.join(15)
        if process.is_alive():
            process.terminate()


@contextmanager
def paced(port: int, key: str, model: str, rate: float = PACE) -> Iterator[Client]:
    """Send plain requests at a rate while the block runs; their times are from the wish to send to the last byte."""
    with beside(_requests, port, key, model, rate) as pipe:
        yield Client(pipe)


def request(port: int, key: str, model: str, *, stream: bool = False) -> bytes:
    """Return the bytes of a chat request."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> int:
    """Send a request, read its whole response, and return its status."""
    writer.write(data)
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    await reader.readexactly(int(length[1]) if length else 0)
    return int(head[9:12])


async def _obey(pipe: Any, samples: Samples) -> None:
    """Return what was measured whenever the parent wants it, until it sends "stop"."""
    while await asyncio.to_thread(pipe.recv) != "stop":
        await asyncio.to_thread(pipe.send, samples.take())


def _requests(pipe: Any, port: int, key: str, model: str, rate: float) -> None:
    uvloop.run(_send_paced(pipe, port, request(port, key, model), rate))


async def _send_paced(pipe: Any, port: int, data: bytes, rate: float) -> None:
    samples = Samples([], [])
    obeying = asyncio.create_task(_obey(pipe, samples))
    free: asyncio.Queue[Any] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(None)

    async def one(wished: float) -> None:
        connection = await free.get()
        try:
            reader, writer = connection = connection or await asyncio.open_connection("127.0.0.1", port)
            status = await exchange(reader, writer, data)
        except (OSError, EOFError) as error:
            samples.failures.append(repr(error))
            connection = None
        else:
            if status != 200:
                samples.failures.append(f"status {status}")
            samples.times.append((time.perf_counter() - wished) * 1000)
        free.put_nowait(connection)

    running: set[asyncio.Task[None]] = set()
    started = time.perf_counter()
    for number in count():
        await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
        if obeying.done():
            break
        task = asyncio.create_task(one(time.perf_counter()))
        running.add(task)
        task.add_done_callback(running.discard)
    for task in running:
        task.cancel()
