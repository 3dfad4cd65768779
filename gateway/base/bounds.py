"""Bounds of the resources that one client or one endpoint may use: the table of all of them.

A bound has a fixed place in the live page, so that its count of hits survives restarts (gateway.ipc.bound_hits). The
code that enforces a bound counts the hit; a Refusal that names its bound is counted by the gateway that sends it. The
texts are those of docs/reference/bounds.md, which a test compares.
"""

from dataclasses import dataclass

MAX_BOUNDS = 128  # places in the live page


def _(text: str) -> str:
    """Mark a text for translation; pages translate it where they show it."""
    return text


@dataclass(frozen=True, slots=True)
class Bound:
    """One bound. `number` is its place in the live page: unique, below MAX_BOUNDS, never reused for another bound.

    `title` names the bounded resource, for pages. `allowed` states the largest value, and the setting or constant that
    defines it. `consequence` states the effect of exceeding it.
    """

    number: int
    name: str
    title: str
    allowed: str
    consequence: str


# 1-9: stored responses and upstream paths
ENDPOINT_ERROR = Bound(
    1,
    "endpoint_error",
    _("Error message of an endpoint"),
    "256 KiB (`MAX_ERROR_BYTES` in `gateway/inference/failures/error_bodies.py`)",
    "The client gets the status and the first 500 bytes as an error in JSON.",
)
RESPONSE_OBJECTS = Bound(
    2,
    "response_objects",
    _("Objects in the input of a Responses request that contains item ids"),
    "50,000 (`MAX_OBJECTS` in `gateway/inference/stored_ids.py`)",
    "400 `invalid_request`.",
)

# 10-19: work for a request's or a response's content
JSON_VALUES = Bound(
    10,
    "json_values",
    _("Strings, arrays and objects in a large JSON body"),
    "500,000 in a body of more than 2 MiB (`MAX_VALUES` in `gateway/dialects/json_outline.py`)",
    "413 `request_too_large`.",
)
JSON_DEPTH = Bound(
    11,
    "json_depth",
    _("Nesting depth of a JSON body"),
    "512 levels in a body of more than 128 KiB (`MAX_DEPTH` in `gateway/dialects/json_outline.py`), about 900 in a "
    "smaller one",
    "400 `invalid_request`.",
)
JSON_NAMES = Bound(
    12,
    "json_names",
    _("Top-level names of a large JSON body"),
    "1,000 in a body of more than 2 MiB, or of more than 50,000 names and with more than 250 KB outside of `messages`, "
    "`input`, `prompt` and `tools` (`MAX_NAMES` in `gateway/dialects/json_outline.py`); as many of them that are there "
    "again (`MAX_REPEATED`)",
    "413 `request_too_large`.",
)
JSON_FIELD = Bound(
    13,
    "json_field",
    _("Fields of a large JSON body that RouterDash parses itself"),
    "16 KiB for each of `model`, `stream`, `stream_options` (`MAX_FIELD_BYTES` in `gateway/dialects/json_text.py`)",
    "413 `request_too_large`.",
)
TRANSLATED_REQUEST = Bound(
    15,
    "translated_request",
    _("Request translated between Messages and chat completions"),
    "200,000 strings, arrays and objects in a body of more than 512 KiB; 6,000,000 commas, escapes and bytes of "
    "characters that are not ASCII (`MAX_VALUES`, `MAX_COSTLY_BYTES` in `gateway/dialects/chat/bodies.py`)",
    "413 `request_too_large`.",
)
TRANSLATED_RESPONSE = Bound(
    16,
    "translated_response",
    _("Complete response translated between Messages and chat completions"),
    "4 MiB (`MAX_TRANSLATED_BYTES` in `gateway/inference/hop.py`), 200,000 values, 128 tool calls and 1,000 "
    "blocks (`MAX_VALUES`, `MAX_CALLS` in `gateway/dialects/chat/completions.py`, `MAX_BLOCKS` in "
    "`gateway/dialects/anthropic/chat_responses.py`)",
    "The attempt fails: another endpoint is tried, or the client gets 502 `upstream_error`.",
)
UPSTREAM_RESPONSE = Bound(
    17,
    "upstream_response",
    _("Buffered response of an endpoint"),
    "64 MiB (`MAX_BODY_BYTES` in `gateway/upstream/response_head.py`)",
    "One that announces a greater length is passed on as it comes, and its tokens are read in its last 32 KiB; with "
    "another, and with one to a Messages request, the attempt fails: another endpoint is tried, or the client gets "
    "502 `upstream_error`.",
)
UPSTREAM_HEAD = Bound(
    18,
    "upstream_head",
    _("Header block of an endpoint's response"),
    "256 KiB and 1,000 lines (`MAX_HEAD_BYTES`, `MAX_HEADER_LINES` in `gateway/upstream/response_parser.py`)",
    "The attempt fails: another endpoint is tried, or the client gets 502 `upstream_error`.",
)
UPSTREAM_EVENT = Bound(
    14,
    "upstream_event",
    _("One event of an endpoint's stream"),
    "16 MiB, or 4 MiB where it is translated between Messages and chat completions; 1 MiB of an error, a comment or an "
    "event that is not JSON; 100,000 values and 10,000 lines in an event of more than 64 KiB (`MAX_EVENT_BYTES`, "
    "`MAX_CLEANED_BYTES`, `MAX_EVENT_VALUES`, `MAX_EVENT_LINES` in `gateway/dialects/sse_relay.py`)",
    "The attempt fails: another endpoint is tried, or the client's stream ends with `upstream_error`.",
)
REPORTED_TOKENS = Bound(
    19,
    "reported_tokens",
    _("Parts of the tokens that an endpoint reports for a response"),
    "as many cached and cache-write tokens as input tokens, as many reasoning tokens as output tokens (`normal` in "
    "`gateway/dialects/usage.py`)",
    "The parts are reduced to the whole.",
)

