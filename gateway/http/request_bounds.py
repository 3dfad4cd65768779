"""Bounds of the size of a request, and the refusals of requests that exceed them."""

from gateway.base import bounds
from gateway.base.bounds import Bound
from gateway.base.errors import BUFFERS_FULL, REQUEST_TOO_LARGE, TOO_MANY_REQUESTS, Refusal
from gateway.http.admission import Admission
from gateway.http.control_proxy import MAX_FORWARDED_BODY
from gateway.http.exchange import Exchange

MAX_BODY_BYTES = 32 << 20
MAX_STREAMED_BYTES = 256 << 20  # of a body that is passed on while it is received
MAX_HEAD_BYTES = 64 << 10
MAX_HEADER_BYTES = 16 << 10  # of one line
MAX_HEADER_LINES = 100
MAX_TARGET_BYTES = 8 << 10  # path and query
MAX_PIPELINED = 16
SMALL_BODY_BYTES = 64 << 10
# Forms that people send before they log in, or that are small in any case.
SMALL_PATHS = frozenset((b"/login", b"/logout", b"/account/theme", b"/account/password", b"/i18n/setlang/"))


def body_bound(exchange: Exchange, admission: Admission) -> tuple[int, Bound]:
    """Return the maximum size of the body in bytes, and the bound that sets it."""
    if exchange.reader:
        return MAX_STREAMED_BYTES, bounds.STREAMED_BODY
    path = exchange.line.path
    if path.startswith((b"/v1/", b"/ollama/")):
        return MAX_BODY_BYTES, bounds.BODY
    if path in SMALL_PATHS or not admission.may_send_large_body(exchange):
        return SMALL_BODY_BYTES, bounds.STRANGER_BODY
    return MAX_FORWARDED_BODY, bounds.FORWARDED_BODY


def check_body(exchange: Exchange, size: int, admission: Admission) -> Refusal | None:
    """Return the refusal (413) of a body of `size` bytes, if it is too large."""
    if size <= SMALL_BODY_BYTES:
        return None
    maximum, bound = body_bound(exchange, admission)
    if size <= maximum:
        return None
    text = f"{maximum >> 20} MiB" if maximum >> 20 else f"{maximum >> 10} KiB"
    hint = "; log in, or send an API key, to send more" if bound is bounds.STRANGER_BODY else ""
    return Refusal(413, REQUEST_TOO_LARGE, f"The body has more than {text}{hint}.", bound=bound)


def check_head(exchange: Exchange, size: int) -> Refusal | None:
    """Return the refusal (431 or 414) of a header block, one of its lines, or a target that is too large. `size`: most
    bytes that the header block may have; it is measured only if this is large.
    """
    if size > MAX_HEAD_BYTES and head_size(exchange) > MAX_HEAD_BYTES:
        message = f"The request's header block has more than {MAX_HEAD_BYTES >> 10} KiB."
        return Refusal(431, REQUEST_TOO_LARGE, message, bound=bounds.HEADER_BYTES)
    if size > MAX_HEADER_BYTES:
        for name, value in exchange.head.headers:
            if len(value) > MAX_HEADER_BYTES:
                message = f"The request's header {name.decode('latin-1')[:64]!r} has more than "
                message += f"{MAX_HEADER_BYTES >> 10} KiB."
                return Refusal(431, REQUEST_TOO_LARGE, message, bound=bounds.HEADER_LINE)
    if len(exchange.line.target) > MAX_TARGET_BYTES:
        message = f"The request's target has more than {MAX_TARGET_BYTES >> 10} KiB."
        return Refusal(414, REQUEST_TOO_LARGE, message, bound=bounds.TARGET_BYTES)
    return None


def too_many_waiting() -> Refusal:
    """Return the refusal (429) of a request behind too many pipelined ones."""
    return Refusal(429, TOO_MANY_REQUESTS, "Too many requests wait on this connection.", bound=bounds.PIPELINED)


def no_buffer_space(bound: Bound | None) -> Refusal:
    """Return the refusal (503) of a request for which the buffers have no room."""
    message = "The buffers for requests and responses are full. Try again shortly."
    return Refusal(503, BUFFERS_FULL, message, headers=((b"retry-after", b"2"),), bound=bound)


def head_size(exchange: Exchange) -> int:
    """Return the size of target and headers in bytes."""
    return len(exchange.line.target) + sum(len(name) + len(value) for name, value in exchange.head.headers)


def framing_header(exchange: Exchange) -> bytes:
    """Return the header that frames the body; empty without a body."""
    if b"transfer-encoding" in exchange.head.fields:
        return b"transfer-encoding: chunked"
    return b"content-length: %d" % exchange.length if exchange.length else b""
