"""Relays of connections between network namespaces: Unix sockets belong to none.

python -m tests.relay to-unix PORT PATH     from a port of 127.0.0.1 to a Unix socket
python -m tests.relay from-unix PATH PORT   back, in another namespace
"""

import asyncio
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def relayed(target: Callable[[], Awaitable[Streams]]) -> Callable[..., Awaitable[None]]:
    """Return the handler of a server that passes each connection on to `target`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward, back = await target()
            await asyncio.gather(copy(reader, back), copy(onward, writer))
        except OSError:
            pass
        finally:
            writer.close()

    return serve


async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


async def relay_port(host: str, port: int, to: int, tls: ssl.SSLContext | None = None) -> asyncio.Server:
    """Pass on what arrives at an address, without its TLS, to a port of 127.0.0.1."""
    return await asyncio.start_server(relayed(lambda: asyncio.open_connection("127.0.0.1", to)), host, port, ssl=tls)


async def main(direction: str, first: str, second: str) -> None:
    if direction == "to-unix":
        to_unix = relayed(lambda: asyncio.open_unix_connection(second))
        server = await asyncio.start_server(to_unix, "127.0.0.1", int(first))
    else:
        to_port = relayed(lambda: asyncio.open_connection("127.0.0.1", int(second)))
        server = await asyncio.start_unix_server(to_port, first)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
