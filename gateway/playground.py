"""Chats of the dashboard's playground: control says who asks and for which endpoint, the gateway does the rest.

A page has a session and no key. Control is asked by the request's head whether the session may; its answer names the
key under which the request counts, one that nobody can send, as the hash of no known key. From there on it is a request
like any other: routed, relayed, recorded, ended when the page is left.
"""

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

import msgspec

from gateway import kinds
from gateway.balancer import EXCLUDED, PINNED, Decision
from gateway.exchange import Exchange
from gateway.inference import Inference
from gateway.roster import Routes
from gateway.snapshot import ApiKey
from gateway.upstream import UpstreamError

if TYPE_CHECKING:
    from gateway.handler import Gateway

log = logging.getLogger(__name__)

PATH = b"/api/playground/chat"
_CHAT = kinds.BY_NAME[kinds.CHAT]


class Admitted(msgspec.Struct, frozen=True):
    """Control's word for a request that may go on. `endpoint_id`: to this one and to no other."""

    api_key_id: str
    endpoint_id: str | None = None


_decode = msgspec.json.Decoder(Admitted).decode


class PinnedInference(Inference):
    """To one endpoint, or to none. It may wait there like any other."""

    def _routes(self) -> Routes:
        return self._pinned(super()._routes())

    def _routes_again(self) -> Routes:
        return self._pinned(super()._routes_again())

    def _pinned(self, routes: Routes) -> Routes:
        return Routes(route for route in routes if route.endpoint.id == self.made_by)

    def _where_it_is(self, made_by: str, routes: Routes, tried: Collection[str]) -> Decision | None:
        route = routes.by_id.get(made_by)
        if route is None or route.endpoint.rank >= EXCLUDED or made_by in tried:
            return None
        return Decision(made_by, PINNED, ())


async def answer(gateway: "Gateway", exchange: Exchange) -> None:
    """POST /api/playground/chat, a body as for chat completions."""
    try:
        status, headers, body = await gateway.forwarder.ask(exchange)
    except UpstreamError as error:
        log.warning("the control process does not answer: %s", error)
        gateway.forwarder.answer_alone(exchange)
        return
    if status != 200:
        kept = [header for header in headers if header[0] not in (b"content-length", b"date")]
        exchange.reply(status, kept, body)
        return
    admitted = _decode(body)
    exchange.api_key = ApiKey(admitted.api_key_id, "", ())
    exchange.path, exchange.query = _CHAT.path.encode(), b""
    if admitted.endpoint_id is None:
        await Inference(gateway, exchange, _CHAT).run()
    else:
        inference = PinnedInference(gateway, exchange, _CHAT)
        inference.made_by = admitted.endpoint_id
        await inference.run()
