"""What the journal holds: one record for each request that ended. The only value that leaves a gateway.

Fields are only ever added at the end, with a default, so that old records stay readable.
"""

import os
import time
from collections.abc import Iterator
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
    error: str | None = None  # in words of ours
    at_us: int = 0  # from the request's arrival to the attempt's start
    reason: str = ""  # why this endpoint, one of gateway.balancer's words
    scores: tuple[tuple[str, int], ...] = ()  # endpoint and requests in flight, of those it was chosen from
    said: str | None = None  # the endpoint's own words on its error: only where bodies are kept


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
    error: str | None = None  # a sentence of ours; for REJECTED the reason's code
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


class _Series:
    """Ids of one millisecond: between what they have in common, a number each."""

    def __init__(self) -> None:
        self.random = Random(os.urandom(32))  # noqa: S311  # ids need not be secret, only unlike each other
        self.forget()

    def forget(self) -> None:
        self.millisecond = -1
        self.start = self.end = ""
        self.numbers: Iterator[str] = iter(())

    def begin(self, millisecond: int) -> str:
        """The first number. What is random is drawn anew, so that a millisecond may be begun as often as one likes."""
        self.millisecond = millisecond
        self.start = f"{millisecond >> 16 & 0xFFFF_FFFF:08x}-{millisecond & 0xFFFF:04x}-7"
        random = f"{self.random.getrandbits(60):015x}"
        self.end = f"-8{random[:3]}-{random[3:]}"
        self.numbers = iter(_NUMBERS)
        return next(self.numbers)

    def begin_anew(self) -> None:
        """In a forked process, which must not go on with its parent's."""
        self.random.seed(os.urandom(32))
        self.forget()


_NUMBERS = tuple(f"{number:03x}" for number in range(1 << 12))
_series = _Series()
os.register_at_fork(after_in_child=_series.begin_anew)


def uuid7(now_ns: int | None = None) -> str:
    """A time-ordered UUID (RFC 9562, version 7), hyphenated lower case. Those that a process makes within a millisecond
    are numbered, up to 4096, and sort as they were made (section 6.2, method 1); 60 of its bits are random.
    """
    millisecond = (time.time_ns() if now_ns is None else now_ns) // 1_000_000
    series = _series
    number = next(series.numbers, None) if millisecond == series.millisecond else None
    if number is None:
        number = series.begin(millisecond)
    return f"{series.start}{number}{series.end}"
