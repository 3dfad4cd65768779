"""OpenAI's Responses API: a request that continues a stored response goes to the endpoint that stores it.

If no endpoint of the model has the API, a request is translated to a chat completion, and the response back. Nothing
is stored then.
"""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import msgspec

from gateway.base import errors
from gateway.base.errors import Refusal
from gateway.base.request_kinds import BY_NAME, CHAT, MESSAGES, RESPONSES
from gateway.base.types import Body
from gateway.dialects.anthropic.chat_requests import translating_chat
from gateway.dialects.anthropic.chat_responses import error_from_message, from_message
from gateway.dialects.anthropic.dropped import joined
from gateway.dialects.anthropic.responses import NoChatCompletion
from gateway.dialects.endpoint_errors import EndpointError
from gateway.dialects.json_outline import Outline
from gateway.dialects.json_text import outline_of_response, small_field
from gateway.dialects.openai_events import Event
from gateway.dialects.openai_requests import Request
from gateway.dialects.openai_responses import read_large_response, read_response_object
from gateway.dialects.responses.from_messages import MessageResponseRelay
from gateway.dialects.responses.items import not_stored
from gateway.dialects.responses.objects import failure_events, is_unstored
from gateway.dialects.responses.requests import translating_response
from gateway.dialects.responses.stream import ResponseRelay
from gateway.dialects.responses.translation import ResponsesTranslation
from gateway.dialects.responses.whole import from_completion
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.surrogates import read_body
from gateway.dialects.usage import Usage
from gateway.inference.api import OpenAiApi
from gateway.inference.attempt import Attempt
from gateway.inference.choosing import current_routes
from gateway.inference.failures.reading import cause_of
from gateway.inference.messages import check_translated_size, may_have_chat, without_options
from gateway.inference.request import InferenceRequest
from gateway.inference.sending import send, send_with_usage
from gateway.inference.stored_ids import (
    UNDECODABLE,
    decode_items,
    decode_response,
    decode_string,
    endpoint_of,
    id_writer,
    item_id,
    may_have_ids,
    references,
    store_items,
)
from gateway.loop.time_slices import Slices, one_slice
from gateway.providers.bodies import provider_body
from gateway.providers.errors import NOT_FOUND_STATUSES, ErrorCause
from gateway.providers.table import DEEPSEEK
from gateway.routing.balancer import CREATOR, OPEN, Decision
from gateway.upstream.connection import Connection
from gateway.upstream.errors import BROKEN, UpstreamError

PREVIOUS, CONVERSATION, INPUT = "previous_response_id", "conversation", "input"
CHOSEN_ID = "request_id"  # by which vLLM lets a client choose the id of its response, even that of another client
_CHAT_PATH, _MESSAGES_PATH = BY_NAME[CHAT].target, BY_NAME[MESSAGES].target
MAX_SEARCHED = 8  # endpoints that a request finds without the API, before it is translated
_REFERRING = frozenset((PREVIOUS, CONVERSATION, INPUT, CHOSEN_ID))

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ResponsesRelay(StreamRelay):
    """A stream of a response's events. `store` receives the ids of the response and of its items as they arrive.

    A response that is created in the background can be read from then on.
    """

    store: Callable[[str], None] | None = None
    response_id: str | None = None  # None: no event has named the response yet

    @property
    def next_number(self) -> int:
        """The sequence number of the next event, if the endpoint counts from 0."""
        return self.events

    def _hold(self, raw: bytes) -> bytes:
        if self.error is not None and self.held:
            return b""  # the endpoint's own `response.failed` after its error
        if self.error is not None and not self.finished:  # some clients ignore an event `error`
            words, sentence = self.error.words, self.error.sentence
            failed = failure_events(
                words[-1] if words else "server_error",
                sentence,
                self._requested_model,
                self.response_id,
                self.next_number,
            )
            raw += self._clean(failed)
        return super()._hold(raw)

    def _count_event(self, event: Event) -> None:
        super()._count_event(event)
        if event.response_id is not None:
            self.response_id = event.response_id
        if self.store is None:
            return
        if event.response_id is not None:
            self.store(event.response_id)
        if event.item is not None and (stored_id := item_id(event.item)):
            self.store(stored_id)


