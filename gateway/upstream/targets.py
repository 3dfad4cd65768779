"""Paths and queries of requests to endpoints, which are built of validated parts.

An endpoint receives its upstream key with each request. A client must therefore not be able to reach any other path
of the endpoint, or of a proxy in front of it. So no byte of a client's target is passed on unchecked.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from gateway.base.errors import INVALID_REQUEST, Refusal

RESPONSES = b"/v1/responses/"
MAX_PARAMETERS = 64  # of a query; the rest is ignored

_STORED = re.compile(RESPONSES + rb"([A-Za-z0-9_-]{1,256})(/cancel|/input_items)?")
_ID = re.compile(r"[A-Za-z0-9_-]{1,256}")
_VALUE = re.compile(rb"[A-Za-z0-9_.-]{1,256}")
_INCLUDE = frozenset((b"include", b"include[]"))
_READ = _INCLUDE | {b"stream", b"starting_after", b"include_obfuscation"}
_LIST = _INCLUDE | {b"limit", b"order", b"after", b"before"}
_NOTHING: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class StoredTarget:
    """The parts of a path below /v1/responses/."""

    response_id: str
    methods: bytes  # as in an Allow header
    path: bytes  # on the endpoint
    query: frozenset[bytes]  # the parameters that a GET may have


def is_id(value: object) -> bool:
    """Return True if the value may be the id of a response, or of one of its items."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def stored(path: bytes) -> StoredTarget | None:
    """Parse the path of a stored response. Return None for any other path."""
    match = _STORED.fullmatch(path)
    if match is None:
        return None
    response_id, action = match[1], match[2] or b""
    methods, query = {
        b"": (b"GET, DELETE", _READ),
        b"/cancel": (b"POST", _NOTHING),
        b"/input_items": (b"GET", _LIST),
    }[action]
    return StoredTarget(response_id.decode(), methods, RESPONSES + response_id + action, query)


def query(allowed: frozenset[bytes], raw: bytes) -> bytes:
    """Return the query for the endpoint, with its question mark: the allowed parameters of a client's query, encoded
    again. Others are dropped. Raises Refusal (400) for an invalid value.
    """
    if not allowed:
        return b""
    pairs: list[bytes] = []
    for part in raw.split(b"&", MAX_PARAMETERS)[:MAX_PARAMETERS]:
        name, _, value = part.partition(b"=")
        name, value = unquote_to_bytes(name), unquote_to_bytes(value)
        if name not in allowed:
            continue
        if not _VALUE.fullmatch(value):
            raise Refusal(
                400,
                INVALID_REQUEST,
                f"The query's `{name.decode()}` must be 1 to 256 letters, digits, `_`, `-` or `.`.",
                param=name.decode(),
            )
        pairs.append(b"%b=%b" % (name.replace(b"[]", b"%5B%5D"), value))
    return b"?" + b"&".join(pairs) if pairs else b""
