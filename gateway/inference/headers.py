"""The header fields that pass from the client to an endpoint, and back."""

import re
from collections.abc import Iterable, Sequence

from gateway.dialects.redact import REDACTED
from gateway.providers.table import Provider
from gateway.routing.balancer import Decision, recorded_times

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
# With a provider, clients share one account: its ids, and how much it may still be used, are not for them. Nor are
# the client's own account and ids of traces for a provider.
_TO_PROVIDER = AllowList(
    (b"accept", b"content-type", b"user-agent", b"anthropic-version", b"anthropic-beta", b"openai-beta"), ()
)
OF_LIMITS = (b"x-ratelimit-", b"anthropic-ratelimit-")
_FROM_PROVIDER = AllowList((b"content-type", b"content-encoding", b"cache-control"), ())


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as the lines of a header block."""
    lines: list[bytes] = []
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    return b"".join(lines)


def routing_lines(decision: Decision, kept: int) -> bytes:
    """Return the lines of a response that explain an adaptive decision, as structured fields (RFC 9651).

    `kept`: prompt tokens that are expected in the endpoint's prefix cache. Expected times are in ms: of the endpoint
    (as `cost`), and the least of the others.
    """
    times, chosen = recorded_times(decision), decision.endpoint_id
    own = "".join([f";cost={milliseconds}" for name, milliseconds in times if name == chosen])
    least = "".join([f";next={milliseconds}" for name, milliseconds in times if name != chosen][:1])
    affinity = f"x-routerdash-affinity: kept={kept}\r\n" if kept else ""
    return f"x-routerdash-reason: {decision.reason}{own}{least}\r\n{affinity}".encode()


def endpoint_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the header lines of a request that its endpoint receives."""
    return header_lines(header for header in headers if _TO_ENDPOINT[header[0]])


def without(headers: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the headers that the endpoint's own ones, of these names, do not replace."""
    return [header for header in headers if header[0] not in names]


def provider_lines(
    headers: Iterable[tuple[bytes, bytes]], provider: Provider, needed: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    """Return the header lines of a request that its cloud provider receives.

    `needed`: headers of this request, in place of those that the provider needs otherwise; the client's own replace
    both.
    """
    passed = [header for header in headers if _TO_PROVIDER[header[0]]]
    usual = ((name.encode(), value.encode()) for name, value in provider.headers)
    for header in (*needed, *usual):
        if all(header[0] != name for name, _ in passed):
            passed.append(header)
    return header_lines(passed)


def client_headers(
    headers: Iterable[tuple[bytes, bytes]],
    secret: bytes | None = None,
    provider: Provider | None = None,
    *,
    limited: bool = False,
) -> list[tuple[bytes, bytes]]:
    """Return the headers of an endpoint's response that the client receives, without the endpoint's API key.

    `provider`: of the endpoint, if it is a cloud's. `limited`: the client receives limits of RouterDash, so that those
    of the endpoint would contradict them.
    """
    allowed = _TO_CLIENT if provider is None else _FROM_PROVIDER
    passed = [header for header in headers if allowed[header[0]]]
    if limited:
        passed = [header for header in passed if not header[0].startswith(OF_LIMITS)]
    return passed if secret is None else [(name, value.replace(secret, REDACTED)) for name, value in passed]
