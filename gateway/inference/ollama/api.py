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
from gateway.base.request_kinds import OLLAMA_CHAT, OLLAMA_EMBED, Kind
from gateway.base.types import Body
from gateway.dialects.body_edits import edit, edit_large
from gateway.dialects.chat.relay import TranslatingRelay
from gateway.dialects.chat.translation import Translation
from gateway.dialects.deciding_fields import UNLOADING, checking
from gateway.dialects.endpoint_errors import EndpointError
from gateway.dialects.hop import events_by_chat
from gateway.dialects.json_outline import Outline, outline_of
from gateway.dialects.ollama import native
from gateway.dialects.ollama.durations import Stopwatch, created_at
from gateway.dialects.ollama.from_openai import Lines, Shell, from_completion, from_embeddings
from gateway.dialects.ollama.requests import (
    OllamaRequest,
    decode_small,
    fields_of,
    lifted,
    native_fields,
    put_back,
    request_of,
)
from gateway.dialects.ollama.to_openai import Translated, translating
from gateway.dialects.openai_requests import SMALL_BYTES
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.usage import Usage
from gateway.http.exchange import JSON
from gateway.inference.api import OpenAiApi, read_prefix
from gateway.inference.attempt import Attempt
from gateway.inference.choosing import find_routes, lost_permission
from gateway.inference.error_responses import sentence_of
from gateway.inference.hop import reading_translated, send_by_chat
from gateway.inference.limiting.checked_bodies import is_restricted
from gateway.inference.ollama.lists import OLLAMA
from gateway.inference.recording import finish
from gateway.inference.request import InferenceRequest
from gateway.inference.sending import send
from gateway.ipc import record
from gateway.loop.time_slices import Slices, one_slice
from gateway.registry.patterns import names_of
from gateway.routing.roster import Roster, plan_of
from gateway.upstream.connection import Connection
from gateway.upstream.response_head import LINES

MAX_VECTOR_BYTES = 32 << 20  # of a response with embeddings that is translated
_ONE_VECTOR = b"/api/embeddings"


class OllamaApi(OpenAiApi):
    """POST /api/chat, /api/generate, /api/embed or /api/embeddings."""

    relays_huge = False  # a response may need translation
    reads_lines = True

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.dialect = native.DIALECT

    def parsing(self, request: InferenceRequest, body: Body) -> Slices[Outline | None]:
        if len(body) <= SMALL_BYTES:
            top, fields = None, decode_small(body)
        else:
            top = yield from outline_of(body)
            fields = fields_of(body, top)
        parsed = request_of(fields, None if top is None else top.values)
        parsed = msgspec.structs.replace(parsed, model=_routed_name(request.services.roster, parsed.model))
        request.parsed = parsed
        request.begin_chain(parsed)
        read_prefix(request, parsed, fields, len(body))
        if is_restricted(request):
            yield from checking(body, top)
        elif not _passes_keep_alive(request):  # no spelling of it may unload a model
            yield from checking(body, top, UNLOADING)
        return top

    def serve(self, request: InferenceRequest, body: Body) -> Coroutine[Any, Any, None]:
        parsed = request.parsed
        assert isinstance(parsed, OllamaRequest)
        if parsed.is_empty and not (_passes_keep_alive(request) and _is_at_one_ollama(request)):
            return _answer_without_prompt(request, parsed, body)
        if parsed.has_context and not _keeps_context(request):
            message = (
                f"`context` is understood only by the server that sent it, and several may serve the model "
                f"{parsed.shown!r}. Leave it out, and send the conversation to /api/chat."
            )
            raise Refusal(400, errors.INVALID_REQUEST, message, param="context")
        return super().serve(request, body if request.chain is None else lifted(body))

    def query(self, request: InferenceRequest) -> bytes:
        return b""

    def send(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Coroutine[Any, Any, Connection]:
        endpoint = attempt.endpoint
        if endpoint.facts.kind == OLLAMA and not request.services.roster.aside.lacks(endpoint, self.kind.name):
            return send(request, attempt, (_native_body(request, attempt, body),))
        return self._send_translated(request, attempt, body)

    async def _send_translated(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Connection:
        has_own = request.chain is not None
        slices = translating(body, self.kind.name, attempt.route.model.id, attempt.endpoint.facts.kind, has_own=has_own)
        translated: Translated = await request.services.time_slices.start_now(slices)
        translation = Translation(dropped=translated.dropped, content_type=LINES, kind=translated.kind)
        return await send_by_chat(request, attempt, translated.body, translation, translated.kind)

    def new_relay(self, request: InferenceRequest, attempt: Attempt) -> StreamRelay:
        translation = attempt.translation
        if translation is None:
            return native.NativeRelay(_shown(request), keep_context=_keeps_context(request))
        shell = self._shell(request, attempt)
        return TranslatingRelay(shell.model, events_by_chat(shell.model, translation, Lines(shell)))

    def reading(self, request: InferenceRequest, attempt: Attempt, body: bytes) -> Slices[tuple[bytes, Usage | None]]:
        if attempt.translation is None:
            return one_slice(lambda: native.read_native(body, _shown(request), keep_context=_keeps_context(request)))
        shell = self._shell(request, attempt)
        if self.kind.name != OLLAMA_EMBED:
            return reading_translated(request, body, attempt.translation, lambda chat: from_completion(chat, shell))
        is_one = self.kind.target == _ONE_VECTOR
        return reading_translated(
            request,
            body,
            attempt.translation,
            lambda whole: from_embeddings(whole, shell, one=is_one),
            MAX_VECTOR_BYTES,
        )

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


def _routed_name(roster: Roster, name: str) -> str:
    """Return the name under which a model is known here: `x` and `x:latest` are the same."""
    for known in names_of(name):
        if plan_of(roster, known) is not None or roster.routes(known):
            return known
    return name


async def _answer_without_prompt(request: InferenceRequest, parsed: OllamaRequest, body: Body) -> None:
    """Answer a request that only loads a model, or unloads it. It reaches no endpoint. Raises Refusal."""
    kind = request.api.kind
    find_routes(request, body)  # for its refusals, which are those of a request with a prompt
    if (lost := lost_permission(request)) is not None:
        raise lost
    if parsed.unloads:
        message = (
            "Clients may not unload models, which others may use. With ROUTERDASH_OLLAMA_KEEP_ALIVE=pass they may, if "
            "a single Ollama has the model."
        )
        raise Refusal(403, errors.PERMISSION_DENIED, message, param="keep_alive")
    answer: dict[str, Any]
    if kind.name == OLLAMA_EMBED:
        if kind.target != _ONE_VECTOR:
            raise Refusal(400, errors.INVALID_REQUEST, "`input` is missing.", param="input")
        answer = {"embedding": []}
    else:
        answer = {"model": parsed.shown, "created_at": created_at()}
        if kind.name == OLLAMA_CHAT:
            answer["message"] = {"role": "assistant", "content": ""}
        else:
            answer["response"] = ""
        answer |= {"done": True, "done_reason": "load"}
    finish(request, record.OK, 200)
    request.exchange.reply(200, (JSON,), msgspec.json.encode(answer), request.header_lines())


def _passes_keep_alive(request: InferenceRequest) -> bool:
    return request.services.config.ollama_keep_alive == PASS


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
    passes = _passes_keep_alive(request)
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
