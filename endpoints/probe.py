"""HTTP to endpoints where nothing is hot: health checks, type detection, model lists. Follows no redirects."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from django.conf import settings

from gateway.peer import refused_address
from gateway.redact import Redactor

MAX_ANSWER_BYTES = 8 << 20


class Unreachable(Exception):
    """No answer at all; the text says why, without the address."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any = None  # decoded JSON; None when it is none
    server: str = ""

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
        return await self._ask("GET", path)

    async def post(self, path: str, body: object) -> Answer:
        return await self._ask("POST", path, json=body)

    async def _ask(self, method: str, path: str, **options: Any) -> Answer:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        try:
            async with (
                asyncio.timeout(self.timeout),
                self.session.request(
                    method, self.base_url + path, headers=headers, allow_redirects=False, **options
                ) as response,
            ):
                body = await response.content.read(MAX_ANSWER_BYTES)
                while chunk := await response.content.read(MAX_ANSWER_BYTES):
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        break
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
        redactor = Redactor(self.api_key)  # what is told of an answer, or stored, must not quote the key
        try:
            decoded = msgspec.json.decode(redactor.clean(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            decoded = None
        return Answer(response.status, decoded, redactor.clean_text(response.headers.get("Server", "")))


class _Refused(OSError):
    """An address that no endpoint may have."""


def _reason(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name cannot be resolved"
    if isinstance(error.os_error, _Refused):
        return "its address is link-local or of a metadata service, and ROUTERDASH_ALLOW_LINK_LOCAL is not set"
    if isinstance(error.os_error, ConnectionRefusedError):
        return "connection refused"
    number = error.os_error.errno
    return os.strerror(number).lower() if number else "no connection"


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """For the very address that is connected to: whatever a name led to before does not count."""
    family, kind, protocol, _, where = address
    if refused_address(str(where[0])) and not settings.ROUTERDASH.allow_link_local:
        raise _Refused("refused address")
    return socket.socket(family, kind, protocol)


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Proxy variables are not read, no cookies kept, refused addresses not connected to."""
    connector = aiohttp.TCPConnector(socket_factory=_socket)
    async with aiohttp.ClientSession(
        connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as opened:
        yield opened
