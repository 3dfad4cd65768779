"""The header fields that pass from the client to an endpoint, and back."""

import re
from collections.abc import Iterable

from gateway.dialects.redact import REDACTED

MAX_CACHED, MAX_CACHED_LENGTH = 1000, 64  # names of headers
IS_JSON = re.compile(rb"application/(?:[a-z0-9.-]+\+)?json(?:;.*)?", re.IGNORECASE).fullmatch


class AllowList(dict[bytes, bool]):
    """Maps names of headers (lower case) to whether they may pass; caches the names that it has checked."""

    def __init__(self, names: Iterable[bytes], prefixes: tuple[bytes, ...]) -> None:
        super().__init__(dict.fromkeys(names, True))
        self._prefixes = prefixes

    def __missing__(self, name: bytes) -> bool:
        passes = name.startswith(self._prefixes)
        if len(self) < MAX_CACHED and len(name) < MAX_CACHED_LENGTH:
            self[name] = passes
        return passes


# Never credentials or cookies to an endpoint; never cookies, CORS or redirects to a client.
_TO_ENDPOINT = AllowList(
    (b"accept", b"content-type", b"traceparent", b"tracestate", b"user-agent"), (b"anthropic-", b"openai-")
)
_TO_CLIENT = AllowList(
    (b"content-type", b"content-encoding", b"retry-after", b"cache-control"),
    (b"anthropic-", b"openai-", b"x-ratelimit-"),
)


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as the lines of a header block."""
    lines: list[bytes] = []
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    return b"".join(lines)


def endpoint_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the header lines of a request that its endpoint receives."""
    return header_lines(header for header in headers if _TO_ENDPOINT[header[0]])


def client_headers(headers: Iterable[tuple[bytes, bytes]], secret: bytes | None = None) -> list[tuple[bytes, bytes]]:
    """Return the headers of an endpoint's response that the client receives, without the endpoint's API key."""
    passed = [header for header in headers if _TO_CLIENT[header[0]]]
    return passed if secret is None else [(name, value.replace(secret, REDACTED)) for name, value in passed]
