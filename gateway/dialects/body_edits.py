"""Changes of the parameters in a request's body, without decoding more of it than its top level."""

import re
from collections.abc import Callable, Mapping

import msgspec

from gateway.base.errors import INVALID_REQUEST, Refusal
from gateway.base.types import Body, Data
from gateway.dialects.json_text import encode
from gateway.dialects.surrogates import read_body

Places = Mapping[bytes, tuple[int, int]]  # start and end of each top-level value in a body, by name
Change = Callable[[dict[str, msgspec.Raw]], None]

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NAME = re.compile(rb'[{,]\s*"[^"\\]*+"\s*:\s*')  # what stands before a value, if nothing is unusual
_KEPT = msgspec.Raw(b"")


def edit(body: Body, change: Change) -> bytes:
    """Return a body after `change` of its fields. Raises Refusal (400)."""
    try:
        fields = read_body(_decode_object, body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, INVALID_REQUEST, f"The body is not valid JSON: {error}.") from None
    change(fields)
    return encode(fields)


def edit_large(body: Body, places: Places, change: Change) -> tuple[bytes, dict[bytes, tuple[int, int]]] | None:
    """Do the same for a large body; return it with the places of its values.

    What stays is copied as it is. `change` sees empty values. None: the body is not written as usual.
    """
    fields = dict.fromkeys((name.decode("utf-8", "replace") for name in places), _KEPT)
    if len(fields) < len(places):
        return None
    change(fields)
    out: list[Data] = [b"{"]
    size, before = 1, 0
    changed: dict[bytes, tuple[int, int]] = {}
    view = memoryview(body)
    for name, (start, end) in sorted(places.items(), key=lambda item: item[1]):
        opening = before or body.index(b"{")
        if _NAME.fullmatch(body, opening, start) is None:
            return None  # an earlier value of the same name, or a name with escapes
        value = fields.pop(name.decode("utf-8", "replace"), None)
        before = end
        if value is None:
            continue
        pieces = [
            b"," if len(out) > 1 else b"",
            view[opening + 1 : start],
            view[start:end] if value is _KEPT else value,
        ]
        out += pieces
        size += sum(map(len, pieces))
        changed[name] = size - len(pieces[2]), size
    for field, value in fields.items():
        out += (b"," if len(out) > 1 else b"", encode(field), b":", bytes(value))
    out.append(b"}")
    return b"".join(out), changed
