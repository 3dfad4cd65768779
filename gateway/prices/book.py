"""Price book: the price of a request, and its cost. Pure: no I/O.

Amounts are integers in 10⁻⁹ of a currency (`NANO`), so that sums are exact. A price that is not known is None, never
zero: zero means free of charge.
"""

from collections.abc import Callable, Iterable, Sequence
from math import gcd

import msgspec

from gateway.registry.patterns import matches_parts
from gateway.registry.prices import Price

NANO = 1_000_000_000  # parts of a unit of currency
TOKENS, REQUESTS, IMAGES, MINUTES = 1_000_000, 1_000, 1_000, 1_000  # that a price stands for
MAX_CACHED = 10_000  # models at endpoints
# Names by which servers report the service tier that has no surcharge and no discount.
DEFAULT_TIERS = frozenset(("", "default", "standard", "auto", "on_demand"))

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


def cost(price: Price, usage: PricedUsage) -> int:
    """Return the cost of one request in 10⁻⁹ of the price's currency, rounded half up once.

    What was not reported, and what the row has no amount for, adds nothing. Parts that exceed the tokens they are part
    of are cut, cached tokens last.
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
    of_short = _either(price.write_short, price.input)
    tokens = (
        left * (price.input or 0)
        + cached * (_either(price.cached, price.input) or 0)
        + short * (of_short or 0)
        + long * (_either(price.write_long, of_short) or 0)
        + (output - reasoning) * (price.output or 0)
        + reasoning * (_either(price.reasoning, price.output) or 0)
    )
    exact = tokens * (_DENOMINATOR // TOKENS)
    exact += (price.request or 0) * (_DENOMINATOR // REQUESTS)
    if price.image and usage.images:
        exact += usage.images * price.image * (_DENOMINATOR // IMAGES)
    if price.minute and usage.audio_ms:
        exact += usage.audio_ms * price.minute * (_DENOMINATOR // MS_OF_MINUTES)
    return (2 * exact + _DENOMINATOR) // (2 * _DENOMINATOR)


class TokenAmounts(msgspec.Struct, frozen=True, gc=False):
    """Amounts of a price for requests that wrote nothing to a cache. Their cost, the same as of `cost`:

    (input × tokens + output × tokens + cached × tokens + reasoning × tokens + fixed) // divisor, in 10⁻⁹.

    Of most prices, which have few decimal places, the divisor is 1, and all amounts are small: Python computes with
    integers below 2**30 in a fraction of the time.
    """

    input: int
    output: int
    cached: int  # in addition to `input`; mostly negative
    reasoning: int  # in addition to `output`
    fixed: int  # the amount for the request, and what rounds half up
    divisor: int = 1

    @classmethod
    def of(cls, price: Price) -> "TokenAmounts":
        of_input, of_output = price.input or 0, price.output or 0
        cached = (_either(price.cached, price.input) or 0) - of_input
        reasoning = (_either(price.reasoning, price.output) or 0) - of_output
        request = (price.request or 0) * (TOKENS // REQUESTS)
        unit = gcd(of_input, of_output, cached, reasoning, request, TOKENS)
        divisor = TOKENS // unit
        # Half of an odd divisor is rounded down, as no sum of the amounts is between two integers.
        fixed = request // unit + divisor // 2
        return cls(of_input // unit, of_output // unit, cached // unit, reasoning // unit, fixed, divisor)


def first(rows: Iterable[Price], prompt: int, tier: str) -> Price | None:
    """Return the first row for a prompt of so many tokens and a service tier as it was reported."""
    tier = tier and tier_of(tier)
    for row in rows:
        if (not row.min_prompt or prompt > row.min_prompt) and row.tier in ("", tier):
            return row
    return None


def in_minutes(rows: Iterable[Price], first: int, last: int) -> list[Price] | None:
    """Return the rows that count all through these minutes since 1970, up to the first one for all prompts and tiers.

    Returns None if one of them may begin or end in between. Hours of the day begin and end with a minute.
    """
    start, end, found = first * 60, last * 60 + 60, []
    for row in rows:
        if start < row.valid_from < end or (row.valid_until is not None and start < row.valid_until < end):
            return None
        if row.window is not None and first != last:
            return None
        if row.counts_at(start):
            found.append(row)
            if row.counts_for_all:
                break
    return found


def tier_of(reported: str) -> str:
    """Return a service tier as rows of the book have it: in lower case, the default one empty."""
    tier = reported.strip().lower()
    return "" if tier in DEFAULT_TIERS else tier


def literal_length(pattern: str) -> int:
    """Return the number of characters of a pattern that are no `*`."""
    return len(pattern) - pattern.count("*")


class _PatternIndex:
    """Rows by their pattern."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self, rows: Iterable[Price]) -> None:
        self._exact: dict[str, list[Price]] = {}
        self._patterns: list[tuple[list[str], Price]] = []
        for row in rows:
            pattern = row.pattern.casefold()
            if "*" in pattern:
                self._patterns.append((pattern.split("*"), row))
            else:
                self._exact.setdefault(pattern, []).append(row)

    def find(self, name: str) -> list[Price]:
        """Return the rows for a casefolded name."""
        return [*self._exact.get(name, ()), *(row for parts, row in self._patterns if matches_parts(parts, name))]


