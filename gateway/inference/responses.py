"""OpenAI's Responses API: a request that continues a stored response goes to the endpoint that stores it.

If no endpoint of the model has the API, a request is translated to a chat completion, and the response back. Nothing
is stored then.
"""

from collections.abc import Coroutine, Iterable
from typing import Any

import msgspec

from gateway.base import errors
from gateway.base.errors import Refusal
from gateway.base.request_kinds import RESPONSES
from gateway.base.types import Body
from gateway.dialects.chat.relay import TranslatingRelay
from gateway.dialects.deciding_fields import (
    CHOSEN_ID,
    CONVERSATION,
    INPUT,
    PREVIOUS,
    REFERRING,
    check_name,
    field_of,
)
from gateway.dialects.hop import events_by_chat
from gateway.dialects.json_outline import SLICE_STEPS, Outline, outline_by_parser
from gateway.dialects.openai_responses import reading_response
from gateway.dialects.responses.items import not_stored
from gateway.dialects.responses.objects import failure_events, is_unstored
from gateway.dialects.responses.requests import translating_response
from gateway.dialects.responses.stream import ResponseEvents
from gateway.dialects.responses.translation import ResponsesTranslation
from gateway.dialects.responses.whole import from_completion
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.usage import Usage
from gateway.inference.api import OpenAiApi
from gateway.inference.attempt import Attempt
from gateway.inference.choosing import current_routes
from gateway.inference.hop import lacks_api, reading_translated, send_by_chat
from gateway.inference.request import InferenceRequest
from gateway.inference.stored import background
from gateway.inference.stored.relays import ResponsesRelay, background_relay
from gateway.inference.stored_ids import (
    decode_items,
    decode_string,
    endpoint_of,
    id_writer,
    may_have_ids,
    reading_ids,
    reading_object,
    store_items,
)
from gateway.loop.time_slices import Slices
from gateway.providers.table import DEEPSEEK
from gateway.routing.balancer import CREATOR, OPEN, Decision
from gateway.upstream.connection import Connection

MAX_SEARCHED = 8  # endpoints that a request finds without the API, before it is translated


