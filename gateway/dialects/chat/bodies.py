"""Request bodies that are translated between chat completions and Messages: decoding, in time slices, and refusals."""

import codecs
import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import msgspec

from gateway.base.bounds import TRANSLATED_REQUEST
from gateway.base.errors import INVALID_REQUEST, REQUEST_TOO_LARGE, Refusal
from gateway.base.types import Body
from gateway.dialects import surrogates
from gateway.dialects.chat.shapes import Object
from gateway.dialects.json_outline import outline_in_slices
from gateway.loop.time_slices import Slices, one_slice, run_unsliced

B = TypeVar("B")

SMALL_BYTES = 512 << 10  # a body up to this size is translated at once, with any content
MAX_VALUES = 200_000  # limit of strings, arrays and objects of a larger body
MAX_COSTLY_BYTES = 6_000_000  # limit of bytes that take longer to decode or encode than others
SLICE_BYTES = 4 << 20  # the part of a body in which such bytes are counted at once
PIECE_BYTES = 256 << 10  # that are copied at once: larger copies would be to memory that is mapped for each
_CHEAP = bytes(byte for byte in range(128) if byte not in b'\\,"')
_new_utf8_decoder = codecs.getincrementaldecoder("utf-8")


def reading(decode: Callable[[Any], B], body: Body, only: str) -> Slices[B]:
    """Decode a body, in time slices if it is large. Raises Refusal (400, 413).

    `only`: the API that the endpoint supports, for the text of a refusal. `decode` may raise Refusal, too.
    """
    if len(body) <= SMALL_BYTES:
        return _read(decode, body, only)
    return (yield from reading_in_steps(lambda given: one_slice(partial(decode, given)), body, only))


def reading_in_steps(decode: Callable[[Any], Slices[B]], body: Body, only: str) -> Slices[B]:
    """Do the same with a decoder that works in time slices."""
    if len(body) <= SMALL_BYTES:
        return _read(lambda given: run_unsliced(decode(given)), body, only)
    yield from _counting(body, only)
    try:
        request = yield from _reading(decode, body, only)
    except Refusal:
        repaired = yield from surrogates.replaced_slowly(body)
        if repaired is None:
            raise
        request = yield from _reading(decode, repaired, only)
    yield
    return request


def _purpose(only: str) -> str:
    return f"to be translated for an endpoint that supports only {only}"


def _counting(body: Body, only: str) -> Slices[None]:
    """Refuse a body that would take long to decode or encode."""
    quotes = costly = 0
    for start in range(0, len(body), PIECE_BYTES):
        dear = body[start : start + PIECE_BYTES].translate(None, _CHEAP)
        marks = dear.count(b'"')
        quotes += marks
        costly += len(dear) - marks
        if costly > MAX_COSTLY_BYTES:
            excess = f"more than {MAX_COSTLY_BYTES:,} commas, escapes and bytes of characters that are not ASCII"
            message = f"The body has {excess}, which is too much {_purpose(only)}."
            raise Refusal(413, REQUEST_TOO_LARGE, message, bound=TRANSLATED_REQUEST)
        if start % SLICE_BYTES == SLICE_BYTES - PIECE_BYTES:
            yield
    if quotes > 2 * MAX_VALUES:
        yield from outline_in_slices(body, MAX_VALUES, (TRANSLATED_REQUEST, _purpose(only)))
    yield


def _read(decode: Callable[[Any], B], body: Body, only: str) -> B:
    try:
        return surrogates.read_body(decode, body)
    except msgspec.ValidationError as error:
        raise explained(str(error), only) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_json(error) from None


def _reading(decode: Callable[[Any], Slices[B]], body: Body, only: str) -> Slices[B]:
    """Do the same in time slices, with unpaired surrogates left as they are."""
    try:
        return (yield from decode(body))
    except msgspec.ValidationError as error:
        raise explained(str(error), only) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_json(error) from None


def not_json(error: Exception) -> Refusal:
    return refusal(f"The body is not valid JSON: {error}.")


_PLACE = " - at `$"  # before the place in an error of msgspec, at its end; the message may quote the same
_UNKNOWN = re.compile(r"Invalid value '(.*)'", re.DOTALL)


def decoded_field(decode: Callable[[Any], B], raw: msgspec.Raw, only: str, place: str) -> B:
    """Decode a field of a body, at a place such as `tools[0].format`. Raises Refusal (400), as `explained` does."""
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        raise explained(str(error), only, place) from None


def explained(error: str, only: str, field: str = "") -> Refusal:
    """Return the refusal for an error of msgspec, whose message names the place as `$.messages[0].content`.

    `field`: the field of the body that was decoded, if it was not the whole.
    """
    fault, mark, inner = error.rpartition(_PLACE) if error.endswith("`") else ("", "", "")
    if not mark and not field:
        return refusal("The body must be a JSON object." if "`object`" in error else f"{error}.")
    fault, inner = (fault, inner[:-1].removeprefix(".")) if mark else (error, "")
    place = field + ("." if field and inner and inner[0] != "[" else "") + inner
    place = place[:100]
    unknown = _UNKNOWN.fullmatch(fault)
    if unknown is not None and place.endswith("role"):
        roles = "system, developer, user, assistant or tool" if field else "user or assistant"
        fault = f"must be {roles}, not {unknown[1][:40]!r}"
    elif unknown is not None:
        fault = f"{unknown[1][:40]!r} is not supported by this endpoint, which supports only {only}"
    return refusal(f"`{place}`: {fault}." if place else f"{fault}.", re.split(r"[.\[]", place)[0] or None)


def refusal(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, INVALID_REQUEST, message, param=param)


def is_object(raw: Object) -> bool:
    return bytes(memoryview(raw)[:1]) == b"{"


def no_object(place: str, param: str) -> Refusal:
    return refusal(f"`{place}`: Expected `object`.", param)


def is_one_of(raw: msgspec.Raw, values: tuple[bytes, ...]) -> bool:
    """Return whether a field has one of these values, without a copy of a long one."""
    view = memoryview(raw)
    return any(view == value for value in values)


def checked(raw: Object) -> Object:
    """Check that raw fields are UTF-8, which no decoder has checked before. Raises UnicodeDecodeError."""
    view = memoryview(raw)
    if len(view) <= PIECE_BYTES:
        bytes(view).decode()
        return raw
    decoder = _new_utf8_decoder()
    for start in range(0, len(view), PIECE_BYTES):
        decoder.decode(bytes(view[start : start + PIECE_BYTES]))
    decoder.decode(b"", final=True)
    return raw
