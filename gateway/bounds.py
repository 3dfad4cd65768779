"""Bounds on what one client or one endpoint may cost: one table of them all, and the count of how often each was hit.

A bound has a place of its own in the live page, so its count survives restarts and is the sum over all processes. Where
a bound is enforced, `Hits.hit` counts it; a Refusal that names its bound is counted by the gateway that sends it. The
texts are those of docs/limits.md, which a test compares.
"""

import threading
import time
from dataclasses import dataclass

from gateway.livepage import MAX_BOUNDS, MAX_WORKERS, LivePage

CONTROL = MAX_WORKERS  # control's row among those of the workers
RECENT_SECONDS = 60  # how long after its last hit a bound needs somebody's attention


def _(text: str) -> str:
    """Mark a text for translation; pages translate it where they show it."""
    return text


@dataclass(frozen=True, slots=True)
class Bound:
    """One bound. `number` is its place in the live page: unique, below MAX_BOUNDS, never used again for another.

    `title` names what is bounded, for people; `limit` says how much is allowed, and by which setting or constant;
    `answer` says what happens to what exceeds it.
    """

    number: int
    name: str
    title: str
    limit: str
    answer: str


# 1-9: stored responses and upstream paths
ENDPOINT_ERROR = Bound(
    1,
    "endpoint_error",
    _("An endpoint's error message"),
    "256 KiB (`MAX_ERROR_BYTES` in `gateway/inference.py`)",
    "The client gets the status and the first 500 bytes as an error in JSON.",
)
RESPONSE_OBJECTS = Bound(
    2,
    "response_objects",
    _("Objects in the input of a Responses request whose items have ids"),
    "50,000 (`MAX_OBJECTS` in `gateway/responses.py`)",
    "400 `invalid_request`.",
)

# 10-19: work for a request's or a response's content
JSON_VALUES = Bound(
    10,
    "json_values",
    _("Strings, arrays and objects in a large JSON body"),
    "500,000 in a body of more than 2 MiB (`MAX_VALUES` in `gateway/skim.py`)",
    "413 `request_too_large`.",
)
JSON_DEPTH = Bound(
    11,
    "json_depth",
    _("Depth of arrays and objects in a JSON body"),
    "512 levels in a body of more than 128 KiB (`MAX_DEPTH` in `gateway/skim.py`), about 900 in a smaller one",
    "400 `invalid_request`.",
)
JSON_NAMES = Bound(
    12,
    "json_names",
    _("Names at the top level of a large JSON body"),
    "1,000 in a body of more than 2 MiB, or of more than 50,000 names in all (`MAX_NAMES` in `gateway/skim.py`)",
    "413 `request_too_large`.",
)
JSON_FIELD = Bound(
    13,
    "json_field",
    _("Fields of a large JSON body that RouterDash reads itself"),
    "16 KiB for each of `model`, `stream`, `stream_options` (`MAX_FIELD_BYTES` in `gateway/openai.py`)",
    "413 `request_too_large`.",
)
TRANSLATED_REQUEST = Bound(
    15,
    "translated_request",
    _("A Messages request that is translated to chat completions"),
    "200,000 strings, arrays and objects in a body of more than 512 KiB; 6,000,000 commas, escapes and bytes of "
    "characters that are not ASCII (`MAX_VALUES`, `MAX_COSTLY_BYTES` in `gateway/anthropic_request.py`)",
    "413 `request_too_large`.",
)
TRANSLATED_RESPONSE = Bound(
    16,
    "translated_response",
    _("A whole response that is translated from chat completions to Messages"),
    "4 MiB (`MAX_TRANSLATED_BYTES` in `gateway/messages.py`), 200,000 values and 128 tool calls (`MAX_VALUES`, "
    "`MAX_CALLS` in `gateway/anthropic_answer.py`)",
    "The attempt fails: another endpoint is asked, or the client gets 502 `upstream_error`.",
)
UPSTREAM_RESPONSE = Bound(
    17,
    "upstream_response",
    _("A response of an endpoint that is read whole"),
    "64 MiB (`MAX_BODY_BYTES` in `gateway/upstream.py`)",
    "One that announces a greater length is passed on as it comes, and its tokens are not counted; with another, and "
    "with one to a Messages request, the attempt fails: another endpoint is asked, or the client gets 502 "
    "`upstream_error`.",
)
UPSTREAM_HEAD = Bound(
    18,
    "upstream_head",
    _("The header block of an endpoint's response"),
    "256 KiB and 1,000 lines (`MAX_HEAD_BYTES`, `MAX_HEADER_LINES` in `gateway/upstream.py`)",
    "The attempt fails: another endpoint is asked, or the client gets 502 `upstream_error`.",
)
UPSTREAM_EVENT = Bound(
    14,
    "upstream_event",
    _("One event of an endpoint's stream"),
    "16 MiB, or 4 MiB where it is translated to Anthropic's Messages; 100,000 values and 10,000 lines in an event of "
    "more than 64 KiB (`MAX_EVENT_BYTES`, `MAX_EVENT_VALUES`, `MAX_EVENT_LINES` in `gateway/relay.py`)",
    "The attempt fails: another endpoint is asked, or the client's stream ends with `upstream_error`.",
)

