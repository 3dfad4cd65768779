"""The most that a request can cost, whatever its service tier, hour, use of caches and share of reasoning."""

from collections.abc import Iterable

from gateway.prices.book import IMAGES, MS_OF_MINUTES, REQUESTS, TOKENS
from gateway.registry.prices import Price


def most_at(
    rows: Iterable[Price], since: float, until: float, tokens_in: int, tokens_out: int, images: int, audio_ms: int = 0
) -> dict[str, int]:
    """Return the most by currency, in 10⁻⁹ of it, for a request that completes between two moments.

    `rows` are those of PriceBook.rows_for: none after one that certainly counts can count. The numbers of tokens and
    images, and the duration of audio, are the most that the request can have.
    """
    found: dict[str, int] = {}
    for row in rows:
        if row.valid_from > until or (row.valid_until is not None and row.valid_until <= since):
            continue
        if row.min_prompt and row.min_prompt >= tokens_in:
            continue
        found[row.currency] = max(found.get(row.currency, 0), _most(row, tokens_in, tokens_out, images, audio_ms))
        lasts = row.valid_from <= since and (row.valid_until is None or row.valid_until > until)
        if lasts and row.counts_for_all and row.window is None:
            break
    return found


def _most(price: Price, tokens_in: int, tokens_out: int, images: int, audio_ms: int) -> int:
    """Return the cost if all tokens are of the dearest kind, rounded up."""
    of_input = price.input or 0
    of_short = of_input if price.write_short is None else price.write_short
    of_long = of_short if price.write_long is None else price.write_long
    of_cached = of_input if price.cached is None else price.cached
    of_output = price.output or 0
    of_reasoning = of_output if price.reasoning is None else price.reasoning
    exact = tokens_in * max(of_input, of_cached, of_short, of_long) + tokens_out * max(of_output, of_reasoning)
    exact += (price.request or 0) * (TOKENS // REQUESTS) + images * (price.image or 0) * (TOKENS // IMAGES)
    exact -= -audio_ms * (price.minute or 0) * TOKENS // MS_OF_MINUTES  # rounded up
    return -(-exact // TOKENS)
