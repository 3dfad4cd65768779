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
from gateway.base.errors import Refusal
from gateway.base.limits import RESPONSE_OBJECTS
from gateway.inference.attempt import Attempt
from gateway.inference.request import InferenceRequest
from gateway.upstream import targets

MAX_ITEMS = 1000  # of a response, whose ids are stored
MAX_OBJECTS = 50_000  # in a body that is searched for ids of items

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
    output: msgspec.Raw = msgspec.Raw(b"[]")
    data: msgspec.Raw = msgspec.Raw(b"[]")  # of a list of items


_ID_NAME = re.compile(rb'"(?:i|\\u0069)(?:d|\\u0064)"')  # as JSON may write it
_OBJECT = re.compile(rb"\{")
_decode_response = msgspec.json.Decoder(ResponseObject).decode
_decode_items = msgspec.json.Decoder(list[Item]).decode
_decode_item = msgspec.json.Decoder(Item).decode
_decode_string = msgspec.json.Decoder(str).decode


def decode_response(body: bytes) -> ResponseObject:
    """Decode a response object; an empty one for any other body."""
    try:
        return _decode_response(body)
    except UNDECODABLE:
        return ResponseObject()


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
    except UNDECODABLE:  # not all are objects, for example: the endpoint may report it
        return []


def item_id(raw: msgspec.Raw) -> str | None:
    """Return the id of an item in a stream's event."""
    try:
        return decode_string(_decode_item(raw).id)
    except UNDECODABLE:
        return None


def may_have_ids(items: memoryview) -> bool:
    """Return False if no item of an input can have an id, which is the usual case: then nothing is decoded."""
    return bytes(items[:1]) == b"[" and _ID_NAME.search(items) is not None


def references(items: memoryview) -> list[str]:
    """Return the ids of stored items to which an input refers. Raises Refusal."""
    decoded = decode_items(items)
    if decoded is None:
        raise Refusal(
            400,
            errors.INVALID_REQUEST,
            f"`input` has more than {MAX_OBJECTS:,} objects: RouterDash cannot find the stored items in it.",
            param="input",
            limit=RESPONSE_OBJECTS,
        )
    return [name for item in decoded if _is_reference(item) and (name := decode_string(item.id))]


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
