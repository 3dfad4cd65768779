"""OpenAI's Responses: one stays at the endpoint that made it, and belongs to the API key that asked for it.

No other key may read it, delete it or go on from it. gateway/owners.py knows which endpoint made which for whom. An id
of which nobody knows whose it is (made without RouterDash, say) is answered like one of another key, unless
ROUTERDASH_OPEN_RESPONSES lets every key ask for it: then each endpoint is asked in turn.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import msgspec

from gateway import errors, targets
from gateway.balancer import EXCLUDED, MADE_IT, SEARCHED, Decision
from gateway.bounds import RESPONSE_OBJECTS
from gateway.errors import Refusal
from gateway.inference import BIG_ANSWER_BYTES, NOT_THERE, Inference
from gateway.openai import (
    Event,
    Request,
    Usage,
    parse_small,
    read_answer,
    reading_answer,
    reading_top,
    small_field,
)
from gateway.outbox import Body
from gateway.relay import Relay, StreamRelay
from gateway.roster import Endpoint, Route
from gateway.skim import Top
from gateway.snapshot import Model
from gateway.surrogates import read_body
from gateway.turns import Slices
from gateway.upstream import UpstreamError

log = logging.getLogger(__name__)

SEARCH_SECONDS = 5.0  # for an endpoint to say whether it has a response
MAX_ITEMS = 1000  # of a response, whose ids are noted
MAX_OBJECTS = 50_000  # in what is looked through for ids of items

PREVIOUS, CONVERSATION, INPUT = "previous_response_id", "conversation", "input"
CHOSEN = "request_id"  # by which vLLM lets a client choose its response's id, another's too
_STATE = frozenset((PREVIOUS, CONVERSATION, INPUT, CHOSEN))


class _Asked(msgspec.Struct):
    previous_response_id: msgspec.Raw = msgspec.Raw(b"null")
    conversation: msgspec.Raw = msgspec.Raw(b"null")
    input: msgspec.Raw = msgspec.Raw(b"null")
    request_id: msgspec.Raw = msgspec.Raw(b"null")


class _Item(msgspec.Struct, gc=False):
    """Of a request's input, or of a response's output."""

    id: msgspec.Raw = msgspec.Raw(b"")
    type: msgspec.Raw = msgspec.Raw(b"null")
    role: msgspec.Raw = msgspec.Raw(b"")
    content: msgspec.Raw = msgspec.Raw(b"")


class _Made(msgspec.Struct):
    id: Any = None
    model: Any = None
    output: msgspec.Raw = msgspec.Raw(b"[]")
    data: msgspec.Raw = msgspec.Raw(b"[]")  # of a list of items


_ID_NAME = re.compile(rb'"(?:i|\\u0069)(?:d|\\u0064)"')  # as JSON may write it
_OBJECT = re.compile(rb"\{")
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_asked = msgspec.json.Decoder(_Asked).decode
_decode_made = msgspec.json.Decoder(_Made).decode
_decode_items = msgspec.json.Decoder(list[_Item]).decode
_decode_item = msgspec.json.Decoder(_Item).decode
_decode_string = msgspec.json.Decoder(str).decode
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _made(body: bytes) -> _Made:
    try:
        return _decode_made(body)
    except _UNDECODABLE:
        return _Made()


def _string(raw: msgspec.Raw | memoryview) -> str | None:
    """None for what is no string."""
    try:
        return _decode_string(raw)
    except _UNDECODABLE:
        return None


def _items(data: memoryview) -> list[_Item] | None:
    """The objects of an array; none for anything else. None: there are too many to look through."""
    if bytes(data[:1]) != b"[":
        return []
    if sum(1 for _ in islice(_OBJECT.finditer(data), MAX_OBJECTS + 1)) > MAX_OBJECTS:
        return None
    try:
        return _decode_items(data)
    except _UNDECODABLE:  # not all are objects, say: what this is, the endpoint may say
        return []


def _value(body: Body, top: Top, name: bytes) -> memoryview:
    """The value of a name of a big object; empty where there is none."""
    start, end = top.values.get(name, (0, 0))
    return memoryview(body)[start:end]


def _state_in(body: Body) -> dict[str, memoryview]:
    """The fields of a request that may name what is stored. Some servers do not look at the case of a name."""
    fields = read_body(_decode_fields, body)
    return {name.casefold(): memoryview(value) for name, value in fields.items() if name.casefold() in _STATE}


def _big_state_in(body: Body, top: Top | None) -> dict[str, memoryview]:
    """The same of a big body, whose top is known unless a parser is quicker with it."""
    if top is None:
        asked = read_body(_decode_asked, body)
        return {name: memoryview(getattr(asked, name)) for name in _STATE}
    named = ((name.decode("utf-8", "replace").casefold(), name) for name in top.values)
    return {folded: _value(body, top, name) for folded, name in named if folded in _STATE}


def _is_there(state: dict[str, memoryview], name: str) -> bool:
    return name in state and bytes(state[name][:5]) not in (b"null", b'""')


def _names_ids(given: memoryview) -> bool:
    """May the items of an input have ids? Nearly none has, and nothing of it is decoded then."""
    return bytes(given[:1]) == b"[" and _ID_NAME.search(given) is not None


def _references(given: memoryview) -> list[str]:
    """Ids of stored items that an input refers to instead of saying what they are. Raises Refusal."""
    items = _items(given)
    if items is None:
        raise Refusal(
            400,
            errors.INVALID_REQUEST,
            f"`input` has more than {MAX_OBJECTS:,} objects: RouterDash cannot see which stored items it refers to.",
            param=INPUT,
            bound=RESPONSE_OBJECTS,
        )
    return [item_id for item in items if _is_reference(item) and (item_id := _string(item.id))]


def _is_reference(item: _Item) -> bool:
    kind = None if bytes(item.type) == b"null" else _string(item.type)
    return kind == "item_reference" or (kind is None and not item.role and not item.content)


class ResponsesRelay(StreamRelay):
    """A stream of a response's events. `note` gets the ids of the response and of its items as soon as they are told:
    a response that is made in the background can be asked for from then on.
    """

    note: Callable[[str], None] | None = None

    def _take(self, event: Event) -> None:
        super()._take(event)
        if self.note is None:
            return
        if event.response_id is not None:
            self.note(event.response_id)
        if event.item is not None and (item_id := _item_id(event.item)):
            self.note(item_id)


def _item_id(raw: msgspec.Raw) -> str | None:
    try:
        return _string(_decode_item(raw).id)
    except _UNDECODABLE:
        return None


class ResponsesInference(Inference):
    """POST /v1/responses. One that goes on from another goes to the endpoint that has the other."""

    def _parse(self, body: Body) -> Request:
        request = parse_small(body)
        try:
            state = _state_in(body)
        except _UNDECODABLE:
            return request  # `parse_small` took it; whatever it is, the endpoint may say
        given = state.pop(INPUT, None)
        self._check_state(state, _references(given) if given is not None and _names_ids(given) else ())
        return request

    async def _look_further(self, body: Body, top: Top | None) -> None:
        try:
            state = _big_state_in(body, top)
        except _UNDECODABLE:
            return
        turns, given = self.gateway.turns, state.pop(INPUT, None)
        references: list[str] = []
        if given is not None:
            await turns.next()
            if _names_ids(given):
                await turns.next()
                references = _references(given)
        self._check_state(state, references)

    def _check_state(self, state: dict[str, memoryview], references: Iterable[str]) -> None:
        """What the request goes on from must belong to its key; the endpoint that has it is asked. Raises Refusal."""
        if _is_there(state, PREVIOUS):
            self.made_by = self._owned(_string(state[PREVIOUS]) or "", PREVIOUS)
        for item_id in references:
            found = self._owned(item_id, INPUT)
            self.made_by = self.made_by or found
        if self.gateway.config.open_responses:
            return
        if _is_there(state, CHOSEN):
            raise Refusal(
                400, errors.INVALID_REQUEST, "`request_id` is not taken: endpoints choose the ids.", param=CHOSEN
            )
        # Conversations are made without RouterDash: nobody knows whose one is.
        if _is_there(state, CONVERSATION):
            raise Refusal(
                404,
                errors.NOT_FOUND,
                "RouterDash does not know whose a conversation is; ROUTERDASH_OPEN_RESPONSES lets keys use any.",
                param=CONVERSATION,
            )

    def _owned(self, stored_id: str, param: str | None) -> str | None:
        """The endpoint that has it; None: nobody knows, and it is open to all. Raises Refusal."""
        found = self.gateway.owners.find(stored_id, self._key_id() or "")
        if found.endpoint_id is None and (found.known or not self.gateway.config.open_responses):
            raise _not_found(stored_id, param)
        return found.endpoint_id

    def _read(self, body: bytes, asked: str) -> tuple[bytes, Usage | None]:
        made = _made(body)
        if isinstance(made.id, str):
            self._keep_id(made.id)
        self._note_items(_items(memoryview(made.output)) or ())
        return read_answer(body, asked)

    def _new_relay(self) -> Relay:
        relay = ResponsesRelay(self.dialect, self.request.model, hide_usage=self.asked_usage)
        relay.note = self._keep_id
        return relay

    def _reading(self, body: bytes, asked: str) -> Slices[tuple[bytes, Usage | None]]:
        top = yield from reading_top(body)
        if top is not None:
            if isinstance(made_id := small_field(body, top, b"id"), str):
                self._keep_id(made_id)
            yield
            self._note_items(_items(_value(body, top, b"output")) or ())
            yield
        return (yield from reading_answer(body, asked))

    def _finish(self, *args: Any, **details: Any) -> None:
        if isinstance(self.relay, ResponsesRelay):
            self.relay.note = None  # which holds this object, which holds it
        super()._finish(*args, **details)

    def _keep_id(self, stored_id: str) -> None:
        if self.route is not None and targets.is_id(stored_id):  # nobody can ask for any other
            self.gateway.owners.note(stored_id, self._key_id() or "", self.route.endpoint.id)

    def _note_items(self, items: Iterable[_Item]) -> None:
        for item, _ in zip(items, range(MAX_ITEMS), strict=False):
            if item_id := _string(item.id):
                self._keep_id(item_id)


def _not_found(stored_id: str, param: str | None = None) -> Refusal:
    """The same of what belongs to another key, of what nobody knows, and of what cannot be asked for now."""
    return Refusal(
        404, errors.NOT_FOUND, f"No endpoint that can be asked has {stored_id[:256]!r} for this API key.", param=param
    )


class StoredResponse(ResponsesInference):
    """GET and DELETE /v1/responses/{id}, POST …/cancel, GET …/input_items: passed to where the response is."""

    def _parse(self, body: Body) -> Request:
        stored = targets.stored(self.exchange.path)
        assert stored is not None  # or no route had led here
        self._stored = stored
        self.target = stored.path
        return Request("", False, False)

    async def _serve_big(self, body: Body) -> None:
        self.request = self._parse(body)
        if self.exchange.query:
            self._add_query()
        await self._serve(body)

    def _add_query(self) -> None:
        if self.exchange.method in (b"GET", b"HEAD"):
            self.target += targets.query(self._stored.query, self.exchange.query)

    async def _serve(self, body: Body) -> None:
        self.gateway.running.add(self)
        try:
            await self._search(body)
        except BaseException as error:  # noqa: BLE001  # raised again there
            self._ended_by(error)
        finally:
            self._let_go()

    async def _search(self, body: Body) -> None:
        response_id = self._stored.response_id
        for endpoint, reason in self._candidates(response_id):
            endpoint.enter()  # whatever slots are taken: nothing is generated
            self.route, self.endpoint = Route(endpoint, Model("")), endpoint
            self.decision = Decision(endpoint.id, reason, ())
            if await self._found(endpoint, body):
                return
            self._leave()
        raise _not_found(response_id)

    def _candidates(self, response_id: str) -> list[tuple[Endpoint, str]]:
        """Raises Refusal."""
        endpoints = self.gateway.roster.endpoints
        made_by = self._owned(response_id, None)
        if made_by is not None:
            return [(endpoints[made_by], MADE_IT)] if made_by in endpoints else []
        asked = sorted((it for it in endpoints.values() if it.rank < EXCLUDED), key=lambda it: it.rank)
        return [(it, SEARCHED) for it in asked]

    async def _found(self, endpoint: Endpoint, body: Body) -> bool:
        """Has the client its answer? An endpoint that does not have the response was not tried in vain: it is fine."""
        self.started = time.monotonic()
        try:
            connection = await self._send(endpoint, (body,), timeout=SEARCH_SECONDS)
            if connection.status in NOT_THERE:
                await connection.read_all()
                return False
            if connection.status < 400 and connection.answer.is_stream:
                failure = await self._stream(connection)
                if failure is not None:
                    self._give_up(failure)
                return True
            answer = await connection.read_all(self.exchange.room_for_answer())
        except UpstreamError as error:
            log.info("%s could not be asked for a response: %s", endpoint.facts.name, error)
            self._hang_up()
            return False
        except BaseException:
            self._hang_up()
            raise
        if len(answer) > BIG_ANSWER_BYTES:
            self._answer = answer
            del answer
            await self._whole_slowly(connection)
        else:
            self._whole(connection, answer)
        return True

    def _read(self, body: bytes, asked: str) -> tuple[bytes, Usage | None]:
        """Its tokens were counted when it was made. Items of its input got their ids at the endpoint."""
        made = _made(body)
        if isinstance(made.model, str):
            self.request = Request(made.model, False, False)
        if self.decision is not None and self.decision.reason == MADE_IT:
            self._note_items(_items(memoryview(made.data)) or ())
        return body, None

    def _new_relay(self) -> Relay:
        return StreamRelay(self.dialect, self.request.model, hide_usage=False)

    def _reading(self, body: bytes, asked: str) -> Slices[tuple[bytes, Usage | None]]:
        top = yield from reading_top(body)
        if top is None:
            return body, None
        model = small_field(body, top, b"model")
        if isinstance(model, str):
            self.request = Request(model, False, False)
        if self.decision is not None and self.decision.reason == MADE_IT:
            yield
            self._note_items(_items(_value(body, top, b"data")) or ())
        return body, None


def check_path(path: bytes) -> bytes | None:
    """The methods that a path below /v1/responses/ takes, separated by commas; None if there is no such thing."""
    found = targets.stored(path)
    return None if found is None else found.methods
