"""Chats of the dashboard's playground.

A page has a session and no API key. The gateway sends the header block of its request to control, which checks the
session and returns the id of the API key under which the request counts; no client can send that key. Apart from that,
the request is a chat completion like any other: a client disconnect ends it when the user leaves the page.
"""

import logging

import msgspec

from gateway.base import request_kinds
from gateway.http.exchange import Exchange, RequestLine
from gateway.inference.anthropic.chat import ChatApi
from gateway.inference.inference import run
from gateway.inference.services import Services
from gateway.registry.schema import ApiKey
from gateway.upstream.errors import UpstreamError

log = logging.getLogger(__name__)

PATH = b"/api/playground/chat"
_CHAT = request_kinds.BY_NAME[request_kinds.CHAT]
_CHAT_API = ChatApi(_CHAT)


class PlaygroundGrant(msgspec.Struct, frozen=True):
    """Control's permission for a chat, at one endpoint if it is pinned to it."""

    api_key_id: str
    api_key_hash: str = ""  # SHA-256, hexadecimal
    endpoint_id: str | None = None
    external: bool = False  # it may use external endpoints


_decode = msgspec.json.Decoder(PlaygroundGrant).decode


async def chat(services: Services, exchange: Exchange) -> None:
    """Serve POST /api/playground/chat, whose body is that of a chat completion. Raises Refusal."""
    try:
        status, headers, body = await services.control.query(exchange)
    except UpstreamError as error:
        log.warning("the control process does not respond: %s; a chat of the playground receives status 503", error)
        services.control.respond_degraded(exchange)
        return
    if status != 200:
        passed = [header for header in headers if header[0] not in (b"content-length", b"date")]
        exchange.reply(status, passed, body)
        return
    grant = _decode(body)
    exchange.api_key = ApiKey(grant.api_key_id, bytes.fromhex(grant.api_key_hash), (), external=grant.external)
    exchange.line = RequestLine(b"POST", _CHAT.path.encode(), exchange.line.version)
    await run(services, _CHAT_API, exchange, grant.endpoint_id)
