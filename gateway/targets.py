"""What endpoints are asked for: paths and queries that are built of validated parts.

An endpoint gets its operator's key with each request. Whatever a client writes into a path must therefore not lead to
anything else that the endpoint, or a proxy in front of it, has. So no byte of a client's target is passed on as it is.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from gateway.errors import INVALID_REQUEST, Refusal

RESPONSES = b"/v1/responses/"
MAX_PARAMETERS = 64  # of a query; the rest is not looked at

_STORED = re.compile(RESPONSES + rb"([A-Za-z0-9_-]{1,256})(/cancel|/input_items)?")
_ID = re.compile(r"[A-Za-z0-9_-]{1,256}")
_VALUE = re.compile(rb"[A-Za-z0-9_.-]{1,256}")
_INCLUDE = frozenset((b"include", b"include[]"))
_READ = _INCLUDE | {b"stream", b"starting_after", b"include_obfuscation"}
_LIST = _INCLUDE | {b"limit", b"order", b"after", b"before"}
_NOTHING: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class StoredTarget:
    """A path below /v1/responses/, taken apart."""

    response_id: str
    methods: bytes  # that it takes, as an Allow header has them
    path: bytes  # on the endpoint
    query: frozenset[bytes]  # the parameters that a GET may have


def is_id(found: object) -> bool:
    """May this be the id of a response, or of an item of one?"""
    return isinstance(found, str) and _ID.fullmatch(found) is not None


def stored(path: bytes) -> StoredTarget | None:
    """None for a path that is none of a stored response's."""
    found = _STORED.fullmatch(path)
    if found is None:
        return None
    response_id, action = found[1], found[2] or b""
    methods, query = {
        b"": (b"GET, DELETE", _READ),
        b"/cancel": (b"POST", _NOTHING),
        b"/input_items": (b"GET", _LIST),
    }[action]
    return StoredTarget(response_id.decode(), methods, RESPONSES + response_id + action, query)


def query(allowed: frozenset[bytes], raw: bytes) -> bytes:
    """What an endpoint gets to see of a client's query, with its question mark: the allowed parameters, written anew.
    Any other is left out. Raises Refusal (400) for a value that none of them can have.
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
