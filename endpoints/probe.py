"""HTTP to endpoints where nothing is hot: health checks, type detection, model lists. Follows no redirects."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

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
        try:
            decoded = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            decoded = None
        return Answer(response.status, decoded, response.headers.get("Server", ""))


def _reason(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name cannot be resolved"
    if isinstance(error.os_error, ConnectionRefusedError):
        return "connection refused"
    number = error.os_error.errno
    return os.strerror(number).lower() if number else "no connection"


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """For a few questions; a long-lived process keeps one of its own."""
    async with aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.DummyCookieJar()) as opened:
        yield opened
