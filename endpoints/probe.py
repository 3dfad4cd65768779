"""HTTP client for endpoints outside the hot path: health checks, type detection, model lists.

It follows no redirects. A response may contain anything, so there are limits on the bytes read and on the number of
values decoded. Compressed responses are neither requested nor decompressed.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from django.conf import settings as django_settings

from endpoints import connections
from gateway.base import causes
from gateway.base.sealing import Unsealable
from gateway.dialects.redact import Redactor
from gateway.providers.table import Provider
from gateway.upstream.connection_settings import PLAIN, ConnectionSettings
from gateway.upstream.dialer import Dialer
from gateway.upstream.errors import CONNECT, UpstreamError
from gateway.upstream.extra_headers import usable_headers
from gateway.upstream.pool import Pool, Sweeper
from gateway.upstream.response_head import ResponseHead

MODELS_PATH = "/v1/models"  # unless a cloud has another one
MAX_RESPONSE_BYTES = 8 << 20
MAX_VALUES = 100_000  # per response: numbers, strings, objects and so on; decoding them takes about 20 ms
CONNECT_GRACE = 0.05  # seconds
MIN_POOLS = 64
COUNTED_BYTES = 256 << 10  # bytes counted in one step, during which no other thread runs


class Unreachable(Exception):
    """There was no response. The text is the cause, without the address."""


@dataclass(frozen=True, slots=True)
class ProbeResponse:
    status: int
    body: Any = None  # decoded JSON; None if it is invalid
    server: str = ""
    cut: bool = False  # `body` is only the beginning of a response that is too large

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Probe:
    """HTTP client for one endpoint, with a `timeout` in seconds per request. `provider`: the cloud that it is."""

    session: "ProbeSession" = field(repr=False)
    base_url: str
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 5.0
    provider: Provider | None = None
    api_version: str | None = None
    settings: ConnectionSettings = field(default=PLAIN, repr=False)
    sealed_connection: str | None = field(default=None, repr=False)  # in place of `settings`

    @property
    def list_path(self) -> str:
        """Path and query of the list of models."""
        return MODELS_PATH if self.provider is None else self.provider.models_path(self.api_version)

    async def get(self, path: str) -> ProbeResponse:
        return _parsed(*await self._request("GET", path))

    async def post(self, path: str, body: object) -> ProbeResponse:
        return _parsed(*await self._request("POST", path, msgspec.json.encode(body)))

    async def get_without_body(self, path: str) -> ProbeResponse:
        """Return the status of a complete response, without decoding its body. Raises Unreachable."""
        status, _, server = await self._request("GET", path)
        return ProbeResponse(status, None, server)

    async def get_text(self, path: str) -> tuple[int, bytes]:
        """Return status and body (at most MAX_RESPONSE_BYTES + 1 bytes). Raises Unreachable."""
        status, body, _ = await self._request("GET", path)
        return status, body

    async def _request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, str]:
        """Return status, body (at most MAX_RESPONSE_BYTES + 1 bytes) and Server header. Raises Unreachable."""
        settings = self._opened()
        try:
            # Connecting has the same timeout, whose error says more, so that this one ends a moment later.
            async with asyncio.timeout(self.timeout + CONNECT_GRACE):
                response, received = await self.session.request(
                    self, settings, method, path, self._headers(settings, body), body
                )
        except TimeoutError:
            raise Unreachable(causes.NO_RESPONSE.format(seconds=f"{self.timeout:g}")) from None
        except UpstreamError as error:
            raise Unreachable(self._cause(error)) from None
        # Text of a response that is shown or stored must not contain a secret.
        redactor = Redactor(self.api_key, settings.secrets)
        server = redactor.clean_text(response.header(b"server").decode("utf-8", "replace"))
        return response.status, redactor.clean(received), server

    def _opened(self) -> ConnectionSettings:
        if self.sealed_connection is None:
            return self.settings
        try:
            return connections.opened(self.sealed_connection)
        except Unsealable:
            raise Unreachable(causes.UNSEALABLE) from None

    def _headers(self, settings: ConnectionSettings, body: bytes | None) -> bytes:
        """Return the header lines of a request, without Host."""
        headers = [("accept", "*/*"), ("accept-encoding", "identity"), ("user-agent", "RouterDash")]
        if self.provider is not None:
            headers += self.provider.headers
            headers += [self.provider.auth_header(self.api_key)] if self.api_key else []
        elif self.api_key:
            headers.append(("authorization", f"Bearer {self.api_key}"))
        own = usable_headers(settings, self.provider)
        names = {name.lower() for name, _ in own}
        headers = [*(header for header in headers if header[0] not in names), *own]
        if body is not None:
            headers += [("content-type", "application/json"), ("content-length", str(len(body)))]
        return "".join((f"{name}: {value}\r\n" for name, value in headers)).encode()

    def _cause(self, error: UpstreamError) -> str:
        text = str(error)
        if error.kind != CONNECT:
            return causes.BROKE_OFF
        return text.replace("no connection within", "no answer within", 1)


def _parsed(status: int, body: bytes, server: str) -> ProbeResponse:
    cut = len(body) > MAX_RESPONSE_BYTES or _has_too_many_values(body)
    return ProbeResponse(status, decode(beginning(body) if cut else body), server, cut)


def decode(body: bytes) -> Any:
    """Return the decoded JSON; None if it is invalid."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _has_too_many_values(body: bytes) -> bool:
    """Return True if a JSON body may have more than MAX_VALUES values.

    Each value follows one of the counted characters. Those in strings are counted, too.
    """
    remaining = MAX_VALUES
    for start in range(0, len(body), COUNTED_BYTES):
        remaining -= sum(body.count(mark, start, start + COUNTED_BYTES) for mark in b",[{")
        if remaining < 0:
            return True
    return False


