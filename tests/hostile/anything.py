"""Many connections of one address that send anything: `python -m tests.hostile.anything --port PORT`.

Each connection misbehaves in one way after another until the time is over: bodies that never end, JSON that is slow
to read, junk, unfinished header blocks, unread responses. Prints as JSON how often each way was used.
"""

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import uvloop

MIB = 1 << 20
PIECE = 256 << 10
Way = Callable[["Hostile"], Awaitable[None]]


class Hostile:
    """One hostile client: its connection, options and random numbers."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        self.options = options
        self.random = random.Random(seed)
        self.until = 0.0  # time.monotonic() of its end
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self.options.port, local_addr=(self.options.address, 0), limit=1 << 16
        )

    def head(self, line: str, *headers: str, key: bool = False) -> bytes:
        lines = [f"{line} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers]
        if key and self.options.key:
            lines.append(f"Authorization: Bearer {self.options.key}")
        return "\r\n".join((*lines, "", "")).encode()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def send_body(self, head: bytes, piece: bytes, size: int, *, hold_back: int = 0) -> None:
        """Send a body of `size` bytes made of `piece`, except for the last `hold_back` bytes."""
        await self.send(head)
        left = size - hold_back
        big = (piece * (PIECE // len(piece) + 1))[:PIECE]
        while left > 0 and time.monotonic() < self.until:
            await self.send(big[:left])
            left -= PIECE

    async def wait(self) -> None:
        """Wait for a response, for three seconds at most."""
        await asyncio.wait_for(self.reader.read(1 << 16), self.random.uniform(0.2, 3))


async def hold_back_a_login(client: Hostile) -> None:
    await client.send_body(client.head("POST /login", f"Content-Length: {8 * MIB}"), b"x", 8 * MIB, hold_back=1)
    await client.wait()


async def hold_back_a_chat(client: Hostile) -> None:
    head = client.head("POST /v1/chat/completions", f"Content-Length: {31 * MIB}", key=True)
    await client.send_body(head, b'{"model":"x","messages":[', 31 * MIB, hold_back=1)
    await client.wait()


async def post_without_a_key(client: Hostile) -> None:
    await client.send_body(client.head("POST /v1/chat/completions", f"Content-Length: {31 * MIB}"), b"x", 31 * MIB)
    await client.wait()


def slow_json(piece: bytes, start: bytes = b'{"model":"tiny","x":[', end: bytes = b"0]}") -> Way:
    """JSON of some megabytes that repeats one piece."""

    async def way(client: Hostile) -> None:
        size = client.random.randint(1, 8) * MIB
        times = size // len(piece)
        path = client.random.choice(("chat/completions", "messages", "responses", "embeddings"))
        length = len(start) + times * len(piece) + len(end)
        head = client.head(f"POST /v1/{path}", f"Content-Length: {length}", key=True)
        await client.send_body(head + start, piece, times * len(piece))
        await client.send(end)
        await client.wait()

    way.__name__ = f"json_of_{piece[:8].decode()}"
    return way


async def send_junk(client: Hostile) -> None:
    await client.send(client.random.randbytes(client.random.randint(1, 60_000)))
    await client.wait()


async def begin_a_handshake(client: Hostile) -> None:
    await client.send(b"\x16\x03\x01\x02\x00\x01\x00")
    await client.wait()


async def send_a_header_block_slowly(client: Hostile) -> None:
    await client.send(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    for number in range(client.random.randint(1, 200)):
        await client.send(b"X-%d: %b\r\n" % (number, b"y" * client.random.randint(1, 1000)))
        await asyncio.sleep(0.05)


async def send_many_headers(client: Hostile) -> None:
    await client.send(client.head("GET /v1/models", *(f"X-{number}: y" for number in range(5000)), key=True))
    await client.wait()


async def pipeline(client: Hostile) -> None:
    await client.send(client.head("GET /v1/models", key=True) * client.random.randint(2, 200))
    await client.wait()


async def pipeline_pages(client: Hostile) -> None:
    await client.send(client.head("GET /login") * client.random.randint(2, 40))
    await client.wait()


async def read_nothing(client: Hostile) -> None:
    body = b'{"model":"tiny","stream":true,"messages":[]}'
    await client.send((client.head("POST /v1/chat/completions", f"Content-Length: {len(body)}", key=True) + body) * 8)
    await asyncio.sleep(client.random.uniform(0.2, 3))


async def name_a_long_model(client: Hostile) -> None:
    body = b'{"model":"%b","messages":[]}' % (b"m" * MIB)
    await client.send(client.head("POST /v1/chat/completions", f"Content-Length: {len(body)}", key=True) + body)
    await client.wait()


async def send_chunks_of_a_byte(client: Hostile) -> None:
    await client.send(client.head("POST /v1/chat/completions", "Transfer-Encoding: chunked", key=True))
    for _ in range(200):
        await client.send(b"1\r\n[\r\n" * 1000)
    await client.wait()


async def send_a_form(client: Hostile) -> None:
    head = client.head("POST /v1/audio/transcriptions", f"Content-Length: {4 * MIB}", key=True)
    head = head.replace(b"application/json", b"multipart/form-data; boundary=b")
    await client.send_body(head, b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\ny\r\n", 4 * MIB)
    await client.wait()


async def connect_and_leave(client: Hostile) -> None:
    """Nothing else."""


WAYS: tuple[Way, ...] = (
    hold_back_a_login, hold_back_a_chat, post_without_a_key, send_junk, begin_a_handshake, send_a_header_block_slowly,
    send_many_headers, pipeline, pipeline_pages, read_nothing, name_a_long_model, send_chunks_of_a_byte, send_a_form,
    connect_and_leave,
    slow_json(b"[],"),
    slow_json(b"[", end=b""),
    slow_json(b'{"a":'),
    slow_json(b'"a",'),
    slow_json(b'{"type":"text","text":"x"},'),
    slow_json(b'{"role":"user","content":"x"},', start=b'{"model":"tiny","messages":['),
    slow_json(b'"k":1,', start=b'{"model":"tiny",', end=b'"z":0}'),
    slow_json(b'\\"', start=b'{"model":"tiny","x":["'),
)  # fmt: skip


async def misbehave(options: argparse.Namespace, seed: int, until: float, used: Counter[str]) -> None:
    client = Hostile(options, seed)
    client.until = until
    while time.monotonic() < until:
        way = client.random.choice(WAYS)
        used[way.__name__] += 1
        try:
            await client.connect()
        except OSError:
            used["not connected"] += 1
            await asyncio.sleep(0.1)
            continue
        try:
            await asyncio.wait_for(way(client), max(0.1, until - time.monotonic()))
        except (OSError, TimeoutError, RuntimeError):  # uvloop raises the last for a transport that is closed
            pass
        finally:
            client.writer.transport.abort()
        await asyncio.sleep(client.random.uniform(0.01, 0.2))


async def crowd(options: argparse.Namespace) -> Counter[str]:
    until = time.monotonic() + options.seconds
    used: Counter[str] = Counter()
    seeds = range(options.seed, options.seed + options.connections)
    await asyncio.gather(*(misbehave(options, seed, until, used) for seed in seeds))
    return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--address", default="127.0.0.2", help="the client address")
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--key", default="", help="an API key for some of the requests")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(json.dumps(uvloop.run(crowd(options)), sort_keys=True))


if __name__ == "__main__":
    main()
