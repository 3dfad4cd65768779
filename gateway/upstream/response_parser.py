"""Parser of the responses on one connection: collects header block and body within their bounds, by httptools."""

from io import BytesIO

import httptools

from gateway.base import causes
from gateway.base.bounds import UPSTREAM_HEAD, UPSTREAM_RESPONSE, Bound
from gateway.upstream import response_head
from gateway.upstream.errors import BROKEN, UpstreamError
from gateway.upstream.response_head import NO_RESPONSE, ResponseHead

MAX_HEAD_BYTES = 256 << 10
MAX_HEADER_LINES = 1000
SMALL_READ_BYTES = 4 << 10
MAX_PARTS = 16  # parts of a body from one larger read that are stored one by one
_END_OF_EVENT_AND_CHUNK = b"\n\n\r\n"
GROWING_BYTES = 1 << 20  # a larger body that is read as a whole is collected in one buffer


class ResponseParser:
    """Parser of one connection. Before each request, its `head` and `complete` must be reset."""

    __slots__ = ("_buffer", "_headers", "_interim", "_parser", "_size_without_body", "body", "collecting",
                 "complete", "error", "head", "keep_alive", "more", "more_bytes")  # fmt: skip

    def __init__(self) -> None:
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._interim = False  # the message is an interim response (1xx)
        self._size_without_body = 0  # bytes since the last part of a body: of a header block, or of trailers
        self._buffer: BytesIO | None = None  # collects a large body that is read as a whole, with `body`
        self.head = NO_RESPONSE  # until the header block is complete
        self.complete = False  # the response is complete
        self.body = b""  # the first part of the body that was not yet taken
        self.more: list[bytes] = []  # later parts
        self.more_bytes = 0  # of the parts after `body`, including those that were moved to the buffer
        self.keep_alive = True  # the server allows another request on the connection
        self.collecting = False  # the body is read as a whole
        self.error: UpstreamError | None = None

    def close(self) -> None:
        """Break the reference cycle with the httptools parser. `feed` must not be called any more."""
        self._parser = None
        self.keep_alive = False

    def feed(self, data: bytes, size: int) -> None:
        """Parse `size` received bytes. `error` is set if they are no proper response, or exceed a bound."""
        assert self._parser is not None
        self._size_without_body += size
        try:
            if size > SMALL_READ_BYTES:
                self._feed_large(data)
            else:
                self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(causes.NOT_HTTP.format(http_detail=error))
        if self._size_without_body > MAX_HEAD_BYTES:
            self._fail(causes.ENDLESS_HEAD, UPSTREAM_HEAD)

    def _feed_large(self, data: bytes) -> None:
        """Join the parts of the body from this read if they are many: a server may send byte by byte."""
        assert self._parser is not None
        before = len(self.more)
        try:
            self._parser.feed_data(data)
        finally:
            if len(self.more) > before + MAX_PARTS:
                self.more[before:] = [b"".join(self.more[before:])]

    def ends_between_chunks(self, data: bytes) -> bool:
        """Return True if `data`, which was just parsed, ends with a chunk, and that with an empty line.

        It must be called before the body is taken. False says nothing, and True is certain: if the last part of the
        body were not the end of its chunk, it would reach to the end of `data`, and end with CR LF as that does. If
        anything but the CR LF of the chunk followed the part, `data` would not have LF LF before its CR LF.
        """
        if data[-4:] != _END_OF_EVENT_AND_CHUNK:
            return False
        last = self.more[-1] if self.more else self.body
        return last[-2:] == b"\n\n"

    @property
    def size(self) -> int:
        """Bytes of the body that were received and not yet taken."""
        return len(self.body) + self.more_bytes

    def take_body(self) -> bytes:
        """Return the received part of the body, and release it."""
        body, self.body = self.body, b""
        if self.more_bytes:
            if (buffer := self._buffer) is None:
                body = b"".join((body, *self.more))
            else:
                buffer.writelines(self.more)
                body = buffer.getvalue()  # without a copy
                self._buffer = None
            self.more.clear()
            self.more_bytes = 0
        return body

    def _fail(self, message: str, bound: Bound | None = None) -> None:
        if self.error is None:
            self.error = UpstreamError(BROKEN, message, bound=bound)

    # Callbacks of httptools

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("bytes after the response")
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is NO_RESPONSE:  # else it is a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        if len(self._headers) > MAX_HEADER_LINES:
            self._fail(causes.MANY_HEADER_LINES.format(most=MAX_HEADER_LINES), UPSTREAM_HEAD)
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._interim = True
            return
        self.head = ResponseHead(status, self._headers)
        self._size_without_body = 0

    def on_body(self, body: bytes) -> None:
        self._size_without_body = 0
        if self.body:
            self._add(body)
        else:
            self.body = body

    def _add(self, body: bytes) -> None:
        self.more.append(body)
        self.more_bytes += len(body)
        if self.collecting and self.size > GROWING_BYTES:
            self._collect()

    def _collect(self) -> None:
        """Move the parts of a large body into one growing buffer: many parts would leave holes in the heap."""
        if self.size > response_head.MAX_BODY_BYTES:
            self._fail(causes.LARGE_RESPONSE.format(most=response_head.MAX_BODY_BYTES >> 20), UPSTREAM_RESPONSE)
        buffer = self._buffer
        if buffer is None:
            buffer = self._buffer = BytesIO()
            buffer.write(self.body)
        buffer.writelines(self.more)
        self.more.clear()

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        assert self._parser is not None
        self.keep_alive = self._parser.should_keep_alive()
        self.complete = True
        self._size_without_body = 0