# 20-39: connections, buffers, the queue
CONNECTIONS = Bound(
    20,
    "connections",
    _("Connections of one address to a gateway process, from the moment they are accepted"),
    "1,000 (`ROUTERDASH_MAX_CONNECTIONS_PER_CLIENT`); IPv6 addresses of one /64 count as one, trusted proxies do not "
    "count",
    "503 in plain text; over TLS the connection is closed.",
)
HANDSHAKES = Bound(
    21,
    "handshakes",
    _("Time for a TLS handshake"),
    "8 s, of which 8 of one address are under way at a time (`HANDSHAKE_SECONDS` in `gateway/acceptor.py`)",
    "The connection is closed.",
)
DESCRIPTORS = Bound(
    22,
    "descriptors",
    _("Open files and connections of a gateway process"),
    "the hard limit of the system (`ulimit -Hn`), at most 65,536",
    "New connections wait in the system's queue until others are closed.",
)
BUFFERS = Bound(
    23,
    "buffers",
    _("Memory that a gateway process keeps for unfinished requests and unsent responses"),
    "512 MiB (`ROUTERDASH_MAX_BUFFERED_MB`)",
    "A request waits for room for up to 30 s, then 503 `buffers_full` with `Retry-After`; a response that its client "
    "does not read is broken off.",
)
CLIENT_BUFFERS = Bound(
    24,
    "client_buffers",
    _("Memory for unfinished requests and unsent responses of one API key or address"),
    "half of `ROUTERDASH_MAX_BUFFERED_MB`; for pages an eighth",
    "As above.",
)
BODY = Bound(
    25,
    "body",
    _("The body of a request to /v1"),
    "32 MiB (`MAX_BODY_BYTES` in `gateway/protocol.py`)",
    "413 `request_too_large`; the connection is closed.",
)
STRANGER_BODY = Bound(
    26,
    "stranger_body",
    _("The body of a request without a session or an API key, or for a form that needs no more"),
    "64 KiB (`SMALL_BODY_BYTES` in `gateway/protocol.py`)",
    "413 `request_too_large`; the connection is closed.",
)
STREAMED_BODY = Bound(
    27,
    "streamed_body",
    _("The body of a form with files to /v1"),
    "256 MiB (`MAX_STREAMED_BYTES` in `gateway/protocol.py`), of which 256 KiB are buffered",
    "413 `request_too_large`; the connection is closed.",
)
HEADER_BYTES = Bound(
    28,
    "header_bytes",
    _("The header block of a request"),
    "64 KiB (`MAX_HEAD_BYTES` in `gateway/protocol.py`)",
    "431 `request_too_large`, or 400 for a block without end; the connection is closed.",
)
HEADER_LINES = Bound(
    29,
    "header_lines",
    _("Lines of a request's header block"),
    "100 (`MAX_HEADER_LINES` in `gateway/protocol.py`)",
    "431 `request_too_large`; the connection is closed.",
)
PIPELINED = Bound(
    30,
    "pipelined",
    _("Requests that wait on one connection"),
    "16 (`MAX_PIPELINED` in `gateway/protocol.py`)",
    "429 `too_many_requests`; the connection is closed.",
)
SLOW_HEADER = Bound(
    31,
    "slow_header",
    _("Time for the header block of a request"),
    "60 s (`RECEIVE_SECONDS` in `gateway/protocol.py`)",
    "408 in plain text; the connection is closed.",
)
SLOW_BODY = Bound(
    32,
    "slow_body",
    _("Slowness of a body that is received"),
    "1 KiB/s over the last 30 s (`SLOWEST` in `gateway/protocol.py`)",
    "408 in plain text; the connection is closed.",
)
LONG_BODY = Bound(
    33,
    "long_body",
    _("Time in which a body must be received"),
    "10 minutes, for a form with files an hour (`MAX_BODY_SECONDS` in `gateway/protocol.py`)",
    "408 in plain text; the connection is closed.",
)
SLOW_READER = Bound(
    34,
    "slow_reader",
    _("Slowness of a client that takes a response"),
    "1 KiB/s over 120 s while bytes wait for it (`SEND_SECONDS` in `gateway/protocol.py`)",
    "The connection is broken off.",
)
CLIENT_STEPS = Bound(
    35,
    "client_steps",
    _("The part of a turn of the event loop that one address has"),
    "64 reads or requests (`MOST_STEPS` in `gateway/shares.py`)",
    "Its connections are read more slowly, a few in each turn; counted for every 50 turns.",
)
QUEUE = Bound(
    36,
    "queue",
    _("Requests that wait for an endpoint"),
    "100 (`ROUTERDASH_QUEUE_MAX`)",
    "429 `queue_full` with `Retry-After`.",
)
QUEUE_OF_KEY = Bound(
    37,
    "queue_of_key",
    _("Requests of one API key that wait for an endpoint"),
    "half of `ROUTERDASH_QUEUE_MAX` and one more, unless it is the only key",
    "429 `queue_full` with `Retry-After`.",
)
TARGET_BYTES = Bound(
    38,
    "target_bytes",
    _("Path and query of a request"),
    "8 KiB (`MAX_TARGET_BYTES` in `gateway/protocol.py`)",
    "414 `request_too_large`; the connection is closed.",
)
FORWARDED_REQUESTS = Bound(
    80,
    "forwarded_requests",
    _("Requests of one address for pages and the JSON API that control works on"),
    "64 at a time and gateway process, besides streams of events (`FORWARDED_AT_ONCE` in `gateway/forward.py`)",
    "The others of this address wait.",
)
FORWARDED_BODY = Bound(
    39,
    "forwarded_body",
    _("The body of a request for a page or the JSON API"),
    "8 MiB (`MAX_FORWARDED_BODY` in `gateway/handler.py`)",
    "413 `request_too_large`; the connection is closed.",
)

