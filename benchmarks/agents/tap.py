"""A proxy in front of one server that keeps the `usage` of each response, read from the bytes on the wire."""

import http.client
import json
import threading
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

OWN_PATHS = ("/v1/messages", "/v1/responses")  # that a server with chat completions alone lacks
_NOT_PASSED = frozenset(("connection", "transfer-encoding", "content-length"))


class Served(NamedTuple):
    """A response to a prompt. Tokens as the server reports them."""

    path: str
    input: int  # with those from the cache
    output: int
    cached: int
    tools: bool  # the request offered tools


def usage_of(body: bytes) -> tuple[int, int, int] | None:
    """Read input, output and cached tokens of a whole response or of a stream of one of the three APIs; None: it has
    none.
    """
    usage: dict[str, Any] = {}
    lines = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: {")] or [body]
    for event in map(json.loads, lines):
        holder = event.get("message") or event.get("response") or event
        usage |= holder.get("usage") or {}
    if "prompt_tokens" in usage:
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        return usage["prompt_tokens"], usage["completion_tokens"], cached
    if "cache_read_input_tokens" in usage:  # Messages leave cached tokens out of the input
        cached = usage["cache_read_input_tokens"]
        return usage["input_tokens"] + cached, usage["output_tokens"], cached
    if "input_tokens_details" in usage:
        return usage["input_tokens"], usage["output_tokens"], usage["input_tokens_details"]["cached_tokens"]
    return None


class Tap:
    """Relays every request to a server, and every response while it arrives. Paths in `lacks` are a 404."""

    def __init__(self, url: str, lacks: Collection[str] = ()) -> None:
        self.served: dict[str, Served] = {}  # by the ID that RouterDash gave the request
        self.refused: list[tuple[str, int]] = []  # paths of agents' requests that ended with an error, and its status
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(url.removeprefix("http://"), lacks))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _handler(self, target: str, lacks: Collection[str]) -> type[BaseHTTPRequestHandler]:
        tap = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def relay(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                if path in lacks:
                    self._not_found()
                    return
                with closing(http.client.HTTPConnection(target, timeout=600)) as connection:
                    connection.request(self.command, self.path, sent, dict(self.headers))
                    status, body = self._relay_response(connection.getresponse())
                if self.command == "POST":
                    tap.keep(self.headers["X-Request-ID"], path, b'"tools":' in sent, status, body)

            do_GET = do_POST = relay  # noqa: N815

            def _relay_response(self, response: http.client.HTTPResponse) -> tuple[int, bytes]:
                self.send_response(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in _NOT_PASSED:
                        self.send_header(name, value)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                body = b""
                while piece := response.read1(65536):
                    body += piece
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\n\r\n")
                return response.status, body

            def _not_found(self) -> None:
                body = b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}'
                self.send_response(404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def keep(self, request_id: str | None, path: str, tools: bool, status: int, body: bytes) -> None:
        if request_id is None:
            return  # it is RouterDash's own, to learn what the server can do
        usage = usage_of(body) if status == 200 else None
        if usage is None:
            self.refused.append((path, status))
        else:
            self.served[request_id] = Served(path, *usage, tools)


@contextmanager
def tapped(url: str, lacks: Collection[str] = ()) -> Iterator[Tap]:
    """Run a tap in front of a server until the end."""
    tap = Tap(url, lacks)
    thread = threading.Thread(target=tap.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield tap
    finally:
        tap.server.shutdown()
        thread.join()
        tap.server.server_close()
