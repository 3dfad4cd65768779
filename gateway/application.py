"""The application of a gateway process: the table of paths, and the responses that the gateway creates itself."""

import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from gateway.base import request_kinds
from gateway.base.config import Config
from gateway.base.errors import Refusal
from gateway.base.request_kinds import Kind
from gateway.dialects.anthropic import messages_api
from gateway.dialects.ollama.native import ollama_error
from gateway.http.admission import HttpRoutes
from gateway.http.control_proxy import ControlProxy
from gateway.http.exchange import JSON, Exchange, HttpRoute
from gateway.http.key_permissions import model_access
from gateway.http.ollama.paths import ROOT
from gateway.inference import forms, inference, playground, stored_responses
from gateway.inference.api import MediaApi, OpenAiApi
from gateway.inference.chat import ChatApi
from gateway.inference.messages import CountTokensApi, MessagesApi
from gateway.inference.ollama.api import OllamaApi
from gateway.inference.ollama.lists import OllamaLists
from gateway.inference.recording import rejected
from gateway.inference.responses import ResponsesApi
from gateway.inference.services import Services
from gateway.ipc.strangers import Strangers
from gateway.routing.anthropic_models import AnthropicList, anthropic_entry, get_page
from gateway.routing.model_list import ModelList, get_model
from gateway.routing.roster import Roster

log = logging.getLogger(__name__)

INFERENCE, READ_MODELS = "openai.inference", "openai.models.read"  # permissions
_INTERNAL_ERROR = (
    b'{"error":{"message":"An internal error of RouterDash occurred; see its log.",'
    b'"type":"server_error","param":null,"code":"internal_error"}}'
)
_APIS: dict[str, type[OpenAiApi]] = {
    request_kinds.CHAT: ChatApi,
    request_kinds.RESPONSES: ResponsesApi,
    request_kinds.COMPACTIONS: ResponsesApi,
    request_kinds.MESSAGES: MessagesApi,
    request_kinds.COUNT_TOKENS: CountTokensApi,
    request_kinds.IMAGES: MediaApi,
}


class Gateway:
    """Handles the requests of all connections of this process."""

    def __init__(self, config: Config, roster: Roster, control: ControlProxy) -> None:
        self.config = config
        self.stopping = False
        self.on_connect: Callable[[], None] = lambda: None
        self.services = Services(config, roster, control)
        self.strangers = Strangers(self.services, roster.row.counts)
        self.bound_hits = self.services.bound_hits
        self.writes = self.services.writes
        self.admission = self.services.admission
        self._models = ModelList(roster, self.services.time_slices)
        self._anthropic_models = AnthropicList(roster, self.services.time_slices)
        self._ollama = OllamaLists(self.services, OllamaApi(request_kinds.SHOW))
        self.admission.routes = self._routes()

    def _routes(self) -> HttpRoutes:
        """Return the table of paths that the gateway handles itself."""
        model = HttpRoute(b"GET", READ_MODELS, self._get_model)
        return HttpRoutes(
            paths={
                **{kind.path.encode(): self._inference_route(kind) for kind in request_kinds.KINDS},
                b"/v1/models": HttpRoute(b"GET", READ_MODELS, self._list_models),
                **{kind.path.encode(): self._ollama_route(kind) for kind in request_kinds.OLLAMA_KINDS},
                **self._ollama.routes(READ_MODELS),
            },
            prefixes={
                b"/v1/models/": lambda path: model,
                b"/v1/responses/": self._stored_response_route,
            },
            pages={(b"POST", playground.PATH): HttpRoute(b"POST", "", partial(playground.chat, self.services))},
        )

    # Requests

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """Return the coroutine that handles a request whose body is complete. Raises Refusal."""
        route = exchange.route
        return self.services.control.forward(exchange) if route is None else route.handle(exchange)

    def failed(self, exchange: Exchange, error: Exception) -> None:
        """Send the refusal, or the internal error, that ended the handling of a request."""
        if isinstance(error, Refusal):
            self.refuse(exchange, error)
            return
        log.error("%r failed because of an internal error; the client receives status 500", exchange, exc_info=error)
        if exchange.started:
            exchange.abort()
        else:
            exchange.reply(500, (JSON,), _INTERNAL_ERROR)

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """Count a refusal and send it to the client, in the dialect of its API."""
        if refusal.bound is not None:
            self.bound_hits.hit(refusal.bound)
        if exchange.line.path.startswith((b"/v1/", ROOT)):
            made = rejected(exchange, refusal)
            if made.api_key_id is None:
                self.strangers.refused(made)
            else:
                self.services.record(made)
        if exchange.started:  # by keep-alive comments
            exchange.abort()
            return
        if exchange.line.path.startswith(b"/v1/messages") or _lists_for_anthropic(exchange):
            body = messages_api.anthropic_error(refusal.status, refusal.message)
        elif exchange.line.path.startswith(ROOT):
            body = ollama_error(refusal.message)
        else:
            body = refusal.body()
        exchange.reply(refusal.status, (JSON, *refusal.headers), body)

    def stop(self) -> None:
        """Have responses close their connections: the process drains."""
        self.stopping = self.services.stopping = True
        self.services.control.stop_streams()

    # Handlers

    def _inference_route(self, kind: Kind) -> HttpRoute:
        if kind.multipart:
            return HttpRoute(b"POST", INFERENCE, partial(forms.run, self.services, kind), streams=True)
        api = _APIS.get(kind.name, OpenAiApi)(kind)
        return HttpRoute(b"POST", INFERENCE, partial(inference.run, self.services, api))

    def _ollama_route(self, kind: Kind) -> HttpRoute:
        handle = partial(inference.run, self.services, OllamaApi(kind))
        return HttpRoute(b"POST", INFERENCE, handle, any_type=True)

    def _stored_response_route(self, path: bytes) -> HttpRoute | None:
        methods = stored_responses.methods_of(path)
        return None if methods is None else HttpRoute(methods, INFERENCE, partial(stored_responses.run, self.services))

    async def _list_models(self, exchange: Exchange) -> None:
        if _lists_for_anthropic(exchange):
            body = get_page(await self._anthropic_models.current(model_access(exchange)), exchange.line.query)
        else:
            body = await self._models.current(model_access(exchange))
        exchange.reply(200, (JSON,), body)

    async def _get_model(self, exchange: Exchange) -> None:
        name = unquote_to_bytes(exchange.line.path[len(b"/v1/models/") :]).decode("utf-8", "replace")
        model = get_model(self.services.roster, name, model_access(exchange))
        entry = anthropic_entry(model) if _lists_for_anthropic(exchange) else model
        exchange.reply(200, (JSON,), msgspec.json.encode(entry))


def _lists_for_anthropic(exchange: Exchange) -> bool:
    """Return True for a model list of Anthropic's API. Its clients may send their key in either header."""
    return b"anthropic-version" in exchange.head.fields and exchange.line.path.startswith(b"/v1/models")
