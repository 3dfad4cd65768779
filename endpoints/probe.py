"""HTTP client for endpoints outside the hot path: health checks, type detection, model lists.

It follows no redirects. A response may contain anything, so there are limits on the bytes read and on the number of
values decoded. Compressed responses are neither requested nor decompressed.
"""

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from django.conf import settings

from gateway.base.destinations import Destinations
from gateway.dialects.redact import Redactor
from gateway.providers.table import Provider

MODELS_PATH = "/v1/models"  # unless a cloud has another one
MAX_RESPONSE_BYTES = 8 << 20
MAX_VALUES = 100_000  # per response: numbers, strings, objects and so on; decoding them takes about 20 ms
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

    session: aiohttp.ClientSession = field(repr=False)
    base_url: str
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 5.0
    provider: Provider | None = None
    api_version: str | None = None

    @property
    def list_path(self) -> str:
        """Path and query of the list of models."""
        return MODELS_PATH if self.provider is None else self.provider.models_path(self.api_version)

    async def get(self, path: str) -> ProbeResponse:
        return _parsed(*await self._request("GET", path))

    async def post(self, path: str, body: object) -> ProbeResponse:
        return _parsed(*await self._request("POST", path, json=body))

    async def get_without_body(self, path: str) -> ProbeResponse:
        """Return the status of a complete response, without decoding its body. Raises Unreachable."""
        status, _, server = await self._request("GET", path)
        return ProbeResponse(status, None, server)

    async def get_text(self, path: str) -> tuple[int, bytes]:
        """Return status and body (at most MAX_RESPONSE_BYTES + 1 bytes). Raises Unreachable."""
        status, body, _ = await self._request("GET", path)
        return status, body

    async def _request(self, method: str, path: str, **options: Any) -> tuple[int, bytes, str]:
        """Return status, body (at most MAX_RESPONSE_BYTES + 1 bytes) and Server header. Raises Unreachable."""
        headers = {"Accept-Encoding": "identity"}
        if self.provider is not None:
            headers |= self.provider.headers
            headers |= [self.provider.auth_header(self.api_key)] if self.api_key else []
        elif self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self.timeout),
                self.session.request(
                    method, self.base_url + path, headers=headers, allow_redirects=False, **options
                ) as response,
            ):
                while len(body) <= MAX_RESPONSE_BYTES:
                    chunk = await response.content.read(MAX_RESPONSE_BYTES + 1 - len(body))
                    if not chunk:
                        break
                    body += chunk
        except TimeoutError:
            raise Unreachable(f"no answer within {self.timeout:g} s") from None
        except aiohttp.ClientConnectorCertificateError:
            raise Unreachable("its TLS certificate cannot be verified") from None
        except aiohttp.ClientConnectorSSLError:
            raise Unreachable("TLS failed; does it speak http:// instead of https://?") from None
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(_reason(error)) from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise Unreachable("the connection broke off") from None
        redactor = Redactor(self.api_key)  # text of a response that is shown or stored must not contain the key
        server = redactor.clean_text(response.headers.get("Server", ""))
        return response.status, redactor.clean(bytes(body)), server


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
    at, end = 0, 0
    for _ in range(max_marks):
        found = _next_mark(body, at)
        if found is None:
            break
        at, mark = found.end(), body[found.start()]
        if mark == _QUOTE:
            at = _after_string(body, at)
            if not at:
                break
        elif mark in _OPENING:
            opened.append(mark)
        elif mark in _CLOSING:
            if not opened:
                break
            opened.pop()
        if mark in b",]}" and opened == _LIST_IN_OBJECT:
            end = found.start() if mark == _COMMA else at
    return body[:end] + b"]}" if end else b""


def _after_string(body: bytes, at: int) -> int:
    """Return the position after the string whose first character is at `at`; 0 if the string does not end."""
    while (quote := body.find(b'"', at)) >= 0:
        before = quote
        while before > at and body[before - 1] == _BACKSLASH:
            before -= 1
        if (quote - before) % 2 == 0:
            return quote + 1
        at = quote + 1
    return 0


class _Refused(OSError):
    """The address is not allowed for endpoints. The text is the reason."""


def _reason(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name cannot be resolved"
    if isinstance(error.os_error, _Refused):
        return str(error.os_error)
    if isinstance(error.os_error, ConnectionRefusedError):
        return "connection refused"
    number = error.os_error.errno
    return os.strerror(number).lower() if number else "no connection"


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket for an allowed address. Raises _Refused for another one.

    The check uses the address of this connection, because a host name may have resolved to another one before.
    """
    family, kind, protocol, _, socket_address = address
    refusal = Destinations.of(settings.ROUTERDASH).refusal(str(socket_address[0]))
    if refusal is not None:
        raise _Refused(refusal)
    return socket.socket(family, kind, protocol)


@asynccontextmanager
async def session(connections: int = 100) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session that ignores proxy variables, stores no cookies, and refuses addresses that are not allowed.

    It has at most so many connections in use. A request waits for one within its timeout.
    """
    connector = aiohttp.TCPConnector(socket_factory=_socket, limit=connections)
    async with aiohttp.ClientSession(
        connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    ) as opened:
        yield opened
