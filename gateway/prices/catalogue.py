"""Catalogue of prices: the list prices of clouds that come with a release, in files made by benchmarks.price_catalogue.

Its rows are never in the database. They have negative ids, and each keeps its id in later releases, so that the price
of an old request can still be shown. Rows that administrators enter win over all of them.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import msgspec

from gateway.registry.prices import AMOUNTS, Price, PriceWindow

DATA = Path(__file__).parent / "data"
CURRENCY = "USD"


class CatalogueRow(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One line of a file. Amounts as in gateway.registry.prices.Price."""

    number: int  # 1 and up over all files; the id of the row is its negative
    pattern: str
    valid_from: int
    valid_until: int | None
    min_prompt: int
    tier: str
    window: tuple[int, int, int] | None
    amounts: tuple[int | None, ...]  # in the order of AMOUNTS


class Manifest(msgspec.Struct, frozen=True):
    """Origin of the files."""

    name: str
    version: str
    date: str  # of the files, `2026-11-28`
    licence: str
    source: str
    files: dict[str, str]  # SHA-256 by name

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}"


@lru_cache(1)
def manifest() -> Manifest:
    return msgspec.json.decode((DATA / "manifest.json").read_bytes(), type=Manifest)


def read(provider: str) -> list[CatalogueRow]:
    """Return the lines of a provider's file; none if there is no such file."""
    name = f"{provider}.json"
    if name not in manifest().files:
        return []
    return msgspec.json.decode((DATA / name).read_bytes(), type=list[CatalogueRow])


def prices(provider: str) -> Sequence[Price]:
    """Return the prices of a type of endpoint."""
    return [_price(row, provider) for row in read(provider)]


def find(number: int) -> Price | None:
    """Return the price with a negative id."""
    return _all().get(number)


@lru_cache(1)
def _all() -> Mapping[int, Price]:
    names = (name.removesuffix(".json") for name in manifest().files if name.endswith(".json"))
    return {price.id: price for name in names for price in prices(name)}


def _price(row: CatalogueRow, provider: str) -> Price:
    window = None if row.window is None else PriceWindow(*row.window)
    span = (row.valid_from, row.valid_until, CURRENCY, row.min_prompt, row.tier, window)
    price = Price(-row.number, row.pattern, "", provider, *span, source=manifest().title)
    return msgspec.structs.replace(price, **dict(zip(AMOUNTS, row.amounts, strict=True)))
