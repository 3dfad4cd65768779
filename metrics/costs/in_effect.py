"""Prices of all models of all endpoints, and models that served requests without a price."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, NotRequired, TypedDict

from django.db.models import Sum

from endpoints.openapi.payload_fields import Help, UuidText
from endpoints.registry import Entry, ModelEntry
from gateway.registry.prices import Price
from metrics.costs.price_cache import price_cache
from metrics.models import DayRollUp, PriceRow, ServedDayRollUp

DAYS = 7  # for models without a price, today included


class PricedModelPayload(TypedDict):
    """A model at the endpoints of one type, or at one endpoint that has prices of its own."""

    model: str
    canonical_name: str | None
    endpoint_type: str
    endpoint_id: str | None
    endpoint_name: str | None
    endpoints: int
    price: NotRequired[Price | None]
    more: int  # further rows that count now: for sizes of prompts, tiers, hours


# A model without a price, and its requests.
class UnpricedModelPayload(TypedDict):
    model: Annotated[str, Help("Served model.")]
    endpoint_id: UuidText
    endpoint_name: str
    endpoint_type: str
    requests: Annotated[int, Help("Requests of the last seven days.")]
    input_tokens: int
    output_tokens: int


@dataclass
class _Sums:
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, other: "_Sums", factor: int = 1) -> None:
        self.requests += factor * other.requests
        self.input_tokens += factor * other.input_tokens
        self.output_tokens += factor * other.output_tokens


_Place = tuple[str, str]  # endpoint, model


def price_of(entry: Entry, served: str, canonical: str | None, moment: float) -> Price | None:
    """Return the price of a short prompt at the default tier. Raises django.db.Error."""
    return price_cache.book().price(
        served=served,
        canonical=canonical or "",
        endpoint_id=entry.id,
        provider=entry.kind,
        completed_at=moment,
        prompt=0,
    )


def priced_models(entries: Iterable[Entry], moment: float, text: str = "") -> list[PricedModelPayload]:
    """Return the models of these endpoints, sorted by name, with their prices. Raises django.db.Error.

    `text`: only models with it in their name or canonical name.
    """
    own = {
        str(endpoint_id)
        for endpoint_id in PriceRow.objects.exclude(endpoint_id=None).values_list("endpoint_id", flat=True)
    }
    rows_by_key: dict[tuple[str, str | None, str, str], PricedModelPayload] = {}
    for entry, model in _offers(entries, text.casefold()):
        alone = entry.id in own
        key = (model.id, model.canonical_name, entry.kind, entry.id if alone else "")
        if key in rows_by_key:
            rows_by_key[key]["endpoints"] += 1
            continue
        rows_by_key[key] = {
            "model": model.id,
            "canonical_name": model.canonical_name,
            "endpoint_type": entry.kind,
            "endpoint_id": entry.id if alone else None,
            "endpoint_name": entry.name if alone else None,
            "endpoints": 1,
            "price": price_of(entry, model.id, model.canonical_name, moment),
            "more": _more(entry, model, moment),
        }
    rows = rows_by_key.values()
    return sorted(rows, key=lambda row: (row["model"].casefold(), row["endpoint_type"], row["endpoint_name"] or ""))


def unpriced_models(
    entries: Iterable[Entry], today: date, moment: float, *, needs_rate: bool = False
) -> list[UnpricedModelPayload]:
    """Return models that served requests in the last days but have no price now, the most requests first.

    `needs_rate`: also those whose price is in a currency without a rate. Models of deleted endpoints are left out.
    Raises django.db.Error.
    """
    known = {entry.id: entry for entry in entries}
    rows: list[UnpricedModelPayload] = []
    for (endpoint_id, served), (canonical, sums) in _served(today).items():
        entry = known.get(endpoint_id)
        if entry is None or sums.requests <= 0:
            continue
        canonical = canonical or next((model.canonical_name for model in entry.models if model.id == served), None)
        price = price_of(entry, served, canonical, moment)
        if price is None or (needs_rate and price_cache.rates().rate(price.currency, moment) is None):
            rows.append(
                {
                    "model": served,
                    "endpoint_id": entry.id,
                    "endpoint_name": entry.name,
                    "endpoint_type": entry.kind,
                    "requests": sums.requests,
                    "input_tokens": sums.input_tokens,
                    "output_tokens": sums.output_tokens,
                }
            )
    return sorted(rows, key=lambda row: (-row["requests"], row["model"], row["endpoint_name"]))


def _offers(entries: Iterable[Entry], text: str) -> Iterator[tuple[Entry, ModelEntry]]:
    for entry in entries:
        for model in entry.models:
            if text in model.id.casefold() or text in (model.canonical_name or "").casefold():
                yield entry, model


def _more(entry: Entry, model: ModelEntry, moment: float) -> int:
    """Return the number of rows that count now under further conditions."""
    rows = price_cache.book().rows_for(
        served=model.id, canonical=model.canonical_name or "", endpoint_id=entry.id, provider=entry.kind
    )
    return len(
        {
            (row.tier, row.min_prompt, row.window)
            for row in rows
            if row.valid_from <= moment
            and (row.valid_until is None or moment < row.valid_until)
            and (row.tier or row.min_prompt or row.window)
        }
    )


def _served(today: date) -> Mapping[_Place, tuple[str | None, _Sums]]:
    """Return the requests of the last days by endpoint and served model, with its canonical name if it is known."""
    since = (today - timedelta(days=DAYS - 1)).isoformat()
    by_name: dict[_Place, _Sums] = {}
    columns = ("requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens")
    sums = {name: Sum(name) for name in columns}
    days = DayRollUp.objects.filter(date__gte=since).values_list("endpoint_id", "model").annotate(**sums)
    for endpoint_id, model, *counts in days.order_by():
        by_name[str(endpoint_id), model] = _sums(counts)
    served_sums: dict[_Place, tuple[str | None, _Sums]] = {}
    rows = ServedDayRollUp.objects.filter(date__gte=since).values_list("endpoint_id", "model", "served", "canonical")
    for endpoint_id, model, served, canonical, *counts in rows.annotate(**sums).order_by():
        part = _sums(counts)
        served_sums.setdefault((str(endpoint_id), served), (canonical or None, _Sums()))[1].add(part)
        by_name.setdefault((str(endpoint_id), model), _Sums()).add(part, -1)
    for place, rest in by_name.items():
        if rest.requests > 0:
            served_sums.setdefault(place, (None, _Sums()))[1].add(rest)
    return served_sums


def _sums(counts: list[int]) -> _Sums:
    ok, failed, cancelled, input_tokens, output_tokens = counts
    return _Sums(ok + failed + cancelled, input_tokens, output_tokens)
