"""The ids of stored responses and items (Responses API), and the API key that each belongs to.

No other key may read, delete or continue a stored response. gateway/ipc/response_owners.py stores the owner and the
endpoint of each. An unknown id (created without RouterDash) is refused like another key's, unless
ROUTERDASH_OPEN_RESPONSES opens it to every key.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any

import msgspec

from gateway.base import errors
from gateway.base.bounds import RESPONSE_OBJECTS
from gateway.base.errors import Refusal
from gateway.base.types import Body
from gateway.dialects.deciding_fields import ITEM_FIELDS, check_outline, field_of
from gateway.dialects.json_outline import may_have_many_names, outline_by_parser, outline_inside
from gateway.dialects.json_text import encode, outline_of_response, small_field
from gateway.dialects.openai_responses import BIG_BYTES
from gateway.inference.attempt import Attempt
from gateway.inference.request import InferenceRequest
from gateway.loop.time_slices import Slices
from gateway.upstream import targets

MAX_ITEMS = 1000  # of a response, whose ids are stored
MAX_OBJECTS = 50_000  # in a body that is searched for ids of items
SLICE_ITEMS = 256  # of some microseconds each
COMPARED_BYTES = 256 << 10  # of items that are compared with those that a parser has read

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Item(msgspec.Struct, gc=False):
    """An item of a request's input, or of a response's output."""

    id: msgspec.Raw = msgspec.Raw(b"")
    type: msgspec.Raw = msgspec.Raw(b"null")
    role: msgspec.Raw = msgspec.Raw(b"")
    content: msgspec.Raw = msgspec.Raw(b"")


class ResponseObject(msgspec.Struct):
    """The fields of a response object, or of a list of items, that refer to stored objects."""

    id: Any = None
    model: Any = None
    status: Any = None
    output: msgspec.Raw = msgspec.Raw(b"[]")
    data: msgspec.Raw = msgspec.Raw(b"[]")  # of a list of items


_ID_NAME = re.compile(rb'"(?:[iI]|\\u00[46]9)(?:[dD]|\\u00[46]4)"')  # as JSON may write it, in any case
_BEFORE_ITEM = re.compile(rb"[ \t\n\r]*+[\[,][ \t\n\r]*+")
_OBJECT = re.compile(rb"\{")
_decode_response = msgspec.json.Decoder(ResponseObject).decode
_decode_items = msgspec.json.Decoder(list[Item]).decode
_decode_objects = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_item = msgspec.json.Decoder(Item).decode
_decode_string = msgspec.json.Decoder(str).decode


def reading_object(body: bytes) -> Slices[ResponseObject]:
    """Decode a response object, a big one in time slices; an empty one for any other body."""
    if len(body) <= BIG_BYTES:
        try:
            return _decode_response(body)
        except UNDECODABLE:
            return ResponseObject()
    top = yield from outline_of_response(body)
    if top is None:
        return ResponseObject()
    yield
    view = memoryview(body)
    items = (msgspec.Raw(view[slice(*top.values.get(name, (0, 0)))]) for name in (b"output", b"data"))
    return ResponseObject(*(small_field(body, top, name) for name in (b"id", b"model", b"status")), *items)


def decode_string(raw: msgspec.Raw | memoryview) -> str | None:
    """Decode a JSON string; None for any other value."""
    try:
        return _decode_string(raw)
    except UNDECODABLE:
        return None


def decode_items(data: memoryview) -> list[Item] | None:
    """Decode the objects of an array; an empty list for any other value. None: it has more than MAX_OBJECTS."""
    if bytes(data[:1]) != b"[":
        return []
    if sum(1 for _ in islice(_OBJECT.finditer(data), MAX_OBJECTS + 1)) > MAX_OBJECTS:
        return None
    try:
        return _decode_items(data)
    except UNDECODABLE:  # not all are objects, for example
        return []


def item_id(raw: msgspec.Raw) -> str | None:
    """Return the id of an item in a stream's event."""
    try:
        return decode_string(_decode_item(raw).id)
    except UNDECODABLE:
        return None


def may_have_ids(items: memoryview) -> bool:
    """Return False if no item of an input can have an id, which is the usual case: then nothing is decoded."""
    return bytes(items[:1]) in (b"[", b"{") and _ID_NAME.search(items) is not None


