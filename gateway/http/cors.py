"""Cross-origin resource sharing (CORS): origins whose pages may use /v1, and the response headers that allow it."""

import re
from collections.abc import Iterable, Mapping

MAX_AGE_SECONDS = 600  # for which a browser may cache the response to a preflight request
_REQUEST_HEADERS = re.compile(
    rb"authorization|content-type|x-api-key|x-request-id|(?:anthropic|openai|x-stainless)-[a-z0-9-]+"
)
_RESPONSE_HEADERS = (b"x-request-id", b"retry-after")


class Cors:
    """The policy of ROUTERDASH_CORS_ORIGINS. It exists only if that setting names an origin."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    def allows(self, origin: bytes | None) -> bool:
        return self._any or (origin is not None and origin.lower() in self._origins)

    def is_preflight(self, method: bytes, fields: Mapping[bytes, bytes]) -> bool:
        """Return True for the preflight request of a browser, which bears no API key, from an allowed origin."""
        return (
            method == b"OPTIONS" and b"access-control-request-method" in fields and self.allows(fields.get(b"origin"))
        )

    def preflight_headers(self, fields: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """Return the headers of the response to a preflight request."""
        requested = fields.get(b"access-control-request-headers", b"").lower().split(b",")
        names = [name for name in map(bytes.strip, requested) if _REQUEST_HEADERS.fullmatch(name)]
        headers = [
            (b"access-control-allow-methods", b"GET, POST, DELETE"),
            (b"access-control-max-age", b"%d" % MAX_AGE_SECONDS),
        ]
        if names:
            headers.append((b"access-control-allow-headers", b", ".join(names)))
        return headers

    def lines(self, origin: bytes | None, headers: Iterable[tuple[bytes, bytes]], more: bytes) -> tuple[bytes, ...]:
        """Return the header lines that CORS adds to a response with these headers and these ready header lines."""
        if self._any:
            allowed: tuple[bytes, ...] = (b"access-control-allow-origin: *\r\n",)
        else:
            allowed = (b"vary: Origin\r\n",)  # a cache must not serve the response for one origin to another
            if origin is None or not self.allows(origin):
                return allowed
            allowed += (b"access-control-allow-origin: %b\r\n" % origin,)
        names = [line.partition(b":")[0] for line in more.splitlines()] + [name for name, _ in headers]
        exposed = [name for name in names if name in _RESPONSE_HEADERS or name.startswith(b"x-routerdash-")]
        if exposed:
            allowed += (b"access-control-expose-headers: %b\r\n" % b", ".join(exposed),)
        return allowed
