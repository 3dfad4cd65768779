"""Ollama's own API: passed through to endpoints that are an Ollama, else translated to OpenAI's API and back.

`keep_alive` of clients is left out by default: it would unload models that others use (ROUTERDASH_OLLAMA_KEEP_ALIVE).
Requests without a prompt, which load or unload a model, are answered here: RouterDash chooses the servers, and loads a
model when a request needs it.
"""

from collections.abc import Coroutine
from typing import Any

import msgspec

from gateway.base import errors
from gateway.base.errors import Refusal
from gateway.base.ollama_settings import PASS
from gateway.base.queue_class import CLASS_HEADER
from gateway.base.request_kinds import BY_NAME, CHAT, MESSAGES, OLLAMA_CHAT, OLLAMA_EMBED, Kind
from gateway.base.types import Body
from gateway.dialects.anthropic.chat_requests import translating_chat
from gateway.dialects.anthropic.chat_responses import from_message
from gateway.dialects.anthropic.dropped import joined
from gateway.dialects.anthropic.responses import NoChatCompletion
from gateway.dialects.anthropic.translation import Translation
from gateway.dialects.body_edits import edit, edit_large
from gateway.dialects.endpoint_errors import EndpointError
from gateway.dialects.ollama import native
from gateway.dialects.ollama.durations import Stopwatch, created_at
from gateway.dialects.ollama.from_messages import MessageLinesRelay
from gateway.dialects.ollama.from_openai import LinesRelay, Shell, from_completion, from_embeddings
from gateway.dialects.ollama.requests import (
    OllamaRequest,
    SmallOllamaRequest,
    decode_small,
    fields_of,
    lifted,
    names_of,
    native_fields,
    put_back,
    request_of,
    split_large,
)
from gateway.dialects.ollama.to_openai import Translated, translating
from gateway.dialects.openai_requests import BIG_BYTES
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.usage import Usage
from gateway.http.exchange import JSON, Exchange
from gateway.inference.api import OpenAiApi, read_prefix
from gateway.inference.attempt import Attempt
from gateway.inference.error_responses import sentence_of
from gateway.inference.inference import serve
from gateway.inference.messages import check_translated_size
from gateway.inference.ollama.lists import OLLAMA
from gateway.inference.request import InferenceRequest
from gateway.inference.sending import check_loop, send, send_with_usage
from gateway.inference.services import Services
from gateway.inference.steps.named_models import begin_chain
from gateway.inference.waiting import set_class
from gateway.loop.time_slices import Slices, one_slice
from gateway.providers.bodies import provider_body
from gateway.routing.roster import Roster
from gateway.upstream.connection import Connection
from gateway.upstream.errors import BROKEN, UpstreamError
from gateway.upstream.response_head import LINES

