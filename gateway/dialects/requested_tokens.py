"""The most output that a body asks for. Servers read different names, so the greatest of all counts."""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import msgspec

from gateway.base.types import Body
from gateway.dialects.json_outline import counting_elements
from gateway.dialects.prompt_fields import MISSING, PromptFields
from gateway.loop.time_slices import Slices

# The most output tokens of one response. llama.cpp prefers `n_predict` to the names of OpenAI; TabbyAPI has the last.
NAMES_OF_MOST = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "max_length")
# Responses at once, or images. `best_of` has the server choose among as many; llama.cpp prefers `n_cmpl` to `n`.
NAMES_OF_CHOICES = ("n", "best_of", "n_cmpl")
# Each element of these lists gets a response; `prompt_embeds` are prompts of vLLM.
PROMPT_LISTS = ("prompt", "prompt_embeds")
NO_BOUND = 1 << 31  # choices of a body that has a number which cannot be read


class RequestedTokens(PromptFields, kw_only=True):
    """The prompt of a body as raw JSON, and the fields that say how much output it asks for."""

    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    n_predict: Any = None
    max_length: Any = None
    n: Any = None
    best_of: Any = None
    n_cmpl: Any = None
    prompt_embeds: msgspec.Raw = MISSING


values_of_most, values_of_choices = attrgetter(*NAMES_OF_MOST), attrgetter(*NAMES_OF_CHOICES)

_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_NUMBERS = frozenset(b"-0123456789")


def most_of(values: Iterable[object]) -> int | None:
    """Return the most output tokens, by the values of NAMES_OF_MOST; None: any number of them.

    That is so without a value, and with one that is no number, as servers may read it in another way. 0 means nothing
    to some servers and no limit to others.
    """
    most, has_zero = -1, False
    for value in values:
        if value is None:
            continue
        if type(value) is not int or value < 0:
            return None
        has_zero = has_zero or value == 0
        most = max(most, value)
    return None if most < 0 or (has_zero and most > 0) else most


def choices_of(values: Iterable[object], prompts: int = 1) -> int:
    """Return the responses that a body asks for: by the values of NAMES_OF_CHOICES, for so many prompts."""
    most = 1
    for value in values:
        if value is None:
            continue
        if type(value) is not int or value < 0:
            return NO_BOUND
        most = max(most, value)
    return min(most * max(prompts, 1), NO_BOUND)


def prompts_in(lists: Iterable[msgspec.Raw]) -> int:
    """Return the number of prompts in PROMPT_LISTS of a small body. A list of numbers is one prompt, of tokens."""
    return sum(
        max(1, sum(memoryview(each)[0] not in _NUMBERS for each in _decode_list(raw))) for raw in lists if is_list(raw)
    )


def is_list(raw: msgspec.Raw) -> bool:
    return len(raw) > 0 and bytes(memoryview(raw)[:1]) == b"["


def counting_prompts(body: Body, places: Iterable[tuple[int, int] | None]) -> Slices[int]:
    """Count the prompts of a large body as `prompts_in` does, in time slices. `places`: of PROMPT_LISTS in the body."""
    prompts = 0
    for place in places:
        if place is not None and body[place[0] : place[0] + 1] == b"[":
            prompts += max(1, (yield from counting_elements(body, place[0])))
    return prompts