Catalogue = Callable[[str], Iterable[Price]]


def no_catalogue(provider: str) -> Iterable[Price]:
    return ()


Named = Callable[[str], Iterable[Price]]


def nothing(name: str) -> Iterable[Price]:
    return ()


class PriceBook:
    """All prices of the installation, at one version. Rows of the catalogue count where no other row does.

    The most specific row wins: one for an endpoint before one for a provider before any other; an exact name before a
    pattern, the longest literal first, the served model before its canonical name; then a row for the service tier,
    for the largest prompts, for the hour of the day, and the latest.
    """

    def __init__(self, rows: Iterable[Price], catalogue: Catalogue = no_catalogue, named: Named = nothing) -> None:
        """`catalogue`: returns the rows of a provider, and is called when its first request is priced.

        `named`: returns rows that are not in memory, by the casefolded name that is their pattern.
        """
        self.rows = tuple(rows)
        self._rows = _PatternIndex(self.rows)
        self._named = named
        self._catalogue = catalogue
        self._catalogues: dict[str, _PatternIndex] = {}
        self._found: dict[tuple[str, str, str, str], Sequence[Price]] = {}

    def price(
        self,
        *,
        served: str,
        canonical: str,
        endpoint_id: str,
        provider: str,
        completed_at: float,
        prompt: int,
        tier: str = "",
    ) -> Price | None:
        """Return the price of a request; None if it has none.

        `served` is the endpoint's own id of the model, `canonical` its canonical name or empty. `completed_at` is in
        seconds since 1970 UTC, `prompt` in tokens, cached ones included.
        """
        rows = self.rows_for(served=served, canonical=canonical, endpoint_id=endpoint_id, provider=provider)
        return first((row for row in rows if row.counts_at(completed_at)), prompt, tier) if rows else None

    def rows_for(self, *, served: str, canonical: str, endpoint_id: str, provider: str) -> Sequence[Price]:
        """Return all rows that a request to this model may have, the most specific first. They are kept."""
        key = (served, canonical, endpoint_id, provider)
        rows = self._found.get(key)
        if rows is None:
            if len(self._found) >= MAX_CACHED:
                self._found.clear()
            rows = self._found[key] = self._find(*key)
        return rows

    def _find(self, served: str, canonical: str, endpoint_id: str, provider: str) -> list[Price]:
        names = [name.casefold() for name in dict.fromkeys((served, canonical)) if name]
        found: dict[int, tuple[int, Price]] = {}
        for rank, name in enumerate(names):
            for row in (*self._named(name), *self._rows.find(name), *self._catalogue_of(provider).find(name)):
                if row.endpoint_id in ("", endpoint_id) and row.provider in ("", provider):
                    found.setdefault(row.id, (rank, row))
        return [row for _, row in sorted(found.values(), key=_specificity)]

    def _catalogue_of(self, provider: str) -> _PatternIndex:
        rows = self._catalogues.get(provider)
        if rows is None:
            rows = self._catalogues[provider] = _PatternIndex(self._catalogue(provider))
        return rows


def _specificity(found: tuple[int, Price]) -> tuple[object, ...]:
    """Return the order of a row: lesser is more specific. `found`: 0 for the served model, 1 for the canonical name."""
    rank, row = found
    return (
        row.id < 0,
        not row.endpoint_id,
        not row.provider,
        "*" in row.pattern,
        -literal_length(row.pattern) if "*" in row.pattern else 0,
        rank,
        not row.tier,
        -row.min_prompt,
        row.window is None,
        -row.valid_from,
        -row.id,
    )


def _either(amount: int | None, parent: int | None) -> int | None:
    return parent if amount is None else amount
