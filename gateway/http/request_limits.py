"""Limits of the size of a request, and the refusals of requests that exceed them."""

from gateway.base import limits
from gateway.base.errors import BUFFERS_FULL, REQUEST_TOO_LARGE, TOO_MANY_REQUESTS, Refusal
from gateway.base.limits import Limit
from gateway.http.admission import Admission
from gateway.http.control_proxy import MAX_FORWARDED_BODY
from gateway.http.exchange import Exchange

MAX_BODY_BYTES = 32 << 20
MAX_STREAMED_BYTES = 256 << 20  # of a body that is passed on while it is received
MAX_HEAD_BYTES = 64 << 10
MAX_HEADER_LINES = 100
MAX_TARGET_BYTES = 8 << 10  # path and query
MAX_PIPELINED = 16
SMALL_BODY_BYTES = 64 << 10
# Forms that people send before they log in, or that are small in any case.
SMALL_PATHS = frozenset((b"/login", b"/logout", b"/account/theme", b"/account/password", b"/i18n/setlang/"))


def body_limit(exchange: Exchange, admission: Admission) -> tuple[int, Limit]:
    """Return the maximum size of the body in bytes, and the limit that sets it."""
    if exchange.reader:
        return MAX_STREAMED_BYTES, limits.STREAMED_BODY
    path = exchange.line.path
    if path.startswith((b"/v1/", b"/ollama/")):
        return MAX_BODY_BYTES, limits.BODY
    if path in SMALL_PATHS or not admission.may_send_large_body(exchange):
        return SMALL_BODY_BYTES, limits.STRANGER_BODY
    return MAX_FORWARDED_BODY, limits.FORWARDED_BODY


def check_body(exchange: Exchange, size: int, admission: Admission) -> Refusal | None:
    """Return the refusal (413) of a body of `size` bytes, if it is too large."""
    if size <= SMALL_BODY_BYTES:
        return None
    maximum, limit = body_limit(exchange, admission)
    if size <= maximum:
        return None
    text = f"{maximum >> 20} MiB" if maximum >> 20 else f"{maximum >> 10} KiB"
    hint = "; log in, or send an API key, to send more" if limit is limits.STRANGER_BODY else ""
    return Refusal(413, REQUEST_TOO_LARGE, f"The body has more than {text}{hint}.", limit=limit)


def check_head(exchange: Exchange, *, large: bool) -> Refusal | None:
    """Return the refusal (431 or 414) of a header block or a target that is too large. A header block is measured only
    if it may be `large`.
    """
    if large and head_size(exchange) > MAX_HEAD_BYTES:
        message = f"The request's header block has more than {MAX_HEAD_BYTES >> 10} KiB."
        return Refusal(431, REQUEST_TOO_LARGE, message, limit=limits.HEADER_BYTES)
    if len(exchange.line.target) > MAX_TARGET_BYTES:
        message = f"The request's target has more than {MAX_TARGET_BYTES >> 10} KiB."
        return Refusal(414, REQUEST_TOO_LARGE, message, limit=limits.TARGET_BYTES)
    return None


def too_many_waiting() -> Refusal:
    """Return the refusal (429) of a request behind too many pipelined ones."""
    return Refusal(429, TOO_MANY_REQUESTS, "Too many requests wait on this connection.", limit=limits.PIPELINED)


def no_buffer_space(limit: Limit | None) -> Refusal:
    """Return the refusal (503) of a request for which the buffers have no room."""
    message = "The buffers for requests and responses are full. Try again shortly."
    return Refusal(503, BUFFERS_FULL, message, headers=((b"retry-after", b"2"),), limit=limit)


def head_size(exchange: Exchange) -> int:
    """Return the size of target and headers in bytes."""
    return len(exchange.line.target) + sum(len(name) + len(value) for name, value in exchange.head.headers)


def framing_header(exchange: Exchange) -> bytes:
    """Return the header that frames the body; empty without a body."""
    if b"transfer-encoding" in exchange.head.fields:
        return b"transfer-encoding: chunked"
    return b"content-length: %d" % exchange.length if exchange.length else b""