class ResponsesApi(OpenAiApi):
    """POST /v1/responses, and /v1/responses/compact, which is not translated."""

    def parsing(self, request: InferenceRequest, body: Body) -> Slices[Outline | None]:
        top = yield from super().parsing(request, body)
        fields, ids = yield from _reading_references(body, top)
        _check_references(request, fields, ids)
        return top

    def send(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Coroutine[Any, Any, Connection]:
        if self.kind.name != RESPONSES:
            return super().send(request, attempt, body)
        if request.services.roster.aside.lacks(attempt.endpoint, RESPONSES):
            return self._send_as_chat(request, attempt, body)
        return self._send_or_translate(request, attempt, body)

    async def _send_or_translate(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Connection:
        connection = await super().send(request, attempt, body)
        if not await lacks_api(request, attempt, connection) or _another_may_have_it(request, attempt):
            return connection
        attempt.error_body = None
        return await self._send_as_chat(request, attempt, body)

    async def _send_as_chat(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Connection:
        """Send the request as a chat completion, or that as Messages. Raises Refusal."""
        provider, model = attempt.endpoint.provider, attempt.route.model.id
        keeps_reasoning = provider is None or provider.kind == DEEPSEEK
        slices = translating_response(body, model, keeps_reasoning=keeps_reasoning)
        chat, translation = await request.services.time_slices.start_now(slices)
        return await send_by_chat(request, attempt, chat, translation)

    def new_relay(self, request: InferenceRequest, attempt: Attempt) -> StreamRelay:
        translation, model = attempt.translation, request.parsed.model
        if isinstance(translation, ResponsesTranslation):
            return TranslatingRelay(model, events_by_chat(model, translation, ResponseEvents(model, translation)))
        if not request.parsed.background:
            relay = ResponsesRelay(self.dialect, request.parsed.model, hide_usage=attempt.usage_added)
        else:
            relay = background_relay(request, attempt, self.dialect)
        relay.store = id_writer(request, attempt)
        return relay

    def error_event(self, request: InferenceRequest, body: bytes) -> bytes:
        relay = None if request.attempt is None else request.attempt.relay
        response_id, number = None, 0
        if isinstance(relay, ResponsesRelay):
            response_id, number = relay.response_id, relay.next_number
        elif isinstance(relay, TranslatingRelay) and isinstance(relay.writer, ResponseEvents):
            response_id, number = relay.writer.response_id, relay.writer.number
        error = msgspec.json.decode(body)["error"]
        return failure_events(error["code"], error["message"], request.parsed.model, response_id, number)

    def reading(self, request: InferenceRequest, attempt: Attempt, body: bytes) -> Slices[tuple[bytes, Usage | None]]:
        translation, model = attempt.translation, request.parsed.model
        if isinstance(translation, ResponsesTranslation):
            translated: ResponsesTranslation = translation
            return (
                yield from reading_translated(
                    request, body, translated, lambda chat: from_completion(chat, model, translated)
                )
            )
        store = id_writer(request, attempt)
        response = yield from reading_object(body)
        if isinstance(response.id, str):
            store(response.id)
        store_items(store, decode_items(memoryview(response.output)) or ())
        client_body, usage = yield from reading_response(body, model)
        if request.parsed.background:
            usage = background.usage_at_creation(request, attempt, response.id, response.status, usage)
        return client_body, usage


def _another_may_have_it(request: InferenceRequest, attempt: Attempt) -> bool:
    """Return True if another endpoint of the model is worth asking for Responses before the request is translated."""
    if len(request.attempts) >= MAX_SEARCHED:
        return False
    if request.chain is None:
        routes = list(current_routes(request))
    else:
        routes = [
            other for target in request.chain.targets() if attempt.route in target.routes for other in target.routes
        ]
    unable = request.services.roster.aside.unable.get(RESPONSES, {})
    tried = {record.endpoint_id for record in request.attempts}
    return any(
        route.endpoint.rank < OPEN and route.endpoint.id not in unable and route.endpoint.id not in tried
        for route in routes
    )


def _reading_references(body: Body, top: Outline | None) -> Slices[tuple[dict[str, memoryview], list[str]]]:
    """Return the fields that may refer to stored objects, and the ids of the items to which the input refers.

    `top`: the outline of a big body, if it is known. Names are case-folded, as some servers ignore case. Raises Refusal
    (400) for a field that is there more than once, if one of its values refers to an object, or may do so.
    """
    if top is None:
        top = yield from outline_by_parser(body, 0, body)
    places: dict[str, tuple[int, int]] = {}
    referring: set[str] = set()
    view = memoryview(body)
    for number, (name, place) in enumerate((*top.earlier, *top.values.items()), 1):
        if number % SLICE_STEPS == 0:
            yield
        field = field_of(name.decode("utf-8", "replace"), REFERRING)
        if field is None:
            continue
        if field == INPUT:
            yield
        if may_have_ids(view[slice(*place)]) if field == INPUT else _has_value(view[slice(*place)]):
            referring.add(field)
        if field in places and field in referring:
            check_name(field, field, is_repeated=True)
        places[field] = place
    input_place = places.pop(INPUT, None)
    ids: list[str] = []
    if input_place is not None and INPUT in referring:
        yield
        ids = yield from reading_ids(body, *input_place)
    return {field: view[slice(*place)] for field, place in places.items()}, ids


def _check_references(request: InferenceRequest, fields: dict[str, memoryview], ids: Iterable[str]) -> None:
    """Check that stored objects belong to the API key, and prefer the endpoint that stores them. Raises Refusal."""
    if PREVIOUS in fields and _has_value(fields[PREVIOUS]):
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
    if CHOSEN_ID in fields and _has_value(fields[CHOSEN_ID]):
        message = "`request_id` is not accepted: endpoints choose the ids."
        raise Refusal(400, errors.INVALID_REQUEST, message, param=CHOSEN_ID)
    # Conversations are created without RouterDash: their owner is unknown.
    if CONVERSATION in fields and _has_value(fields[CONVERSATION]):
        message = (
            "RouterDash cannot determine the owner of a conversation; ROUTERDASH_OPEN_RESPONSES lets keys use any."
        )
        raise Refusal(404, errors.NOT_FOUND, message, param=CONVERSATION)


def _prefer(request: InferenceRequest, endpoint_id: str | None) -> None:
    if request.preferred is None and endpoint_id:
        request.preferred = Decision(endpoint_id, CREATOR, ())


def _has_value(raw: memoryview) -> bool:
    return bytes(raw[:5]) not in (b"null", b'""')