# 40-49: sessions and API keys
SESSIONS_PER_USER = Bound(
    40,
    "sessions_per_user",
    _("Sessions of one user"),
    "50 (`MOST_PER_USER` in `access/sessions.py`)",
    "The login succeeds; the session of this user that was used longest ago ends.",
)
KEYS_PER_USER = Bound(
    41,
    "keys_per_user",
    _("API keys of one user"),
    "`ROUTERDASH_MAX_KEYS_PER_USER`, 50",
    "400 on `/api/me/api-keys`, an error on the page and in the admin; the keys there are go on.",
)

# 50-59: databases

# 60-79: endpoints, event streams, exports
EVENT_STREAMS = Bound(
    60,
    "event_streams",
    _("Live pages that one user has open at once"),
    "20 (`MOST_STREAMS` in `metrics/streams.py`)",
    "429 with `Retry-After`; such a page asks every few seconds instead.",
)
USER_EXPORTS = Bound(
    61,
    "user_exports",
    _("Exports of the history that one user runs at once"),
    "3 (`MOST_OF_ONE` in `metrics/downloads.py`)",
    "429 with `Retry-After`.",
)
EXPORTS = Bound(
    62,
    "exports",
    _("Exports of the history that run at once"),
    "10 (`MOST_AT_ONCE` in `metrics/downloads.py`)",
    "429 with `Retry-After`.",
)
ENDPOINT_MODELS = Bound(
    63,
    "endpoint_models",
    _("Models that one endpoint lists"),
    "2,000 (`MAX_MODELS` in `endpoints/models.py`), with names of 256 characters",
    "The others are left out; `last_error` of the endpoint says so.",
)


BOUNDS = tuple(sorted((it for it in globals().values() if isinstance(it, Bound)), key=lambda it: it.number))
BY_NAME = {bound.name: bound for bound in BOUNDS}


class Hits:
    """Counts hits in the live page, in the row of one process. Safe to be used by several threads."""

    def __init__(self, page: LivePage | None = None, writer: int = CONTROL) -> None:
        """`writer`: the number of a gateway worker, or CONTROL. Without a page nothing is counted."""
        self._page = page
        self._writer = writer
        self._lock = threading.Lock()

    def hit(self, bound: Bound) -> None:
        """Count one request, connection or answer that exceeds the bound."""
        if self._page is not None:
            with self._lock:
                self._page.count_hit(self._writer, bound.number, int(time.time()), RECENT_SECONDS)

    def totals(self) -> dict[str, int]:
        """Hits of every bound that was ever hit, by its name, over all processes."""
        if self._page is None:
            return {}
        counts = ((bound.name, self._page.hits(bound.number)) for bound in BOUNDS)
        return {name: count for name, count in counts if count}

    def recent(self, now: float) -> dict[str, int]:
        """Bounds that were hit within the last minute, each with the second (since 1970) at which that began."""
        if self._page is None:
            return {}
        spans = ((bound.name, self._page.hit_between(bound.number, int(now) - RECENT_SECONDS)) for bound in BOUNDS)
        return {name: since for name, (since, last) in spans if last}


assert len(BY_NAME) == len(BOUNDS) == len({bound.number for bound in BOUNDS})
assert all(0 < bound.number < MAX_BOUNDS for bound in BOUNDS)
