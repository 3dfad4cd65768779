"""The fields by which RouterDash decides, and the rule that every server must read them as RouterDash does. No I/O.

A body is forwarded as the client wrote it, and servers read some bodies in different ways. Of two values of one name,
some take the first and some the last. Go's decoder, so Ollama and LocalAI, ignores the case of names. Servers in Python
take "100" and 100.0 for a whole number. Such a body is refused if it is checked: where an API key has rules, limits or
budgets, and where a stored response is named, which belongs to a key (gateway.inference.limiting.checked_bodies).
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from gateway.base.bounds import JSON_FIELD
from gateway.base.errors import AMBIGUOUS_REQUEST, REQUEST_TOO_LARGE, Refusal
from gateway.base.types import Body
from gateway.dialects.json_outline import SLICE_STEPS, Outline, outline_by_parser
from gateway.dialects.json_text import MAX_FIELD_BYTES
from gateway.dialects.requested_tokens import NAMES_OF_CHOICES, NAMES_OF_MOST, PROMPT_LISTS
from gateway.loop.time_slices import Slices

MAX_SHOWN = 64  # characters of a client's name that an error quotes


class ValueType(NamedTuple):
    """The values of a field that all servers read alike. `written`: how a client must write one."""

    values: re.Pattern[bytes] | None  # None: any, as RouterDash does not compute with it
    written: str = ""
    fields: "Mapping[str, ValueType] | None" = None  # of an object, which are deciding fields as well


ANY = ValueType(None)
TEXT = ValueType(re.compile(rb'"|null\Z'), "a text in quotation marks")
TRUTH = ValueType(re.compile(rb"(?:true|false|null)\Z"), "true or false, without quotation marks")
LIST = ValueType(re.compile(rb"\[|null\Z"), "a list")
# Of more digits, some servers read another number, as they read all numbers as floating point.
WHOLE_NUMBER = ValueType(
    re.compile(rb"(?:-?(?:0|[1-9][0-9]{0,14})|null)\Z"),
    "a whole number of at most 15 digits, without quotation marks, fraction or exponent",
)

MODEL, INPUT, KEEP_ALIVE, OPTIONS = "model", "input", "keep_alive", "options"
PREVIOUS, CONVERSATION, CHOSEN_ID = "previous_response_id", "conversation", "request_id"

FIELDS: Mapping[str, ValueType] = {
    # the model, and those that are tried after it
    MODEL: TEXT,
    "models": LIST,
    # the most output; Ollama's name of it is below
    **dict.fromkeys((*NAMES_OF_MOST, *NAMES_OF_CHOICES), WHOLE_NUMBER),
    # prompts, of which there may be a list
    **dict.fromkeys((*PROMPT_LISTS, INPUT), ANY),
    # stored responses
    PREVIOUS: TEXT,
    CONVERSATION: ANY,
    CHOSEN_ID: ANY,  # by which vLLM lets a client choose the id of its response, even that of another client
    "background": TRUTH,
    # the tokens that are counted, and their price
    "stream": TRUTH,
    "stream_options": ValueType(None, fields={"include_usage": TRUTH}),
    "service_tier": TEXT,
    # Ollama
    KEEP_ALIVE: ANY,
    OPTIONS: ValueType(None, fields={"num_predict": WHOLE_NUMBER}),
}
# Of an item of `input`, by which it refers to a stored one, or does not.
ITEM_FIELDS: Mapping[str, ValueType] = {"id": ANY, "type": ANY, "role": ANY, "content": ANY}
# By which a request refers to stored objects, or chooses the name of one.
REFERRING: Mapping[str, ValueType] = {name: FIELDS[name] for name in (PREVIOUS, CONVERSATION, CHOSEN_ID, INPUT)}
# By which a request to Ollama's API unloads a model that others use.
UNLOADING: Mapping[str, ValueType] = {KEEP_ALIVE: ANY}


def field_of(name: str, fields: Collection[str] = FIELDS) -> str | None:
    """Return the field that a server may take a name for: the same one, or one that differs in case alone.

    None: no field. Case is folded as Unicode does it, of which Go's decoder does a part: `ſ` is `s`, and `K` is `k`.
    """
    if name in fields:
        return name
    folded = name.casefold()
    return folded if folded in fields else None


def checking(body: Body, top: Outline | None = None, fields: Mapping[str, ValueType] = FIELDS) -> Slices[None]:
    """Check the deciding fields of a body, in time slices. `top`: its outline, if it is known.

    Raises Refusal: 400 for a body that servers may read in different ways, 413 for one with too many names or values.
    """
    if top is None:
        top = yield from outline_by_parser(body, 0, body)
    yield from check_outline(body, top, fields)


def check_outline(body: Body, top: Outline, fields: Mapping[str, ValueType], within: str = "") -> Slices[None]:
    """Check the fields of an object, as `checking` does. `within`: the name of the object in the body, with a dot."""
    repeated = {name for name, _ in top.earlier}
    for number, (written, (start, end)) in enumerate(top.values.items(), 1):
        if number % SLICE_STEPS == 0:
            yield
        name = written.decode("utf-8", "replace")
        field = field_of(name, fields)
        if field is None:
            continue
        check_name(name, field, within, is_repeated=written in repeated)
        value_type = fields[field]
        if value_type.values is not None and value_type.values.match(body, start, end) is None:
            raise _ambiguous(within + field, f"must be {value_type.written}: servers differ in how they read others")
        if value_type.fields is not None and body[start : start + 1] == b"{":
            if end - start > MAX_FIELD_BYTES:
                message = f"`{field}` has more than {MAX_FIELD_BYTES >> 10} KiB."
                raise Refusal(413, REQUEST_TOO_LARGE, message, param=field, bound=JSON_FIELD)
            inner = yield from outline_by_parser(body, start, memoryview(body)[start:end])
            yield from check_outline(body, inner, value_type.fields, f"{field}.")


def check_name(name: str, field: str, within: str = "", *, is_repeated: bool) -> None:
    """Check how a deciding field is named. Raises Refusal (400)."""
    if name != field:
        shown = name if len(name) <= MAX_SHOWN and name.isprintable() else "a name"
        raise _ambiguous(
            within + field, f"is spelled {shown!r}, which some servers read and others do not: write `{field}`"
        )
    if is_repeated:
        raise _ambiguous(within + field, "is there more than once, and servers differ in which one they read: send one")


def _ambiguous(field: str, problem: str) -> Refusal:
    return Refusal(400, AMBIGUOUS_REQUEST, f"`{field}` {problem}.", param=field)
