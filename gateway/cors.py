"""Cross-origin resource sharing: which pages of other origins may use /v1 from a browser, and what these are told."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.exchange import Exchange, HeaderList

MAX_AGE_SECONDS = 600  # that a browser may remember what it was allowed
_ASKABLE = re.compile(rb"authorization|content-type|x-api-key|x-request-id|(?:anthropic|openai|x-stainless)-[a-z0-9-]+")
_TELLABLE = (b"x-request-id", b"retry-after")


class Cors:
    """What ROUTERDASH_CORS_ORIGINS means for a request. Made only where it names any."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    def allows(self, origin: bytes | None) -> bool:
        return self._any or (origin is not None and origin.lower() in self._origins)

    def is_preflight(self, exchange: "Exchange") -> bool:
        """Does a browser ask, for a page that may, whether it may send a request? It sends no key with that."""
        return (
            exchange.method == b"OPTIONS"
            and b"access-control-request-method" in exchange.fields
            and self.allows(exchange.fields.get(b"origin"))
        )

    async def answer_preflight(self, exchange: "Exchange") -> None:
        asked = exchange.fields.get(b"access-control-request-headers", b"").lower().split(b",")
        names = [name for name in map(bytes.strip, asked) if _ASKABLE.fullmatch(name)]
        headers = [
            (b"access-control-allow-methods", b"GET, POST, DELETE"),
            (b"access-control-max-age", b"%d" % MAX_AGE_SECONDS),
        ]
        if names:
            headers.append((b"access-control-allow-headers", b", ".join(names)))
        exchange.reply(204, headers, b"")

    def lines(self, exchange: "Exchange", headers: "HeaderList", more: bytes) -> tuple[bytes, ...]:
        """Of the head of any answer, which has these headers and lines too."""
        if self._any:
            allowed: tuple[bytes, ...] = (b"access-control-allow-origin: *\r\n",)
        else:
            allowed = (b"vary: Origin\r\n",)  # caches must not give one origin's answer to another
            origin = exchange.fields.get(b"origin")
            if origin is None or not self.allows(origin):
                return allowed
            allowed += (b"access-control-allow-origin: %b\r\n" % origin,)
        names = [line.partition(b":")[0] for line in more.splitlines()] + [name for name, _ in headers]
        told = [name for name in names if name in _TELLABLE or name.startswith(b"x-routerdash-")]
        if told:
            allowed += (b"access-control-expose-headers: %b\r\n" % b", ".join(told),)
        return allowed
