"""Price book: the price of a request. Pure: no I/O.

Amounts are integers in 10⁻⁹ of a currency (`NANO`), so that sums are exact. A price that is not known is None, never
zero: zero means free of charge.
"""

from collections.abc import Callable, Iterable, Sequence

from gateway.registry.patterns import matches_parts
from gateway.registry.prices import Price

NANO = 1_000_000_000  # parts of a unit of currency
MAX_CACHED = 10_000  # models at endpoints
# Names by which servers report the service tier that has no surcharge and no discount.
DEFAULT_SERVICE_TIERS = frozenset(("", "default", "standard", "auto", "on_demand"))


def first(rows: Iterable[Price], prompt: int, tier: str) -> Price | None:
    """Return the first row for a prompt of so many tokens and a service tier as it was reported."""
    tier = tier and service_tier_of(tier)
    for row in rows:
        if (not row.min_prompt or prompt > row.min_prompt) and row.tier in ("", tier):
            return row
    return None


def service_tier_of(reported: str) -> str:
    """Return a service tier as rows of the book have it: in lower case, the default one empty."""
    tier = reported.strip().lower()
    return "" if tier in DEFAULT_SERVICE_TIERS else tier


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
        self._cached_rows: dict[tuple[str, str, str, str], Sequence[Price]] = {}

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
        rows = self._cached_rows.get(key)
        if rows is None:
            if len(self._cached_rows) >= MAX_CACHED:
                self._cached_rows.clear()
            rows = self._cached_rows[key] = self._find(*key)
        return rows

    def _find(self, served: str, canonical: str, endpoint_id: str, provider: str) -> list[Price]:
        names = [name.casefold() for name in dict.fromkeys((served, canonical)) if name]
        ranked_rows: dict[int, tuple[int, Price]] = {}
        for rank, name in enumerate(names):
            for row in (*self._named(name), *self._rows.find(name), *self._catalogue_of(provider).find(name)):
                if row.endpoint_id in ("", endpoint_id) and row.provider in ("", provider):
                    ranked_rows.setdefault(row.id, (rank, row))
        return [row for _, row in sorted(ranked_rows.values(), key=_specificity)]

    def _catalogue_of(self, provider: str) -> _PatternIndex:
        rows = self._catalogues.get(provider)
        if rows is None:
            rows = self._catalogues[provider] = _PatternIndex(self._catalogue(provider))
        return rows


def _specificity(ranked_row: tuple[int, Price]) -> tuple[object, ...]:
    """Return the order of a row: lesser is more specific. `rank`: 0 for the served model, 1 for the canonical name."""
    rank, row = ranked_row
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