MAX_VECTOR_BYTES = 32 << 20  # of a response with embeddings that is translated
_ONE_VECTOR = b"/api/embeddings"

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class OllamaApi(OpenAiApi):
    """POST /api/chat, /api/generate, /api/embed or /api/embeddings."""

    relays_huge = False  # a response may need translation
    reads_lines = True

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.dialect = native.DIALECT

    def query(self, request: InferenceRequest) -> bytes:
        return b""

    def send(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Coroutine[Any, Any, Connection]:
        endpoint = attempt.endpoint
        if endpoint.facts.kind == OLLAMA and not request.services.roster.aside.lacks(endpoint, self.kind.name):
            return send(request, attempt, (_native_body(request, attempt, body),))
        return self._send_translated(request, attempt, body)

    async def _send_translated(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Connection:
        endpoint, model = attempt.endpoint, attempt.route.model.id
        with_usage = not endpoint.memory.usage_refused
        translated: Translated = await request.services.time_slices.start_now(
            translating(
                body,
                self.kind.name,
                model,
                endpoint.facts.kind,
                has_own=request.chain is not None,
                usage=with_usage,
            )
        )
        attempt.translation = Translation(dropped=translated.dropped, content_type=LINES, kind=translated.kind)
        path, sent = BY_NAME[translated.kind].target, translated.body
        if translated.kind == CHAT and endpoint.gets_messages:
            return await self._send_as_messages(request, attempt, translated)
        if endpoint.provider is not None:
            sent = bytes(provider_body(sent, endpoint.provider, translated.kind, model, has_options=True))
        if request.parsed.stream and with_usage and self.kind.generates:
            return await send_with_usage(request, attempt, (sent,), lambda: (_without_options(sent),), path)
        return await send(request, attempt, (sent,), path)

    async def _send_as_messages(
        self, request: InferenceRequest, attempt: Attempt, translated: Translated
    ) -> Connection:
        """Send the chat completion to an endpoint that has Anthropic's Messages instead."""
        model = attempt.route.model
        slices = translating_chat(translated.body, model.id, max_output=model.max_output_tokens)
        messages, translation = await request.services.time_slices.start_now(slices)
        attempt.translation = msgspec.structs.replace(
            translation, dropped=joined(translated.dropped, translation.dropped), content_type=LINES, kind=MESSAGES
        )
        return await send(request, attempt, (messages,), BY_NAME[MESSAGES].target)

    def new_relay(self, request: InferenceRequest, attempt: Attempt) -> StreamRelay:
        translation = attempt.translation
        if translation is not None and translation.kind == MESSAGES:
            return MessageLinesRelay(self._shell(request, attempt), translation)
        if translation is not None:
            return LinesRelay(self._shell(request, attempt))
        return native.NativeRelay(_shown(request), keep_context=_keeps_context(request))

    def read(self, request: InferenceRequest, attempt: Attempt, body: bytes) -> tuple[bytes, Usage | None]:
        if attempt.translation is None:
            return native.read_native(body, _shown(request), keep_context=_keeps_context(request))
        shell = self._shell(request, attempt)
        try:
            if self.kind.name == OLLAMA_EMBED:
                return from_embeddings(body, shell, one=self.kind.target == _ONE_VECTOR)
            if attempt.translation.kind == MESSAGES:
                chat, usage = from_message(body, shell.model, attempt.translation)
                return from_completion(chat, shell)[0], usage
            return from_completion(body, shell)
        except NoChatCompletion as error:
            raise UpstreamError(BROKEN, str(error), error.endpoint_error) from None

    def read_slices(
        self, request: InferenceRequest, attempt: Attempt, body: bytes
    ) -> Slices[tuple[bytes, Usage | None]]:
        if attempt.translation is not None and (self.kind.name != OLLAMA_EMBED or len(body) > MAX_VECTOR_BYTES):
            check_translated_size(request, body)
        return one_slice(lambda: self.read(request, attempt, body))

    def endpoint_error(self, status: int, body: bytes, details: EndpointError) -> bytes:
        return native.ollama_error(sentence_of(details, status))

    def error_body(
        self,
        request: InferenceRequest,
        status: int,
        code: str,
        message: str,
        param: str | None,
        error_type: str | None = None,
    ) -> bytes:
        return native.ollama_error(message)

    def _shell(self, request: InferenceRequest, attempt: Attempt) -> Shell:
        stopwatch = Stopwatch(request.exchange.arrived, attempt.started)
        return Shell(self.kind.name, _shown(request), stopwatch)


def run(services: Services, api: OllamaApi, exchange: Exchange) -> Coroutine[Any, Any, None]:
    """Parse the body of a request; return the coroutine that serves it. Raises Refusal for a bad request."""
    request = InferenceRequest(services, exchange, api)
    if b"via" in exchange.head.fields:
        check_loop(request)
    body = exchange.take_body()
    if len(body) > BIG_BYTES:
        return _serve_big(request, body)
    found = decode_small(body)
    return _begin(request, body, found, request_of(found))


async def _serve_big(request: InferenceRequest, body: Body) -> None:
    """Parse a big body in time slices, and serve its request."""
    found, parsed = await _read_big(request, body)
    await _begin(request, body, found, parsed)


async def _read_big(request: InferenceRequest, body: Body) -> tuple[SmallOllamaRequest, OllamaRequest]:
    """Parse a big body in time slices. The values of all its fields end here."""
    top = await request.services.time_slices.start_now(split_large(body))
    found = fields_of(body, top)
    return found, request_of(found, top.values)


def _begin(
    request: InferenceRequest, body: Body, found: SmallOllamaRequest, parsed: OllamaRequest
) -> Coroutine[Any, Any, None]:
    """Find the routes of a request, and return the coroutine that serves it. Raises Refusal."""
    services = request.services
    parsed = msgspec.structs.replace(parsed, model=_routed_name(services.roster, parsed.model))
    request.parsed = parsed
    begin_chain(request, parsed)
    passes = services.config.ollama_keep_alive == PASS and _is_at_one_ollama(request)
    if parsed.is_empty and not passes:
        return _answer_without_prompt(request, parsed)
    if parsed.has_context and not _keeps_context(request):
        message = (
            f"`context` is understood only by the server that sent it, and several may serve the model "
            f"{parsed.shown!r}. Leave it out, and send the conversation to /api/chat."
        )
        raise Refusal(400, errors.INVALID_REQUEST, message, param="context")
    read_prefix(request, parsed, found, len(body))
    key = request.exchange.api_key
    if CLASS_HEADER in request.exchange.head.fields or (key is not None and key.bulk):
        set_class(request)
    if request.chain is not None:
        body = lifted(body)
    if services.stores_bodies:
        request.body = body
    return serve(request, body)


def _routed_name(roster: Roster, name: str) -> str:
    """Return the name under which a model is known here: `x` and `x:latest` are the same."""
    names = roster.names
    for known in names_of(name):
        if (names is not None and names.plan(known) is not None) or roster.routes(known):
            return known
    return name


async def _answer_without_prompt(request: InferenceRequest, parsed: OllamaRequest) -> None:
    """Answer a request that only loads a model, or unloads it, which has no record. Raises Refusal."""
    roster, kind = request.services.roster, request.api.kind
    if request.chain is None and not roster.routes(parsed.model):
        message = f"The model {parsed.shown!r} does not exist; GET /api/tags lists the models."
        raise Refusal(404, errors.MODEL_NOT_FOUND, message, param="model")
    if parsed.unloads:
        message = (
            "Clients may not unload models, which others may use. With ROUTERDASH_OLLAMA_KEEP_ALIVE=pass they may, if "
            "a single Ollama has the model."
        )
        raise Refusal(403, errors.PERMISSION_DENIED, message, param="keep_alive")
    found: dict[str, Any]
    if kind.name == OLLAMA_EMBED:
        if kind.target != _ONE_VECTOR:
            raise Refusal(400, errors.INVALID_REQUEST, "`input` is missing.", param="input")
        found = {"embedding": []}
    else:
        found = {"model": parsed.shown, "created_at": created_at()}
        if kind.name == OLLAMA_CHAT:
            found["message"] = {"role": "assistant", "content": ""}
        else:
            found["response"] = ""
        found |= {"done": True, "done_reason": "load"}
    request.exchange.reply(200, (JSON,), msgspec.json.encode(found), request.header_lines())


def _is_at_one_ollama(request: InferenceRequest) -> bool:
    """Return True if every request for the model goes to the same Ollama."""
    if request.chain is not None:
        return False
    routes = request.services.roster.routes(request.parsed.model)
    return len(routes) == 1 and routes[0].endpoint.facts.kind == OLLAMA


def _keeps_context(request: InferenceRequest) -> bool:
    return _is_at_one_ollama(request)


def _shown(request: InferenceRequest) -> str:
    """Return the model's name as the client knows it."""
    parsed, chain = request.parsed, request.chain
    assert isinstance(parsed, OllamaRequest)
    if chain is not None and chain.plan.name is not None and chain.plan.name.echo_served:
        return parsed.model  # `adapt` has set it
    return parsed.shown


def _native_body(request: InferenceRequest, attempt: Attempt, body: Body) -> Body:
    """Return the body for an Ollama, with its own name of the model. Raises Refusal."""
    parsed, model = request.parsed, attempt.route.model.id
    assert isinstance(parsed, OllamaRequest)
    passes = request.services.config.ollama_keep_alive == PASS
    is_named = request.chain is not None
    if not is_named and parsed.shown == model and (passes or not parsed.has_keep_alive):
        return body

    def change(fields: dict[str, msgspec.Raw]) -> None:
        if is_named:
            put_back(fields)
        native_fields(fields, model, keep_alive=passes)

    if parsed.places is not None and not is_named and (large := edit_large(body, parsed.places, change)) is not None:
        return large[0]
    return edit(body, change)


def _without_options(chat: bytes) -> bytes:
    fields = _decode_object(chat)
    fields.pop("stream_options", None)
    return msgspec.json.encode(fields)
