"""Records of the journal: one for each request that ended. They are the only values that leave a gateway.

Fields are only ever added at the end, with a default, so that old records stay readable.
"""

import os
import time
from collections.abc import Iterator
from random import Random

import msgspec

from gateway.base import causes

# How a request or an attempt ended. docs/concepts/counting.md defines where each is counted.
OK = "ok"  # a whole 2xx response
REFUSED = "refused"  # the upstream's own 4xx or 501, passed on: the client's fault; the endpoint is healthy
FAILED = "failed"  # 3xx, 408, 429, 5xx, no connection, timeout
TRUNCATED = "truncated"  # the response broke off after its first byte
CANCELLED = "cancelled"  # client disconnect
NO_ENDPOINT = "no_endpoint"  # endpoints have the model, but none of them is available
QUEUE = "queue"  # the queue was full, or the request reached the queue timeout
REJECTED = "rejected"  # our own 400, 401, 403, 404, 405, 413, 415, 429, 431, 508: never reached an endpoint

CONNECTION_REFUSED = causes.CONNECTION_REFUSED  # an attempt's error; has control check the endpoint at once
MODEL_UNKNOWN = causes.MODEL_UNKNOWN  # an attempt's error; has control read the endpoint's models again


class Work(msgspec.Struct, array_like=True, gc=False):
    """What an attempt asked of its endpoint, and what the endpoint did for others meanwhile. Routing learns from it.

    It is made when the attempt begins. Until it ends, `read_tokens` and `shared_us` are other counts.
    """

    prompt_tokens: int  # expected, before the attempt
    output_tokens: int  # expected
    prefix_tokens: int  # of the prompt that were expected in the endpoint's prefix cache
    prefix_age: int  # 0 to 3: how much the endpoint has read since it had that prefix (gateway.routing.adaptive)
    expected_us: int  # duration
    pending_tokens: int  # prompt tokens that other requests there still waited to have read, at its start
    read_tokens: int  # prompt tokens of others that were sent there while it ran
    shared_us: int  # integral of the requests in flight there over its duration, itself included
    was_idle: bool  # no other request was in flight at its start
    is_cold: bool = False  # it waited for the model to be loaded
    load_us: int = 0  # how long the load took that it caused; 0: it caused none, or none is known


class AttemptRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One attempt of a request at one endpoint."""

    endpoint_id: str
    outcome: str
    status: int  # status of the upstream's response; 0 without a response
    duration_us: int
    error: str | None = None  # in RouterDash's words
    at_us: int = 0  # from the request's arrival to the attempt's start
    reason: str = ""  # why this endpoint: one of the reasons in gateway.routing.balancer
    scores: tuple[tuple[str, int], ...] = ()  # endpoint and requests in flight of each candidate
    said: str | None = None  # the endpoint's own error message: only if bodies are stored
    costs: tuple[tuple[str, int], ...] = ()  # endpoint and cost in ms of up to eight candidates; adaptive routing only
    work: Work | None = None  # adaptive routing only
    connect_us: int | None = None  # for opening a connection; 0: an idle one was used; None: older records
    served: str | None = None  # the endpoint's own id of the model; None: the requested name, or an older record
    canonical: str | None = None  # canonical name of that model; None: it has none
    step: int = 0  # of the model name's steps, from 1; 0: the request asked for no model name


class RequestRecord(msgspec.Struct, frozen=True, array_like=True, tag="r", gc=False):
    """One request that ended: its outcome, latency, time to first token, tokens and attempts.

    Times in microseconds; `completed_us` since 1970 UTC.
    """

    id: str  # UUIDv7: its first 48 bits are milliseconds, so ids sort by time
    completed_us: int
    kind: str  # one of gateway.base.request_kinds
    model: str  # the requested name
    outcome: str
    status: int  # status of the response; 0 if the client disconnected before
    duration_us: int
    first_token_us: int | None = None  # time to first token, from the request's arrival; streams only
    attempts: tuple[AttemptRecord, ...] = ()  # the last one produced the response
    input_tokens: int | None = None
    output_tokens: int | None = None
    # The upstream reported no usage, or not all: output is counted from deltas, input as it was expected (None in
    # older records).
    estimated: bool = False
    streamed: bool = False
    api_key_id: str | None = None
    client_ip: str | None = None
    error: str | None = None  # RouterDash's message; for REJECTED the reason's code
    request_body: str | None = None
    response_body: str | None = None
    queue_us: int | None = None  # waited for a free slot; None: it did not have to wait
    request_id: str | None = None  # the client's own x-request-id
    cached_tokens: int | None = None  # of the input tokens, read from a prefix cache; None: not reported
    body_bytes: int = 0  # of the request
    conversation: str | None = None  # 8 bytes in hexadecimal; equal for the turns of one conversation
    queue_class: str | None = None  # BULK of gateway.base.queue_class; None: interactive
    cache_write_tokens: int | None = None  # of the input tokens, written to a prefix cache; None: not reported
    reasoning_tokens: int | None = None  # of the output tokens; None: not reported
    finish_reason: str | None = None  # as of chat completions: stop, length, tool_calls, content_filter; None: unknown
    left_steps: tuple[tuple[int, str], ...] = ()  # steps of the model name that were left or skipped, and why
    long_write_tokens: int | None = None  # of those written to a cache, for a long time; None: not reported
    service_tier: str | None = None  # that the response reported; None: the default one, or not reported
    images: int | None = None  # of the response
    audio_ms: int | None = None  # of the audio that was transcribed; None: not reported
    limit: str | None = None  # "key:requests": that refused the request (REJECTED), or for which it waited
    user_id: str | None = None  # owner of the API key, if a limit or a budget of that user counts the request
    reserved_tokens: int | None = None  # by a limit or a budget, until the request ended; None: nothing limits them
    epoch: int | None = None  # of the gateway's row, when the request was settled
    row: int | None = None  # number of the gateway's row in the spending file (gateway.ipc.counters.spending)
    budgets: int | None = None  # that counted it there: bits of gateway.limits.budget_bits
    count: int = 1  # of the refusals that this record stands for (REJECTED without an API key)

    @property
    def endpoint_id(self) -> str | None:
        """The endpoint of the response, or the last that failed. None for a request that ended in the queue."""
        return self.attempts[-1].endpoint_id if self.attempts and self.outcome != QUEUE else None


class Unrecorded(msgspec.Struct, frozen=True, array_like=True, tag="u", gc=False):
    """Number of requests that ended while the journal could not be written."""

    count: int


class SegmentHead(msgspec.Struct, frozen=True, array_like=True, tag="h", gc=False):
    """First entry of a segment: the database of its records, and their writer."""

    database_id: str
    writer: str = ""


Entry = RequestRecord | Unrecorded | SegmentHead
_pack = msgspec.msgpack.Encoder().encode
_encode_text = msgspec.json.Encoder().encode
decode_packed = msgspec.msgpack.Decoder(Entry).decode  # of an entry in MessagePack
_decode_text = msgspec.json.Decoder(Entry).decode


def encode(entry: Entry) -> bytes:
    """Return an entry in MessagePack; in JSON, if one of its numbers has more than 64 bits."""
    try:
        return _pack(entry)
    except OverflowError:
        return _encode_text(entry)


def decode(payload: bytes) -> Entry:
    """Decode an entry in MessagePack or JSON. Version 1 of the journal has JSON alone. Raises msgspec.DecodeError.

    Each is an array. JSON's opening bracket is a number in MessagePack.
    """
    entry: Entry = _decode_text(payload) if payload[:1] == b"[" else decode_packed(payload)
    return entry


class _Series:
    """Ids of one millisecond: they have a start and an end in common, and differ in a number."""

    def __init__(self) -> None:
        self.random = Random(os.urandom(32))  # noqa: S311  # ids need not be secret, only unique
        self.forget()

    def forget(self) -> None:
        self.millisecond = -1
        self.start = self.end = ""
        self.numbers: Iterator[str] = iter(())

    def begin(self, millisecond: int) -> str:
        """Return the first id's number in this millisecond.

        The random bits are drawn again, so that a millisecond may begin any number of times.
        """
        self.millisecond = millisecond
        time = f"{millisecond & 0xFFFF_FFFF_FFFF:012x}"
        random = f"{self.random.getrandbits(60) | 8 << 60:016x}"
        self.start = f"{time[:8]}-{time[8:]}-7"
        self.end = f"-{random[:4]}-{random[4:]}"
        self.numbers = iter(_NUMBERS)
        return next(self.numbers)

    def reset_in_child(self) -> None:
        """Draw a new seed in a forked process, which must not continue the ids of its parent."""
        self.random.seed(os.urandom(32))
        self.forget()


_NUMBERS = tuple(f"{number:03x}" for number in range(1 << 12))
_series = _Series()
os.register_at_fork(after_in_child=_series.reset_in_child)


def uuid7(now_ns: int | None = None) -> str:
    """Return a time-ordered UUID (RFC 9562, version 7), hyphenated, in lower case.

    The ids that a process creates within a millisecond are numbered, up to 4096, and sort in this order (section 6.2,
    method 1). 60 bits are random.
    """
    millisecond = (time.time_ns() if now_ns is None else now_ns) // 1_000_000
    series = _series
    number = next(series.numbers, None) if millisecond == series.millisecond else None
    if number is None:
        number = series.begin(millisecond)
    return f"{series.start}{number}{series.end}"
