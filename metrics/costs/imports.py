"""Import of listed prices into the price book: compares them with the stored rows, and writes the difference."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction
from django.db.models import Q

from gateway.registry.prices import AMOUNTS
from metrics.costs import price_cache
from metrics.costs.litellm import CURRENCY, SOURCE, ListedPrice
from metrics.costs.tables import PriceRow

_Key = tuple[str, str, int, str]


@dataclass
class PriceChanges:
    """Difference of an import. A changed price is a new row, and the old one stays for earlier requests."""

    added: list[PriceRow] = field(default_factory=list)
    changed: list[PriceRow] = field(default_factory=list)
    ended: list[PriceRow] = field(default_factory=list)  # rows of an earlier import whose condition is no longer listed
    unchanged: int = 0
    kept: int = 0  # listed prices that a row of an administrator stands for


def compare(listed: Iterable[ListedPrice], start: datetime) -> PriceChanges:
    """Return the difference if these prices count from `start` on. Raises django.db.Error."""
    listed = list(listed)
    stored: dict[_Key, list[PriceRow]] = {}
    rows = PriceRow.objects.filter(Q(valid_until=None) | Q(valid_until__gt=start), endpoint_id=None, window_start=None)
    for row in rows.order_by("valid_from", "id"):
        stored.setdefault(_key(row), []).append(row)
    changes = PriceChanges()
    wanted: Mapping[_Key, ListedPrice] = {_key(listed_price): listed_price for listed_price in listed}
    for key, price in wanted.items():
        before = stored.get(key, [])
        if any(row.source != SOURCE for row in before):
            changes.kept += 1
        elif not before:
            changes.added.append(_row(price, start))
        elif _amounts(before[-1]) == dict(price.amounts) and before[-1].currency == CURRENCY:
            changes.unchanged += 1
        elif before[-1].valid_from < start:
            changes.changed.append(_row(price, start))
        else:
            changes.kept += 1  # a later price is planned already
    models = {key[:2] for key in wanted}
    for key, before in stored.items():
        if key not in wanted and key[:2] in models:
            changes.ended += [row for row in before if row.source == SOURCE and row.valid_from < start]
    return changes


def apply(changes: PriceChanges, start: datetime) -> None:
    """Write the changes. Raises django.db.Error."""
    with transaction.atomic():
        PriceRow.objects.bulk_create([*changes.added, *changes.changed], batch_size=500)
        ids = [row.pk for row in changes.ended]
        for first in range(0, len(ids), 500):
            PriceRow.objects.filter(pk__in=ids[first : first + 500]).update(valid_until=start)
        price_cache.changed()


def _key(row: PriceRow | ListedPrice) -> _Key:
    return row.pattern.casefold(), row.provider, row.min_prompt, row.tier


def _amounts(row: PriceRow) -> dict[str, int | None]:
    return {name: getattr(row, name) for name in AMOUNTS}


def _row(price: ListedPrice, start: datetime) -> PriceRow:
    return PriceRow(
        pattern=price.pattern,
        provider=price.provider,
        valid_from=start,
        currency=CURRENCY,
        min_prompt=price.min_prompt,
        tier=price.tier,
        source=SOURCE,
        note=price.note,
        **price.amounts,
    )
