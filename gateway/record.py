"""What the journal holds: one record for each request that ended. The only value that leaves a gateway.

Fields are only ever added at the end, with a default, so that old records stay readable.
"""

import os
import time
from functools import lru_cache
from random import Random

import msgspec

# How a request or an attempt ended. docs/figures.md says where each is counted.
OK = "ok"  # a whole 2xx or 3xx answer
REFUSED = "refused"  # the upstream's own 4xx or 501, passed on: the client's fault, the endpoint is fine
FAILED = "failed"  # 408, 429, 5xx, no connection, timeout
TRUNCATED = "truncated"  # the answer broke off after its first byte
CANCELLED = "cancelled"  # the client left
NO_ENDPOINT = "no_endpoint"  # the model is known, but nothing that has it can be asked
QUEUE = "queue"  # the queue was full, or the request waited in it for too long
REJECTED = "rejected"  # our own 400, 401, 403, 404, 405, 413, 415, 429, 431, 508: never reached an endpoint

CONNECTION_REFUSED = "connection refused"  # an attempt's error; has control look at the endpoint at once


class Attempt(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One try of a request on one endpoint."""

    endpoint_id: str
    outcome: str
    status: int  # what the upstream answered; 0 if it did not
    duration_us: int
    error: str | None = None
    at_us: int = 0  # from the request's arrival to the attempt's start
    reason: str = ""  # why this endpoint, one of gateway.balancer's words
    scores: tuple[tuple[str, int], ...] = ()  # endpoint and requests in flight, of those it was chosen from


class RequestRecord(msgspec.Struct, frozen=True, array_like=True, tag="r", gc=False):
    """One request that ended. Times in microseconds; `completed_us` since 1970 UTC."""

    id: str  # UUIDv7: its first 48 bits are milliseconds, so ids sort by time
    completed_us: int
    kind: str  # see gateway.kinds
    model: str  # the name the client asked for
    outcome: str
    status: int  # what the client was told; 0 if it left before
    duration_us: int
    first_token_us: int | None = None  # from the request's arrival; streams only
    attempts: tuple[Attempt, ...] = ()  # the last one made the answer
    input_tokens: int | None = None
    output_tokens: int | None = None
    estimated: bool = False  # tokens were counted from deltas, as the upstream told no usage
    streamed: bool = False
    api_key_id: str | None = None
    client_ip: str | None = None
    error: str | None = None  # a sentence; for REJECTED the reason's code
    request_body: str | None = None
    response_body: str | None = None
    queue_us: int | None = None  # waited for a free slot; None: it did not have to
    request_id: str | None = None  # the client's own x-request-id

    @property
    def endpoint_id(self) -> str | None:
        """The endpoint that made the answer, or the last that failed to; none for who gave up in the queue."""
        return self.attempts[-1].endpoint_id if self.attempts and self.outcome != QUEUE else None


class Unrecorded(msgspec.Struct, frozen=True, array_like=True, tag="u", gc=False):
    """So many requests ended while the journal could not be written."""

    count: int


class SegmentHead(msgspec.Struct, frozen=True, array_like=True, tag="h", gc=False):
    """First entry of a segment: which database its records belong to, and who wrote them."""

    database_id: str
    writer: str = ""


Entry = RequestRecord | Unrecorded | SegmentHead
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Entry).decode


_random = Random(os.urandom(32))  # noqa: S311  # ids need not be secret, only unlike each other
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def uuid7(now_ns: int | None = None) -> str:
    """A time-ordered UUID (RFC 9562, version 7), hyphenated lower case. 72 of its bits are random."""
    random = f"{_random.getrandbits(72):018x}"
    prefix = _prefix((time.time_ns() if now_ns is None else now_ns) // 1_000_000)
    return f"{prefix}{random[:3]}-8{random[3:6]}-{random[6:]}"


@lru_cache(maxsize=2)
def _prefix(milliseconds: int) -> str:
    return f"{milliseconds >> 16 & 0xFFFF_FFFF:08x}-{milliseconds & 0xFFFF:04x}-7"
