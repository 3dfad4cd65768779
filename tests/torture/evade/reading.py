"""How servers read a body: which of two equal names counts, which spellings, which types."""

import json
from dataclasses import dataclass
from typing import Any

from tests.torture.evade.forms import CONTEXT, FIRST, GO, LLAMACPP

USUAL_OUTPUT = 30  # tokens, if the body has no limit
MOST_GENERATED = 20_000  # tokens of a response, so that a passed limit does not stop the run

Pairs = list[tuple[str, Any]]


class BadBody(Exception):
    """A body that the server refuses."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a body asks for."""

    model: str
    prompt_tokens: int
    output_tokens: int
    streams: bool
    wants_usage: bool
    in_background: bool
    fault: str


def read(path: str, raw: bytes, reader: str) -> Wish:
    """Read a body as this server does. Raises BadBody."""
    try:
        pairs = json.loads(raw, object_pairs_hook=lambda members: members)
    except ValueError as error:
        raise BadBody(str(error)) from None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise BadBody("no object")

    def get(name: str, of: Any = pairs) -> Any:
        return _find(of if isinstance(of, list) else [], name, reader)

    is_native = path.startswith("/api/")
    options = get("options") if is_native else get("stream_options")
    most = _most(get, options, reader, is_native=is_native)
    prompt = get("prompt")
    prompts = max(1, len(prompt)) if isinstance(prompt, list) and not is_native else 1
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], str | list):
        prompts = 1
    prompt_tokens = min(CONTEXT // 2, max(1, len(raw) // 8))
    output = USUAL_OUTPUT if most is None else min(most, CONTEXT - prompt_tokens)
    total = min(max(0, output) * max(1, _choices(get, reader, is_native=is_native)) * prompts, MOST_GENERATED)
    model = get("model")
    if not isinstance(model, str):
        raise BadBody("model")
    return Wish(
        model=model.casefold().removesuffix(":latest") if reader == GO else model,
        prompt_tokens=prompt_tokens,
        output_tokens=total,
        streams=get("stream") is not False if is_native else get("stream") is True,
        wants_usage=isinstance(options, list) and get("include_usage", options) is True,
        in_background=bool(get("background")),
        fault=str(get("user") or "").partition("fault=")[2],
    )


def _find(pairs: Pairs, name: str, reader: str) -> Any:
    values = [value for each, value in pairs if (each.casefold() == name if reader == GO else each == name)]
    if not values:
        return None
    return values[0] if reader == FIRST else values[-1]


def _most(get: Any, options: Any, reader: str, *, is_native: bool) -> int | None:
    if is_native:
        most = _number(get("num_predict", options))
        return None if most is None or most < 0 else most
    names = ["max_completion_tokens", "max_tokens", "max_output_tokens"]
    if reader == LLAMACPP:
        names.insert(0, "n_predict")
    if reader == GO:
        names = ["max_tokens", "max_output_tokens"]
    most = next((number for name in names if (number := _number(get(name))) is not None), None)
    return CONTEXT if most is not None and most < 0 else most


def _choices(get: Any, reader: str, *, is_native: bool) -> int:
    if is_native or reader == GO:
        return 1
    if reader == LLAMACPP:
        return _number(get("n_cmpl")) or _number(get("n")) or 1
    return max(_number(get("n")) or 1, _number(get("best_of")) or 1)


def _number(value: Any) -> int | None:
    """Read a number as pydantic does: whole floats, text and booleans count."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadBody(f"no number: {value!r}") from None
    if number != int(number):
        raise BadBody(f"no whole number: {value!r}")
    return int(number)
