"""Cost of usage at a price, part by part. Pure: no I/O.

The only formula of a cost: of the requests that control counts, of the expected and the highest cost in a gateway, and
of the parts that the page of a request shows. Amounts are integers in 10⁻⁹ of a currency.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from gateway.prices.counts import part_of, plausible
from gateway.registry.prices import Price

TOKENS, REQUESTS, IMAGES, MINUTES = 1_000_000, 1_000, 1_000, 1_000  # that a price stands for
MS_OF_MINUTES = MINUTES * 60_000
_DENOMINATOR = 60_000_000  # common multiple of TOKENS, REQUESTS, IMAGES and MS_OF_MINUTES


class PricedUsage(msgspec.Struct, frozen=True):
    """Counts of one request. None: not reported.

    `cached`, `write_short` and `write_long` are parts of `input`, `reasoning` is a part of `output`.
    """

    input: int | None = None
    cached: int | None = None
    write_short: int | None = None
    write_long: int | None = None
    output: int | None = None
    reasoning: int | None = None
    images: int | None = None
    audio_ms: int | None = None


class ReportedCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one request as its endpoint reported them. None: not reported."""

    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    cache_write_tokens: int | None
    long_write_tokens: int | None  # of the written ones
    reasoning_tokens: int | None
    images: int | None
    audio_ms: int | None


class PricedPart(NamedTuple):
    """Part of a cost: of one kind of token, the request, its images or its audio."""

    name: str  # one of gateway.registry.prices.AMOUNTS
    quantity: int  # tokens, images, or ms of audio
    amount: int | None  # for `per` of them; None: the price has none, so that they cost nothing
    per: int


class _TokenAmounts(NamedTuple):
    """Amounts for a million tokens of each kind. A kind without an amount costs as the kind that it is part of."""

    input: int | None
    cached: int | None
    write_short: int | None
    write_long: int | None
    output: int | None
    reasoning: int | None


def usage_of(reported: ReportedCounts) -> PricedUsage:
    """Return the usage of a request, without counts that no response can have."""
    whole, output = plausible(reported.input_tokens), plausible(reported.output_tokens)
    written = part_of(reported.cache_write_tokens, whole)
    long = part_of(reported.long_write_tokens, written) or 0
    return PricedUsage(
        input=whole,
        cached=part_of(reported.cached_tokens, whole),
        write_short=None if written is None else written - long,
        write_long=long,
        output=output,
        reasoning=part_of(reported.reasoning_tokens, output),
        images=plausible(reported.images),
        audio_ms=plausible(reported.audio_ms),
    )


def parts(price: Price, usage: PricedUsage) -> list[PricedPart]:
    """Return the parts of a cost: each token is in one of them.

    Counts that were not reported have no part, nor have requests, images and audio without an amount. Parts that
    exceed the tokens they are part of are cut, cached tokens last.
    """
    left = usage.input or 0
    cached = min(usage.cached or 0, left)
    left -= cached
    short = min(usage.write_short or 0, left)
    left -= short
    long = min(usage.write_long or 0, left)
    left -= long
    output = usage.output or 0
    reasoning = min(usage.reasoning or 0, output)
    quantities = (left, cached, short, long, output - reasoning, reasoning)
    named = zip(_TokenAmounts._fields, quantities, _token_amounts(price), strict=True)
    priced_parts = [PricedPart(name, quantity, amount, TOKENS) for name, quantity, amount in named if quantity]
    if price.request is not None:
        priced_parts.append(PricedPart("request", 1, price.request, REQUESTS))
    if price.image is not None and usage.images:
        priced_parts.append(PricedPart("image", usage.images, price.image, IMAGES))
    if price.minute is not None and usage.audio_ms:
        priced_parts.append(PricedPart("minute", usage.audio_ms, price.minute, MS_OF_MINUTES))
    return priced_parts


def cost(price: Price, usage: PricedUsage) -> int:
    """Return the cost of one request in 10⁻⁹ of the price's currency, rounded half up once."""
    return (2 * _exact(parts(price, usage)) + _DENOMINATOR) // (2 * _DENOMINATOR)


def most(price: Price, usage: PricedUsage) -> int:
    """Return the cost if all tokens are of the dearest kind, rounded up. Only their whole numbers in `usage` matter."""
    amounts = [amount or 0 for amount in _token_amounts(price)]
    dearest = msgspec.structs.replace(
        price, input=max(amounts[:4]), cached=None, write_short=None, write_long=None, output=max(amounts[4:]),
        reasoning=None,
    )  # fmt: skip
    return -(-_exact(parts(dearest, usage)) // _DENOMINATOR)


def _token_amounts(price: Price) -> _TokenAmounts:
    short = _either(price.write_short, price.input)
    return _TokenAmounts(
        price.input,
        _either(price.cached, price.input),
        short,
        _either(price.write_long, short),
        price.output,
        _either(price.reasoning, price.output),
    )


def _either(amount: int | None, parent: int | None) -> int | None:
    return parent if amount is None else amount


def _exact(priced_parts: Iterable[PricedPart]) -> int:
    """Return the sum of parts in 10⁻⁹ of the currency, times _DENOMINATOR."""
    return sum([part.quantity * (part.amount or 0) * (_DENOMINATOR // part.per) for part in priced_parts])
