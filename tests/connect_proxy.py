"""An HTTP proxy that opens connections by CONNECT, with a login. It runs in a thread of the test, or as a program:

python -m tests.connect_proxy 3128 user:password
"""

import asyncio
import base64
import sys
import threading
from contextlib import suppress
from typing import Any, Self


class ConnectProxy:
    """A proxy on 127.0.0.1. `targets` has the host and port of each CONNECT, `status` another answer than 200."""

    def __init__(self, login: str | None = "user:pass:word", status: int = 200, host: str = "127.0.0.1") -> None:
        self.login, self.status, self.host = login, status, host
        self.targets: list[str] = []
        self.other_requests: list[str] = []  # lines of requests that are no CONNECT
        self.connections = 0
        self.port = 0
        self.silent = False  # accept connections, and send nothing
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        login = "" if self.login is None else self.login.replace(":", "%3A").replace("%3A", ":", 1) + "@"
        return f"http://{login}{self.host}:{self.port}"

    @property
    def bare_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(self.start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._end(server))

    async def _end(self, server: asyncio.Server) -> None:
        server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def start(self, port: int = 0) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, self.host, port)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = lines[0].split(" ")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
        if self.silent:
            await reader.read()
            return
        if method != "CONNECT":
            self.other_requests.append(lines[0])
            writer.write(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n")
            return
        wanted = self.login and f"Basic {base64.b64encode(self.login.encode()).decode()}"
        if wanted and fields.get("proxy-authorization") != wanted:
            writer.write(b'HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm="p"\r\n\r\n')
            return
        self.targets.append(target)
        if self.status != 200:
            writer.write(b"HTTP/1.1 %d No\r\ncontent-length: 0\r\n\r\n" % self.status)
            return
        host, _, port = target.rpartition(":")
        try:
            onward, back = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
            return
        self._writers.add(back)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(_copy(reader, back), _copy(onward, writer))
        finally:
            self._writers.discard(back)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


async def main(port: str, login: str, host: str = "127.0.0.1") -> None:
    server = await ConnectProxy(login, host=host).start(int(port))
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
