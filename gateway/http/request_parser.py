"""Parser of the requests on one client's connection: httptools, with the checks of gateway.http.grammar.

httptools decides where requests and bodies begin and end. Request smuggling needs two servers that decide differently,
so requests that other servers may read differently raise Malformed.
"""

import logging
from typing import Protocol

import httptools

from gateway.http.exchange import RequestHead
from gateway.http.grammar import Malformed, check_first_line, check_headers, check_line, origin_form
from gateway.http.request_bounds import MAX_HEADER_LINES

log = logging.getLogger(__name__)

_HEAD_END = b"\r\n\r\n"
HEADER_OBJECT_BYTES = 128  # memory of a header beside its text


class RequestSink(Protocol):
    """The receiver of parsed requests; implemented by gateway.http.protocol."""

    def begin_request(self, method: bytes, target: bytes, head: RequestHead, length: int | None, version: str) -> None:
        """Receive a header block. `length` is its Content-Length."""

    def receive_body(self, body: bytes) -> None:
        """Receive a part of the body."""

    def end_request(self) -> None:
        """Note that the body is complete."""


class StopParsing(Exception):
    """Raised in a callback to stop the parser, because the rest of the bytes is ignored."""


class TooManyHeaderLines(Exception):
    """A header block with more than MAX_HEADER_LINES headers."""


class RequestParser:
    """Parser of one connection."""

    __slots__ = ("_first_line", "_headers", "_length", "_parser", "_raw", "_raw_at", "_resuming", "_sink", "_stopped",
                 "_url", "callbacks", "head", "in_head", "size_since_callback")  # fmt: skip

    def __init__(self, sink: RequestSink) -> None:
        self._sink: RequestSink | None = sink  # None after `close`
        self._parser = _new_parser(self)
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._length: int | None = None
        self._raw: bytes | bytearray = b""  # the bytes from the read with the first line on
        self._raw_at = 0  # where the next first line begins in them, as far as the parser has read
        self._first_line: tuple[bytes, bytes, str] = (b"", b"", "")  # the last one that was accepted
        self._stopped = False
        self._resuming = False
        self.in_head = False  # a header block is being received
        self.head: RequestHead | None = None  # of the last request: the next one with equal headers shares it
        self.callbacks = 0  # header blocks, parts of bodies and ends that were parsed
        self.size_since_callback = 0  # bytes received since then: of a header block, or of trailers

    def close(self) -> None:
        """Break the reference cycles. `feed` must not be called any more."""
        self._parser = None  # type: ignore[assignment]
        self._sink = None

    def stop(self) -> None:
        """Parse no further request. The running one may be completed."""
        self._stopped = True

    def feed(self, data: bytes | memoryview) -> int:
        """Parse received bytes. Return the offset at which an offer to upgrade ends, or -1 without one; later bytes
        are not parsed. Raises Malformed and TooManyHeaderLines.
        """
        callbacks = self.callbacks
        self.size_since_callback += len(data)
        self._store_raw(data)
        upgrade_at = -1
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            upgrade_at = upgrade.args[0]
        except httptools.HttpParserCallbackError as error:
            self._raise(error.__context__)
        except (httptools.HttpParserError, ValueError) as error:
            raise Malformed(str(error)) from None
        finally:
            if not self.in_head:
                self._raw = b""
        if self.callbacks != callbacks:
            self.size_since_callback = 0
        return upgrade_at

    def _raise(self, error: BaseException | None) -> None:
        """Raise the error of a callback, which httptools has wrapped."""
        if isinstance(error, StopParsing):
            return
        if isinstance(error, TooManyHeaderLines):
            self.in_head, self._headers = False, []
            raise TooManyHeaderLines
        if isinstance(error, Malformed):
            raise Malformed(str(error))
        log.error("a request could not be parsed because of an internal error; it is refused", exc_info=error)
        raise Malformed("internal error")

    def _store_raw(self, data: bytes | memoryview) -> None:
        """Store the bytes in which the first line of a request begins, continues or ends."""
        if not self.in_head:
            self._raw, self._raw_at = data if isinstance(data, bytes) else b"", 0
        elif isinstance(self._raw, bytearray):
            self._raw += data
        else:
            self._raw = bytearray(self._raw)
            self._raw += data

    def resume_body(self, framing: bytes) -> None:
        """Parse the following bytes as a body with this framing header. It is needed after an offer to upgrade, which
        is not accepted, but makes httptools leave the body unparsed.
        """
        self._parser = _new_parser(self)
        self._resuming = True
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
        self._resuming = False

    @property
    def keep_alive(self) -> bool:
        """Return True if the request allows another one on its connection."""
        return self._parser.should_keep_alive()

    @property
    def offers_upgrade(self) -> bool:
        return self._parser.should_upgrade()

    @property
    def head_memory(self) -> int:
        """Memory of an incomplete header block in bytes."""
        if not self.in_head:
            return 0
        parsed = len(self._url) + sum(len(name) + len(value) + HEADER_OBJECT_BYTES for name, value in self._headers)
        return max(parsed, self.size_since_callback)

    # Callbacks of httptools

    def on_message_begin(self) -> None:
        if self._resuming:
            return
        if self._stopped:
            raise StopParsing
        self.in_head = True
        self._url = b""
        self._headers = []
        self._length = None

    def on_url(self, url: bytes) -> None:
        if self.in_head:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_head:  # a trailer
            self._raw_at = self._line_end()
            return
        if len(name) == 14 and name.lower() == b"content-length":
            if self._length is not None:
                raise Malformed("two Content-Length headers")
            self._length = int(value)  # httptools accepts digits only
        else:
            self._headers.append((name, value))
            if len(self._headers) > MAX_HEADER_LINES:
                raise TooManyHeaderLines

    def on_headers_complete(self) -> None:
        if self._resuming:
            return
        self.in_head = False
        self.callbacks += 1
        parser, head, headers = self._parser, self.head, self._headers
        self._headers = []
        method, url, version = parser.get_method(), self._url, parser.get_http_version()
        line_end = check_first_line(self._raw, self._raw_at, method, url, version)
        self._raw_at = self._raw.find(_HEAD_END, line_end - 1) + len(_HEAD_END)
        if not url.startswith(b"/"):
            url, headers = origin_form(url, headers, version)
        first_line = method, url, version
        if first_line != self._first_line:
            check_line(*first_line)
            self._first_line = first_line
        if head is None or head.raw != headers:
            self.head = head = RequestHead(headers)
            check_headers(head.headers)
        if head.chunked and (self._length is not None or version == "1.0"):
            raise Malformed("a chunked body that has a Content-Length or is of HTTP/1.0")
        if self._sink is not None:
            self._sink.begin_request(method, url, head, self._length, version)

    def on_body(self, body: bytes) -> None:
        self.callbacks += 1
        self._raw_at += len(body)
        if self._sink is not None:
            self._sink.receive_body(body)

    def on_chunk_header(self) -> None:
        self._raw_at = self._line_end()

    def on_chunk_complete(self) -> None:
        self._raw_at = self._line_end()

    def _line_end(self) -> int:
        """Return the offset behind a line that the parser has read: the size of a chunk, its end, or a trailer."""
        return self._raw.find(b"\n", self._raw_at) + 1

    def on_message_complete(self) -> None:
        self.callbacks += 1
        if self._sink is not None:
            self._sink.end_request()


def _new_parser(callbacks: RequestParser) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(callbacks)
    # Pipelined requests behind one with `connection: close` are parsed, and then ignored: they are no parser error.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
