"""The most that a request can cost, whatever its service tier, hour, use of caches and share of reasoning."""

from collections.abc import Iterable

from gateway.prices.evaluation import PricedUsage, most
from gateway.registry.prices import Price


def most_at(
    rows: Iterable[Price], since: float, until: float, tokens_in: int, tokens_out: int, images: int, audio_ms: int = 0
) -> dict[str, int]:
    """Return the most by currency, in 10⁻⁹ of it, for a request that completes between two moments.

    `rows` are those of PriceBook.rows_for: none after one that certainly counts can count. The numbers of tokens and
    images, and the duration of audio, are the most that the request can have.
    """
    usage = PricedUsage(input=tokens_in, output=tokens_out, images=images, audio_ms=audio_ms)
    amounts: dict[str, int] = {}
    for row in rows:
        if row.valid_from > until or (row.valid_until is not None and row.valid_until <= since):
            continue
        if row.min_prompt and row.min_prompt >= tokens_in:
            continue
        amounts[row.currency] = max(amounts.get(row.currency, 0), most(row, usage))
        lasts = row.valid_from <= since and (row.valid_until is None or row.valid_until > until)
        if lasts and row.counts_for_all and row.window is None:
            break
    return amounts