# 20-39: connections, buffers, the queue
CONNECTIONS = Bound(
    20,
    "connections",
    _("Connections from one address to a gateway process"),
    "1,000 (`ROUTERDASH_MAX_CONNECTIONS_PER_CLIENT`); IPv6 addresses of one /64 count as one, trusted proxies do not "
    "count",
    "503 in plain text; over TLS the connection is closed.",
)
HANDSHAKES = Bound(
    21,
    "handshakes",
    _("Time for a TLS handshake"),
    "8 s, of which 8 of one address are under way at a time (`HANDSHAKE_SECONDS` in `gateway/http/acceptor.py`)",
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
    _("Memory of a gateway process for unfinished requests and unsent responses"),
    "512 MiB (`ROUTERDASH_MAX_BUFFERED_MB`)",
    "A request waits for room for up to 30 s, then 503 `buffers_full` with `Retry-After`; a response that its client "
    "does not read is broken off.",
)
CLIENT_BUFFERS = Bound(
    24,
    "client_buffers",
    _("Memory for unfinished requests and unsent responses per API key or address"),
    "half of `ROUTERDASH_MAX_BUFFERED_MB`; for pages an eighth",
    "As above.",
)
BODY = Bound(
    25,
    "body",
    _("Body of a request to /v1"),
    "32 MiB (`MAX_BODY_BYTES` in `gateway/http/request_bounds.py`)",
    "413 `request_too_large`; the connection is closed.",
)
STRANGER_BODY = Bound(
    26,
    "stranger_body",
    _("Body of an unauthenticated request or a small form"),
    "64 KiB (`SMALL_BODY_BYTES` in `gateway/http/request_bounds.py`)",
    "413 `request_too_large`; the connection is closed.",
)
STREAMED_BODY = Bound(
    27,
    "streamed_body",
    _("Body of a multipart form to /v1"),
    "256 MiB (`MAX_STREAMED_BYTES` in `gateway/http/request_bounds.py`), of which 256 KiB are buffered",
    "413 `request_too_large`; the connection is closed.",
)
HEADER_BYTES = Bound(
    28,
    "header_bytes",
    _("Header block of a request"),
    "64 KiB (`MAX_HEAD_BYTES` in `gateway/http/request_bounds.py`)",
    "431 `request_too_large`, or 400 for a block without end; the connection is closed.",
)
HEADER_LINE = Bound(
    90,
    "header_line",
    _("One header line of a request"),
    "16 KiB (`MAX_HEADER_BYTES` in `gateway/http/request_bounds.py`); of `Referer` 2 KiB (`MAX_REFERER_BYTES` in "
    "`gateway/http/control_proxy.py`)",
    "431 `request_too_large`, and the connection is closed; a longer `Referer` is left out.",
)
HEADER_LINES = Bound(
    29,
    "header_lines",
    _("Header lines of a request"),
    "100 (`MAX_HEADER_LINES` in `gateway/http/request_bounds.py`)",
    "431 `request_too_large`; the connection is closed.",
)
PIPELINED = Bound(
    30,
    "pipelined",
    _("Pipelined requests waiting on one connection"),
    "16 (`MAX_PIPELINED` in `gateway/http/request_bounds.py`)",
    "429 `too_many_requests`; the connection is closed.",
)
SLOW_HEADER = Bound(
    31,
    "slow_header",
    _("Time to receive the header block of a request"),
    "60 s (`RECEIVE_SECONDS` in `gateway/http/deadlines.py`)",
    "408 in plain text; the connection is closed.",
)
SLOW_BODY = Bound(
    32,
    "slow_body",
    _("Slowness of a request body"),
    "1 KiB/s over the last 30 s (`SLOWEST` in `gateway/http/deadlines.py`)",
    "408 in plain text; the connection is closed.",
)
LONG_BODY = Bound(
    33,
    "long_body",
    _("Time to receive a request body"),
    "10 minutes, for a form with files an hour (`MAX_BODY_SECONDS` in `gateway/http/deadlines.py`)",
    "408 in plain text; the connection is closed.",
)
SLOW_READER = Bound(
    34,
    "slow_reader",
    _("Slowness of a client reading a response"),
    "1 KiB/s over 120 s while bytes wait for it (`SEND_SECONDS` in `gateway/http/deadlines.py`)",
    "The connection is broken off.",
)
CLIENT_STEPS = Bound(
    35,
    "client_steps",
    _("Share of an event loop iteration used by one address"),
    "64 in all of reads, requests and parts of bodies of 64 KiB (`MAX_STEPS` in `gateway/http/client_shares.py`)",
    "Its connections are read more slowly, a few in each turn; counted for every 50 turns.",
)
QUEUE = Bound(
    36,
    "queue",
    _("Requests waiting for an endpoint"),
    "100 (`ROUTERDASH_QUEUE_MAX`) over all gateway processes",
    "429 `queue_full` with `Retry-After`.",
)
QUEUE_OF_KEY = Bound(
    37,
    "queue_of_key",
    _("Requests of one API key waiting for an endpoint"),
    "50 % (`ROUTERDASH_QUEUE_KEY_SHARE`) of `ROUTERDASH_QUEUE_MAX` and one more over all gateway processes, unless it "
    "is the only key; of bulk requests half of that and one more",
    "429 `queue_full` with `Retry-After`.",
)
QUEUE_OF_BULK = Bound(
    43,
    "queue_of_bulk",
    _("Bulk requests waiting for an endpoint"),
    "half of `ROUTERDASH_QUEUE_MAX` over all gateway processes",
    "429 `queue_full` with `Retry-After`.",
)
TARGET_BYTES = Bound(
    38,
    "target_bytes",
    _("Path and query of a request"),
    "8 KiB (`MAX_TARGET_BYTES` in `gateway/http/request_bounds.py`)",
    "414 `request_too_large`; the connection is closed.",
)
FORWARDED_REQUESTS = Bound(
    80,
    "forwarded_requests",
    _("Concurrent page and JSON API requests from one address"),
    "64 at a time and gateway process, besides streams of events (`FORWARDED_AT_ONCE` in "
    "`gateway/http/control_proxy.py`)",
    "The others of this address wait.",
)
FORWARDED_BODY = Bound(
    39,
    "forwarded_body",
    _("Body of a request for a page or the JSON API"),
    "8 MiB (`MAX_FORWARDED_BODY` in `gateway/http/control_proxy.py`)",
    "413 `request_too_large`; the connection is closed.",
)