class ResponsesApi(OpenAiApi):
    """POST /v1/responses, and /v1/responses/compact, which is not translated."""

    def parse(self, request: InferenceRequest, body: Body) -> Request:
        parsed = super().parse(request, body)
        try:
            fields = _referring_fields(body)
        except UNDECODABLE:
            return parsed  # valid enough for `parse_whole`: the endpoint may report the error
        items = fields.pop(INPUT, None)
        _check_references(request, fields, references(items) if items is not None and may_have_ids(items) else ())
        return parsed

    async def check_big(self, request: InferenceRequest, body: Body, top: Outline | None) -> None:
        try:
            fields = _referring_fields_of_big(body, top)
        except UNDECODABLE:
            return
        slices, items = request.services.time_slices, fields.pop(INPUT, None)
        ids: list[str] = []
        if items is not None:
            await slices.next()
            if may_have_ids(items):
                await slices.next()
                ids = references(items)
        _check_references(request, fields, ids)

    def send(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Coroutine[Any, Any, Connection]:
        if self.kind.name != RESPONSES:
            return super().send(request, attempt, body)
        if request.services.roster.aside.lacks(attempt.endpoint, RESPONSES):
            return self._send_as_chat(request, attempt, body)
        return self._send_or_translate(request, attempt, body)

    async def _send_or_translate(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Connection:
        connection = await super().send(request, attempt, body)
        if connection.status not in NOT_FOUND_STATUSES or not may_have_chat(attempt.endpoint):
            return connection
        attempt.error_body = await connection.read_all()
        if cause_of(request, attempt, connection, attempt.error_body) is not ErrorCause.PATH_UNKNOWN:
            return connection
        request.services.roster.aside.learn_lacking(attempt.endpoint, RESPONSES)
        if _another_may_have_it(request, attempt):
            return connection
        attempt.error_body = None
        return await self._send_as_chat(request, attempt, body)

    async def _send_as_chat(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Connection:
        """Send the request as a chat completion, or that as Messages. Raises Refusal."""
        provider, model = attempt.endpoint.provider, attempt.route.model.id
        keeps_reasoning = provider is None or provider.kind == DEEPSEEK
        slices = translating_response(body, model, keeps_reasoning=keeps_reasoning)
        chat, translation = await request.services.time_slices.start_now(slices)
        attempt.translation = translation
        if attempt.endpoint.gets_messages:
            slices_of_chat = translating_chat(chat, model, max_output=attempt.route.model.max_output_tokens)
            messages, inner = await request.services.time_slices.start_now(slices_of_chat)
            attempt.translation = msgspec.structs.replace(
                translation, headers=inner.headers, dropped=joined(translation.dropped, inner.dropped), kind=MESSAGES
            )
            return await send(request, attempt, (messages,), _MESSAGES_PATH)
        if provider is not None:
            chat = bytes(provider_body(chat, provider, CHAT, model, has_options=True))
        if attempt.endpoint.memory.usage_refused:
            chat = without_options(chat)
        elif request.parsed.stream:
            return await send_with_usage(request, attempt, (chat,), lambda: (without_options(chat),), _CHAT_PATH)
        return await send(request, attempt, (chat,), _CHAT_PATH)

    def new_relay(self, request: InferenceRequest, attempt: Attempt) -> StreamRelay:
        translation = attempt.translation
        if isinstance(translation, ResponsesTranslation):
            new = MessageResponseRelay if translation.kind == MESSAGES else ResponseRelay
            return new(request.parsed.model, translation)
        relay = ResponsesRelay(self.dialect, request.parsed.model, hide_usage=attempt.usage_added)
        relay.store = id_writer(request, attempt)
        return relay

    def endpoint_error(self, status: int, body: bytes, details: EndpointError) -> bytes:
        translated = error_from_message(body) if details.is_json else None
        return super().endpoint_error(status, body, details) if translated is None else translated

    def error_event(self, request: InferenceRequest, body: bytes) -> bytes:
        relay = None if request.attempt is None else request.attempt.relay
        response_id, number = None, 0
        if isinstance(relay, ResponsesRelay | ResponseRelay | MessageResponseRelay):
            response_id, number = relay.response_id, relay.next_number
        error = msgspec.json.decode(body)["error"]
        return failure_events(error["code"], error["message"], request.parsed.model, response_id, number)

    def read(self, request: InferenceRequest, attempt: Attempt, body: bytes) -> tuple[bytes, Usage | None]:
        translation, model = attempt.translation, request.parsed.model
        if isinstance(translation, ResponsesTranslation):
            try:
                if translation.kind != MESSAGES:
                    return from_completion(body, model, translation)
                chat, usage = from_message(body, model, translation)
                return from_completion(chat, model, translation)[0], usage
            except NoChatCompletion as error:
                raise UpstreamError(BROKEN, str(error), error.endpoint_error) from None
        store, response = id_writer(request, attempt), decode_response(body)
        if isinstance(response.id, str):
            store(response.id)
        store_items(store, decode_items(memoryview(response.output)) or ())
        return read_response_object(body, model)

    def read_slices(
        self, request: InferenceRequest, attempt: Attempt, body: bytes
    ) -> Slices[tuple[bytes, Usage | None]]:
        if attempt.translation is not None:
            check_translated_size(request, body)
            return (yield from one_slice(lambda: self.read(request, attempt, body)))
        top = yield from outline_of_response(body)
        if top is not None:
            store = id_writer(request, attempt)
            if isinstance(response_id := small_field(body, top, b"id"), str):
                store(response_id)
            yield
            store_items(store, decode_items(value_of(body, top, b"output")) or ())
            yield
        return (yield from read_large_response(body, request.parsed.model))


def _another_may_have_it(request: InferenceRequest, attempt: Attempt) -> bool:
    """Return True if another endpoint of the model is worth asking for Responses before the request is translated."""
    if len(request.attempts) >= MAX_SEARCHED:
        return False
    if request.chain is None:
        routes = list(current_routes(request))
    else:
        routes = [it for target in request.chain.targets() if attempt.route in target.routes for it in target.routes]
    unable = request.services.roster.aside.unable.get(RESPONSES, {})
    tried = {record.endpoint_id for record in request.attempts}
    return any(
        route.endpoint.rank < OPEN and route.endpoint.id not in unable and route.endpoint.id not in tried
        for route in routes
    )


def value_of(body: Body, top: Outline, name: bytes) -> memoryview:
    """Return the value of a field of a big object; an empty one without the field."""
    start, end = top.values.get(name, (0, 0))
    return memoryview(body)[start:end]


def _referring_fields(body: Body) -> dict[str, memoryview]:
    """Return the fields that may refer to stored objects. Names are case-folded, as some servers ignore case."""
    fields = read_body(_decode_fields, body)
    folded = ((name.casefold(), value) for name, value in fields.items())
    return {name: memoryview(value) for name, value in folded if name in _REFERRING}


def _referring_fields_of_big(body: Body, top: Outline | None) -> dict[str, memoryview]:
    """Return the same fields of a big body. `top` is its outline, or None if a parser is quicker."""
    if top is None:
        return _referring_fields(body)
    named = ((name.decode("utf-8", "replace").casefold(), name) for name in top.values)
    return {folded: value_of(body, top, name) for folded, name in named if folded in _REFERRING}


def _check_references(request: InferenceRequest, fields: dict[str, memoryview], ids: Iterable[str]) -> None:
    """Check that stored objects belong to the API key, and prefer the endpoint that stores them. Raises Refusal."""
    if _has_value(fields, PREVIOUS):
        previous = decode_string(fields[PREVIOUS]) or ""
        if is_unstored(previous):
            raise not_stored(PREVIOUS)
        _prefer(request, endpoint_of(request, previous, PREVIOUS))
    for stored_id in ids:
        if is_unstored(stored_id):
            raise not_stored(INPUT)
        endpoint_id = endpoint_of(request, stored_id, INPUT)
        _prefer(request, endpoint_id)
    if request.services.config.open_responses:
        return
    if _has_value(fields, CHOSEN_ID):
        message = "`request_id` is not accepted: endpoints choose the ids."
        raise Refusal(400, errors.INVALID_REQUEST, message, param=CHOSEN_ID)
    # Conversations are created without RouterDash: their owner is unknown.
    if _has_value(fields, CONVERSATION):
        message = (
            "RouterDash cannot determine the owner of a conversation; ROUTERDASH_OPEN_RESPONSES lets keys use any."
        )
        raise Refusal(404, errors.NOT_FOUND, message, param=CONVERSATION)


def _prefer(request: InferenceRequest, endpoint_id: str | None) -> None:
    if request.preferred is None and endpoint_id:
        request.preferred = Decision(endpoint_id, CREATOR, ())


def _has_value(fields: dict[str, memoryview], name: str) -> bool:
    return name in fields and bytes(fields[name][:5]) not in (b"null", b'""')
