"""OpenAI's Responses API: a request that continues a stored response goes to the endpoint that stores it."""

from collections.abc import Callable, Iterable

import msgspec

from gateway.base import errors
from gateway.base.errors import Refusal
from gateway.base.types import Body
from gateway.dialects.json_outline import Outline
from gateway.dialects.json_text import outline_of_response, small_field
from gateway.dialects.openai_events import Event
from gateway.dialects.openai_requests import Request
from gateway.dialects.openai_responses import Usage, read_large_response, read_response
from gateway.dialects.sse_relay import Relay, StreamRelay
from gateway.dialects.surrogates import read_body
from gateway.inference.api import OpenAiApi
from gateway.inference.attempt import Attempt
from gateway.inference.request import InferenceRequest
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
from gateway.loop.time_slices import Slices

PREVIOUS, CONVERSATION, INPUT = "previous_response_id", "conversation", "input"
CHOSEN_ID = "request_id"  # by which vLLM lets a client choose the id of its response, even that of another client
_REFERRING = frozenset((PREVIOUS, CONVERSATION, INPUT, CHOSEN_ID))

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ResponsesRelay(StreamRelay):
    """A stream of a response's events. `store` receives the ids of the response and of its items as they arrive.

    A response that is created in the background can be read from then on.
    """

    store: Callable[[str], None] | None = None

    def _count_event(self, event: Event) -> None:
        super()._count_event(event)
        if self.store is None:
            return
        if event.response_id is not None:
            self.store(event.response_id)
        if event.item is not None and (stored_id := item_id(event.item)):
            self.store(stored_id)


class ResponsesApi(OpenAiApi):
    """POST /v1/responses."""

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

    def new_relay(self, request: InferenceRequest, attempt: Attempt) -> Relay:
        relay = ResponsesRelay(self.dialect, request.parsed.model, hide_usage=attempt.usage_added)
        relay.store = id_writer(request, attempt)
        return relay

    def read(self, request: InferenceRequest, attempt: Attempt, body: bytes) -> tuple[bytes, Usage | None]:
        store, response = id_writer(request, attempt), decode_response(body)
        if isinstance(response.id, str):
            store(response.id)
        store_items(store, decode_items(memoryview(response.output)) or ())
        return read_response(body, request.parsed.model)

    def read_slices(
        self, request: InferenceRequest, attempt: Attempt, body: bytes
    ) -> Slices[tuple[bytes, Usage | None]]:
        top = yield from outline_of_response(body)
        if top is not None:
            store = id_writer(request, attempt)
            if isinstance(response_id := small_field(body, top, b"id"), str):
                store(response_id)
            yield
            store_items(store, decode_items(value_of(body, top, b"output")) or ())
            yield
        return (yield from read_large_response(body, request.parsed.model))


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
        request.preferred = endpoint_of(request, decode_string(fields[PREVIOUS]) or "", PREVIOUS)
    for stored_id in ids:
        endpoint_id = endpoint_of(request, stored_id, INPUT)
        request.preferred = request.preferred or endpoint_id
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


def _has_value(fields: dict[str, memoryview], name: str) -> bool:
    return name in fields and bytes(fields[name][:5]) not in (b"null", b'""')
