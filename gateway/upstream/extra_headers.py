"""Headers that administrators add to all requests to an endpoint: which names they may have."""

import re
from collections.abc import Iterable

from gateway.providers.table import Provider
from gateway.upstream.connection_settings import ConnectionSettings

MAX_HEADERS, MAX_NAME, MAX_VALUE = 20, 100, 4000  # in characters

# RouterDash itself sets these, or they concern one connection only (RFC 9110, section 7.6.1).
RESERVED = frozenset((
    "host", "authorization", "content-length", "content-type", "content-encoding", "accept-encoding", "expect",
    "transfer-encoding", "te", "trailer", "connection", "keep-alive", "upgrade", "proxy-connection",
    "proxy-authenticate", "proxy-authorization", "via", "x-request-id", "cookie", "http2-settings",
))  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def reserved_for(provider: Provider | None) -> frozenset[str]:
    """Return the names (lower case) that extra headers of an endpoint may not have."""
    if provider is None:
        return RESERVED
    return RESERVED | {provider.auth.lower(), *(name.lower() for name, _ in provider.headers)}


def is_name(text: str) -> bool:
    """Return True if a header may have this name (RFC 9110, section 5.1)."""
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None


def is_value(text: str) -> bool:
    """Return True for a value of visible ASCII characters and blanks within: nothing may end the line."""
    return 0 < len(text) <= MAX_VALUE and text.isascii() and text.isprintable() and text == text.strip()


def usable_headers(settings: ConnectionSettings, provider: Provider | None) -> list[tuple[str, str]]:
    """Return the extra headers. The type of an endpoint may have changed since they were checked."""
    reserved = reserved_for(provider)
    return [header for header in settings.headers if header[0].lower() not in reserved]


def repeated(names: Iterable[str]) -> str | None:
    """Return a name that occurs twice, without regard to case."""
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            return name
        seen.add(name.lower())
    return None