def reading_ids(body: Body, start: int, end: int) -> Slices[list[str]]:
    """Return the ids of stored items to which an input refers, in time slices. It stands in the body from `start` on.

    Raises Refusal: 400 for an input that is no list of objects, or one of whose items servers may read in different
    ways.
    """
    items = memoryview(body)[start:end]
    known = decode_items(items)
    if known is None:
        raise Refusal(
            400,
            errors.INVALID_REQUEST,
            f"`input` has more than {MAX_OBJECTS:,} objects: RouterDash cannot find the stored items in it.",
            param="input",
            bound=RESPONSE_OBJECTS,
        )
    if not known:  # an item that is no object may be one of millions
        raise _unreadable()
    if len(items) <= COMPARED_BYTES and _are_plain(items):
        return [name for item in known if _is_reference(item) and (name := decode_string(item.id))]
    yield
    ids: list[str] = []
    position = start
    for number, (item, raw) in enumerate(zip(known, _decode_list(items), strict=True), 1):
        position = _BEFORE_ITEM.match(body, position).end()  # type: ignore[union-attr]  # the parser has found an item there
        try:
            many = may_have_many_names(body, position, position + len(raw))
            top = yield from outline_inside(body, position, raw) if many else outline_by_parser(body, position, raw)
        except Refusal as refusal:
            raise refusal if refusal.status != 400 else _unreadable() from None
        yield from check_outline(body, top, ITEM_FIELDS, "input.")
        position += len(raw)
        if _is_reference(item) and (name := decode_string(item.id)):
            ids.append(name)
        if number % SLICE_ITEMS == 0:
            yield
    return ids


def _are_plain(items: memoryview) -> bool:
    """Return True if no item has a name twice, or one that servers may read in different ways.

    That is seen at once in JSON without blanks, as most clients write it: a parser has read all of it.
    """
    try:
        objects = _decode_objects(items)
    except UNDECODABLE:  # a name that is no text
        return False
    names: set[str] = set().union(*objects)
    return all(field_of(name, ITEM_FIELDS) in (None, name) for name in names) and encode(objects) == bytes(items)


def _unreadable() -> Refusal:
    message = "`input` must be a text or a list of objects: RouterDash cannot find the stored items in any other."
    return Refusal(400, errors.INVALID_REQUEST, message, param="input")


def _is_reference(item: Item) -> bool:
    kind = None if bytes(item.type) == b"null" else decode_string(item.type)
    return kind == "item_reference" or (kind is None and not item.role and not item.content)


def endpoint_of(request: InferenceRequest, stored_id: str, param: str | None) -> str | None:
    """Return the id of the endpoint that stores an object of the request's API key. Raises Refusal.

    None: the endpoint is unknown, and unknown objects are open to all keys.
    """
    services = request.services
    owner = services.owners.find(stored_id, request.key_id or "")
    if owner.endpoint_id is None and (owner.known or not services.config.open_responses):
        raise not_found(stored_id, param)
    return owner.endpoint_id


def not_found(stored_id: str, param: str | None = None) -> Refusal:
    """Return the refusal of an id, the same for one of another key, an unknown one, and one that is unavailable now."""
    return Refusal(
        404, errors.NOT_FOUND, f"No available endpoint has {stored_id[:256]!r} for this API key.", param=param
    )


def id_writer(request: InferenceRequest, attempt: Attempt) -> Callable[[str], None]:
    """Return a function that stores the ids of the attempt's response for the request's API key."""
    return partial(_store_id, request.services.owners.record_owner, request.key_id or "", attempt.endpoint.id)


def _store_id(record_owner: Callable[[str, str, str], None], key_id: str, endpoint_id: str, stored_id: str) -> None:
    if targets.is_id(stored_id):  # no request can name any other
        record_owner(stored_id, key_id, endpoint_id)


def store_items(store: Callable[[str], None], items: Iterable[Item]) -> None:
    """Store the ids of at most MAX_ITEMS items."""
    for item in islice(items, MAX_ITEMS):
        if stored_id := decode_string(item.id):
            store(stored_id)
