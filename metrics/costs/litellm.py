"""Reader of LiteLLM's model_prices_and_context_window.json: USD per token, second, image or request.

A missing price there is often 0, so that zeros of self-hosted servers are not read. Field names have suffixes for a
longer cache lifetime, prompt size and service tier, in this order.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _

from endpoints.clouds.kinds import Kind
from gateway.prices.book import service_tier_of
from gateway.prices.evaluation import IMAGES, MINUTES, REQUESTS, TOKENS
from gateway.providers.table import PROVIDERS
from gateway.registry.prices import AMOUNTS
from metrics.costs.amounts import is_amount, nanos
from metrics.costs.rules import MAX_LENGTH, MAX_PROMPT

SOURCE = "LiteLLM"
CURRENCY = "USD"
CLOUDS = {name: cloud.kind for cloud in PROVIDERS.values() for name in cloud.litellm_names}
SELF_HOSTED = {
    "hosted_vllm": Kind.VLLM,
    "ollama": Kind.OLLAMA,
    "ollama_chat": Kind.OLLAMA,
    "lm_studio": Kind.LM_STUDIO,
}
_NAMES = {  # of fields: our amount, and the number of units that it is for
    "input_cost_per_token": ("input", TOKENS),
    "cache_read_input_token_cost": ("cached", TOKENS),
    "input_cost_per_token_cache_hit": ("cached", TOKENS),
    "cache_creation_input_token_cost": ("write_short", TOKENS),
    "cache_creation_input_token_cost_above_1hr": ("write_long", TOKENS),
    "output_cost_per_token": ("output", TOKENS),
    "output_cost_per_reasoning_token": ("reasoning", TOKENS),
    "input_cost_per_request": ("request", REQUESTS),
    "output_cost_per_image": ("image", IMAGES),
    "input_cost_per_second": ("minute", MINUTES * 60),
}
_FIELD = re.compile(rf"({'|'.join(_NAMES)})(?:_above_(\d{{1,12}})k_tokens)?(?:_([a-z]+))?")
_TIERS = {"batches": "batch"}
_KNOWN_TIERS = frozenset(("batches", "flex", "priority", "ultrafast", "balanced", "decisions"))
_Sets = dict[tuple[int, str], dict[str, Decimal]]  # amounts by prompt size and tier


class NoPriceList(ValueError):
    """The file is none of LiteLLM's. The text is for the user."""


@dataclass(frozen=True)
class ListedPrice:
    """One row to be. `note`: amounts that had to be rounded, in their original form."""

    pattern: str
    provider: str
    min_prompt: int
    tier: str
    amounts: Mapping[str, int | None]
    note: str


@dataclass
class ListedPrices:
    rows: list[ListedPrice] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # of models that were left out
    other_providers: Counter[str] = field(default_factory=Counter)  # models
    zeros: int = 0  # models of self-hosted servers without a price
    empty: int = 0  # models without any price that we know


def parse(text: str) -> ListedPrices:
    """Return the prices of the file. Raises NoPriceList."""
    try:
        content = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise NoPriceList(_("This is no JSON: %(error)s") % {"error": error}) from None
    if not isinstance(content, dict) or not any(isinstance(fields, dict) for fields in content.values()):
        raise NoPriceList(_("This is no list of prices by LiteLLM: it must be an object with one object per model."))
    prices = ListedPrices()
    taken: set[tuple[str, str]] = set()
    for name, model in content.items():
        if name != "sample_spec":
            _add(prices, taken, name, model)
    return prices


def _add(prices: ListedPrices, taken: set[tuple[str, str]], name: str, model: Any) -> None:
    if not isinstance(model, dict):
        prices.errors.append(f"{name[:80]}: must be an object")
        return
    listed = str(model.get("litellm_provider"))
    provider = CLOUDS.get(listed) or SELF_HOSTED.get(listed)
    if provider is None:
        prices.other_providers[listed] += 1
        return
    pattern = name.removeprefix(f"{listed}/")
    if (pattern.casefold(), provider) in taken:
        return
    if not pattern.isprintable() or not 0 < len(pattern.strip()) == len(pattern) <= MAX_LENGTH or "*" in pattern:
        prices.errors.append(f"{name[:80]!r}: is no name of a model")
        return
    try:
        sets = _sets(model)
    except ValueError as error:
        prices.errors.append(f"{name[:80]}: {error}")
        return
    amounts = [price for them in sets.values() for price in them.values()]
    if not amounts:
        prices.empty += 1
    elif listed in SELF_HOSTED and not any(amounts):
        prices.zeros += 1
    else:
        taken.add((pattern.casefold(), provider))
        prices.rows += _rows(pattern, str(provider), sets)


def _sets(model: Mapping[str, Any]) -> _Sets:
    """Return all amounts for their number of units. Raises ValueError with the name of a field."""
    sets: _Sets = {}
    for size, fields in _parts(model):
        for name, value in fields.items():
            matched = _FIELD.fullmatch(name)
            if matched is None or value is None or (matched[3] is not None and matched[3] not in _KNOWN_TIERS):
                continue
            amount, units = _NAMES[matched[1]]
            if isinstance(value, bool) or not isinstance(value, int | Decimal):
                raise ValueError(f"{name} must be a number")
            if not is_amount(price := Decimal(value)) or not is_amount(price := price * units):
                raise ValueError(f"{name} must be a price from 0 on")
            tier = service_tier_of(_TIERS.get(matched[3] or "", matched[3] or ""))
            sets.setdefault((size or int(matched[2] or 0) * 1000, tier), {}).setdefault(amount, price)
    return sets


def _parts(model: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Return the fields of a model, and those for prompts of more tokens."""
    yield 0, model
    steps = model.get("tiered_pricing")
    for step in steps if isinstance(steps, list) else ():
        limits = step.get("range") if isinstance(step, dict) else None
        if not (
            isinstance(limits, list) and limits and isinstance(limits[0], int | Decimal) and 0 <= limits[0] < MAX_PROMPT
        ):
            raise ValueError("tiered_pricing must have a range of tokens in each step")
        yield int(limits[0]), step


def _rows(pattern: str, provider: str, sets: _Sets) -> Iterator[ListedPrice]:
    """Return a row for each size and tier, with the amounts that it takes from less specific ones."""
    sizes, tiers = sorted({size for size, _ in sets}), sorted({tier for _, tier in sets})
    for size in sizes:
        for tier in tiers:
            if (size, tier) not in sets and not (size and (0, tier) in sets):
                continue
            layers = ((0, ""), (size, ""), (0, tier), (size, tier)) if tier else ((0, ""), (size, ""))
            values = {name: value for layer in layers for name, value in sets.get(layer, {}).items()}
            amounts: dict[str, int | None] = dict.fromkeys(AMOUNTS)
            inexact = []
            for name, value in values.items():
                amounts[name], exact = nanos(value)
                if not exact:
                    inexact.append(f"{name} {value.normalize()}")
            yield ListedPrice(pattern, provider, size, tier, amounts, f"from {', '.join(inexact)}" if inexact else "")
