"""HTTP to endpoints where nothing is hot: health checks, type detection, model lists. Follows no redirects.

An answer may be anything. What is read of it is bounded by bytes, what becomes objects by their number; compressed
answers are neither asked for nor unpacked.
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

from gateway.destinations import Destinations
from gateway.redact import Redactor

MAX_ANSWER_BYTES = 8 << 20
MAX_VALUES = 100_000  # in an answer: numbers, strings, objects and so on; to decode them takes some 20 ms
COUNTED_BYTES = 256 << 10  # that are looked at in one step, in which no other thread runs


class Unreachable(Exception):
    """No answer at all; the text says why, without the address."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any = None  # decoded JSON; None when it is none
    server: str = ""
    cut: bool = False  # `body` is only the beginning of an answer that is too large

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Probe:
    """Asks one endpoint, within `timeout` seconds a question."""

    session: aiohttp.ClientSession = field(repr=False)
    base_url: str
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 5.0

    async def get(self, path: str) -> Answer:
        return _answer(*await self._ask("GET", path))

    async def post(self, path: str, body: object) -> Answer:
        return _answer(*await self._ask("POST", path, json=body))

    async def passes(self, path: str) -> Answer:
        """Only the status of a whole answer: nothing of its body becomes an object."""
        status, _, server = await self._ask("GET", path)
        return Answer(status, None, server)

    async def _ask(self, method: str, path: str, **options: Any) -> tuple[int, bytes, str]:
        """Status, body (at most one byte more than MAX_ANSWER_BYTES) and Server header. Raises Unreachable."""
        headers = {"Accept-Encoding": "identity"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self.timeout),
                self.session.request(
                    method, self.base_url + path, headers=headers, allow_redirects=False, **options
                ) as response,
            ):
                while len(body) <= MAX_ANSWER_BYTES:
                    chunk = await response.content.read(MAX_ANSWER_BYTES + 1 - len(body))
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
        redactor = Redactor(self.api_key)  # what is shown of an answer, or stored, must not quote the key
        server = redactor.clean_text(response.headers.get("Server", ""))
        return response.status, redactor.clean(bytes(body)), server


def _answer(status: int, body: bytes, server: str) -> Answer:
    cut = len(body) > MAX_ANSWER_BYTES or _has_too_many_values(body)
    try:
        decoded = msgspec.json.decode(beginning(body) if cut else body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        decoded = None
    return Answer(status, decoded, server, cut)


def _has_too_many_values(body: bytes) -> bool:
    """Each value stands behind one of these characters; what stands in strings is counted, too."""
    left = MAX_VALUES
    for start in range(0, len(body), COUNTED_BYTES):
        left -= sum(body.count(mark, start, start + COUNTED_BYTES) for mark in b",[{")
        if left < 0:
            return True
    return False


_next_mark = re.compile(rb'[",\[\]{}]').search
_QUOTE, _COMMA, _OPENING, _CLOSING = ord('"'), ord(","), b"[{", b"]}"
_BACKSLASH = ord("\\")
_LIST_IN_OBJECT = bytearray(b"{[")


def beginning(body: bytes, most: int = MAX_VALUES) -> bytes:
    """The beginning of a JSON object, cut behind an item of one of its lists and closed there. Of a long list of models
    these are the first. Empty if there is no such item within the first `most` marks (quotes, commas, brackets).
    """
    opened = bytearray()
    at, end = 0, 0
    for _ in range(most):
        found = _next_mark(body, at)
        if found is None:
            break
        at, mark = found.end(), body[found.start()]
        if mark == _QUOTE:
            at = _behind_string(body, at)
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


def _behind_string(body: bytes, at: int) -> int:
    """Where a string has ended of which `at` is the first character; 0 if it does not end."""
    while (quote := body.find(b'"', at)) >= 0:
        before = quote
        while before > at and body[before - 1] == _BACKSLASH:
            before -= 1
        if (quote - before) % 2 == 0:
            return quote + 1
        at = quote + 1
    return 0


class _Refused(OSError):
    """An address that no endpoint may have; the text says why."""


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
    """For the very address that is connected to: whatever a name led to before does not count."""
    family, kind, protocol, _, where = address
    refusal = Destinations.of(settings.ROUTERDASH).refusal(str(where[0]))
    if refusal is not None:
        raise _Refused(refusal)
    return socket.socket(family, kind, protocol)


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Proxy variables are not read, no cookies kept, refused addresses not connected to."""
    connector = aiohttp.TCPConnector(socket_factory=_socket)
    async with aiohttp.ClientSession(
        connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    ) as opened:
        yield opened