_next_mark = re.compile(rb'[",\[\]{}]').search
_QUOTE, _COMMA, _OPENING, _CLOSING = ord('"'), ord(","), b"[{", b"]}"
_BACKSLASH = ord("\\")
_LIST_IN_OBJECT = bytearray(b"{[")


def beginning(body: bytes, max_marks: int = MAX_VALUES) -> bytes:
    """Return the beginning of a JSON object, cut after an item of one of its lists and closed there.

    The result contains the first models of a long list. It is empty if no such item ends within the first `max_marks`
    marks (quotes, commas, brackets).
    """
    opened = bytearray()
    position, end = 0, 0
    for _ in range(max_marks):
        match = _next_mark(body, position)
        if match is None:
            break
        position, mark = match.end(), body[match.start()]
        if mark == _QUOTE:
            position = _after_string(body, position)
            if not position:
                break
        elif mark in _OPENING:
            opened.append(mark)
        elif mark in _CLOSING:
            if not opened:
                break
            opened.pop()
        if mark in b",]}" and opened == _LIST_IN_OBJECT:
            end = match.start() if mark == _COMMA else position
    return body[:end] + b"]}" if end else b""


def _after_string(body: bytes, position: int) -> int:
    """Return the position after the string whose first character is at `position`; 0 if the string does not end."""
    while (quote := body.find(b'"', position)) >= 0:
        before = quote
        while before > position and body[before - 1] == _BACKSLASH:
            before -= 1
        if (quote - before) % 2 == 0:
            return quote + 1
        position = quote + 1
    return 0


class ProbeSession:
    """Connections of a process to endpoints, outside the hot path: a pool for each address and its settings.

    At most so many requests run at a time; others wait within their timeouts.
    """

    def __init__(self, dialer: Dialer, requests: int) -> None:
        self._sweeper = Sweeper(asyncio.get_running_loop(), dialer)
        self._sweeper.is_resting = lambda: True  # it only closes old connections: once a second is enough
        self._free = asyncio.Semaphore(requests)
        self._pools: dict[tuple[str, ConnectionSettings], Pool] = {}
        self._most_pools = MIN_POOLS  # without a look at which of them have connections

    async def request(
        self,
        probe: Probe,
        settings: ConnectionSettings,
        method: str,
        path: str,
        headers: bytes,
        body: bytes | None,
    ) -> tuple[ResponseHead, bytes]:
        """Send a request with these header lines, and return the response with at most MAX_RESPONSE_BYTES + 1 bytes of
        its body. Raises UpstreamError.
        """
        async with self._free:
            pool = self._pool(probe, settings)
            line = b"%b %b%b HTTP/1.1\r\nhost: %b\r\n" % (method.encode(), pool.prefix, path.encode(), pool.authority)
            head = b"%b%b\r\n" % (line, headers)
            try:
                connection = await pool.request(head, (body or b"",), None)
            except UpstreamError as error:
                raise await pool.explained(error) from None
            received = bytearray()
            try:
                while part := await connection.read():
                    received += part
                    if len(received) > MAX_RESPONSE_BYTES:
                        connection.abort()
                        break
            except BaseException:
                connection.abort()
                raise
        return connection.response, bytes(received[: MAX_RESPONSE_BYTES + 1])

    def _pool(self, probe: Probe, settings: ConnectionSettings) -> Pool:
        key = probe.base_url, settings
        pool = self._pools.get(key)
        if pool is None:
            if len(self._pools) >= self._most_pools:  # most are of addresses or settings of the past
                self._pools = {key: pool for key, pool in self._pools.items() if pool.idle}
                self._most_pools = 2 * len(self._pools) + MIN_POOLS
            pool = self._pools[key] = Pool(probe.base_url, self._sweeper, settings=settings)
        pool.connect_timeout = probe.timeout
        return pool

    def close(self) -> None:
        self._sweeper.stop()
        for pool in self._pools.values():
            pool.close()
        for connection in list(self._sweeper.connections):
            connection.abort()


@asynccontextmanager
async def session(requests: int = 100) -> AsyncIterator[ProbeSession]:
    """Open a session that refuses addresses that are not allowed, and has at most so many requests at a time."""
    opened = ProbeSession(Dialer.of(django_settings.ROUTERDASH), requests)
    try:
        yield opened
    finally:
        opened.close()