# 40-49: sessions and API keys
SESSIONS_PER_USER = Bound(
    40,
    "sessions_per_user",
    _("Sessions of one user"),
    "50 (`MAX_PER_USER` in `access/sessions/store.py`)",
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
    _("Live pages open at once per user"),
    "20 (`MAX_STREAMS_PER_USER` in `metrics/exports/long_response.py`)",
    "429 with `Retry-After`; such a page polls every few seconds instead.",
)
USER_EXPORTS = Bound(
    61,
    "user_exports",
    _("History exports running at once per user"),
    "3 (`MAX_PER_USER` in `metrics/exports/downloads.py`)",
    "429 with `Retry-After`.",
)
EXPORTS = Bound(
    62,
    "exports",
    _("History exports running at once"),
    "10 (`MAX_AT_ONCE` in `metrics/exports/downloads.py`)",
    "429 with `Retry-After`.",
)
ENDPOINT_MODELS = Bound(
    63,
    "endpoint_models",
    _("Models listed by one endpoint"),
    "2,000 (`MAX_MODELS` in `endpoints/models.py`), with names of 256 characters",
    "The others are left out, and `last_error` of the endpoint reports this.",
)
REPLAYS = Bound(
    64,
    "replays",
    _("Replays running at once"),
    "2 (`MAX_AT_ONCE` in `metrics/replay/jobs.py`)",
    "429 with `Retry-After`.",
)


BOUNDS = tuple(
    sorted((bound for bound in globals().values() if isinstance(bound, Bound)), key=lambda bound: bound.number)
)
BY_NAME = {bound.name: bound for bound in BOUNDS}

assert len(BY_NAME) == len(BOUNDS) == len({bound.number for bound in BOUNDS})
assert all(0 < bound.number < MAX_BOUNDS for bound in BOUNDS)
