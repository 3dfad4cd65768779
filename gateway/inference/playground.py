"""Chats of the dashboard's playground.

A page has a session and no API key. The gateway sends the header block of its request to control, which checks the
session and returns the id of the API key under which the request counts; no client can send that key. Apart from that,
the request is a chat completion like any other: a client disconnect ends it when the user leaves the page.
"""

import logging

import msgspec

from gateway.base import errors, request_kinds
from gateway.base.errors import Refusal
from gateway.http.exchange import Exchange, RequestLine
from gateway.inference.chat import ChatApi
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
    owner_id: str = ""  # of the user who chats


def _key_of(services: Services, grant: PlaygroundGrant) -> ApiKey:
    """Return the API key of the playground, with the restrictions that it has here. Raises Refusal."""
    digest = bytes.fromhex(grant.api_key_hash)
    known = services.roster.key_of(digest) if digest else None
    if known is None:  # it was created a moment ago
        return ApiKey(grant.api_key_id, digest, (), external=grant.external, owner_id=grant.owner_id)
    if not known.enabled:
        raise Refusal(401, errors.KEY_DISABLED, "The API key of the playground is disabled.")
    return msgspec.structs.replace(known, permissions=(), external=grant.external)


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
    exchange.api_key = _key_of(services, grant)
    exchange.line = RequestLine(b"POST", _CHAT.path.encode(), exchange.line.version)
    await run(services, _CHAT_API, exchange, grant.endpoint_id)
