"""Upstreams on real sockets that send exactly the bytes of a test."""

import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TIMEOUT_SECS = 30.0


class Talk:
    """The server's side of one connection."""

    def __init__(self, connection: socket.socket, requests: list[bytes]) -> None:
        self.socket = connection
        self._file = connection.makefile("rb")
        self._requests = requests

    def request(self) -> bytes:
        """Read the next request with its body, without chunk framing. Empty when the client has closed."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self._file.readline()
            if not line:
                return b""
            head += line
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        if b"transfer-encoding" in fields:
            body = b"".join(iter(self._chunk, b""))
        else:
            body = self._file.read(int(fields.get(b"content-length", 0)))
        self._requests.append(head + body)
        return self._requests[-1]

    def _chunk(self) -> bytes:
        """Read a chunk, empty for the last. Raises ValueError when the client has closed."""
        data = self._file.read(int(self._file.readline(), 16))
        self._file.readline()
        return data

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def client_disconnected(self) -> bool:
        """Wait until the client closes. False if the client sends bytes instead."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def reset(self) -> None:
        """Close the connection with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._file.close()
        self.socket.close()

    def close(self) -> None:
        self._file.close()


Script = Callable[[Talk], Any]


class Upstream(socketserver.ThreadingTCPServer):
    """Runs the script for each connection, and keeps the received requests in `requests`."""

    request_queue_size = 128

    def __init__(self, address: Any, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.tls = tls
        self.connections = 0
        self.requests: list[bytes] = []
        self.open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http{'s' if self.tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.tls is not None:  # the handling thread does the handshake
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def hang_up(self) -> None:
        for connection in list(self.open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client closed first

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: many scripts expect a client disconnect."""


class UnixUpstream(Upstream):
    address_family = socket.AF_UNIX


class IPv6Upstream(Upstream):
    address_family = socket.AF_INET6


class _Handler(socketserver.BaseRequestHandler):
    server: Upstream

    def handle(self) -> None:
        self.server.connections += 1
        self.server.open.add(self.request)
        self.request.settimeout(TIMEOUT_SECS)
        talk = Talk(self.request, self.server.requests)
        try:
            self.server.script(talk)
        finally:
            self.server.open.discard(self.request)
            talk.close()


@contextmanager
def upstream(
    script: Script, path: Path | None = None, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[Upstream]:
    """Serve on a free port of an address of this machine, or on a Unix socket."""
    kind = IPv6Upstream if ":" in host else Upstream
    server = kind((host, 0), script, tls) if path is None else UnixUpstream(str(path), script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.hang_up()
        server.server_close()
        thread.join()


# Scripts


def each_time(*responses: bytes) -> Script:
    """Send the first bytes for the first request of a connection and so on, then close."""

    def script(talk: Talk) -> None:
        for response in responses:
            if not talk.request():
                return
            talk.send(response)

    return script


def always(response: bytes) -> Script:
    """Send the same response to every request."""

    def script(talk: Talk) -> None:
        while talk.request():
            talk.send(response)

    return script


def nothing(talk: Talk) -> None:
    """Send nothing."""
    while talk.socket.recv(1 << 16):
        pass


def opening(*data: bytes) -> Script:
    """Send these bytes, then wait until the client closes."""

    def script(talk: Talk) -> None:
        talk.request()
        talk.send(*data)
        talk.client_disconnected()

    return script


def http_response(body: bytes, status: int = 200, kind: str = "application/json", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def stream(*events: bytes, end: bool = True) -> bytes:
    """An event stream in chunks, without `end` lacking the last chunk."""
    head = b"HTTP/1.1 200 Scripted\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    return head + chunks + (b"0\r\n\r\n" if end else b"")


def chunk(text: str = "", finish: str = "null", model: str = "tiny") -> bytes:
    """One event of a chat stream."""
    choice = b'{"index":0,"delta":{"content":"%b"},"finish_reason":%b}' % (text.encode(), finish.encode())
    return b'data: {"model":"%b","choices":[%b]}\n\n' % (model.encode(), choice)


DONE = b"data: [DONE]\n\n"
LAST = chunk(finish='"stop"')
