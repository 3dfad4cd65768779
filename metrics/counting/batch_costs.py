"""Costs of the requests of a fold, and their sums.

Most requests have the same price as others of their group, and reported the usual counts. Their costs are computed in
one loop for each group, with the same result as `Pricing.cost` for each of them.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.ipc.record import RequestRecord
from gateway.prices.book import TokenAmounts, first, in_minutes
from gateway.prices.costs import Pricing, RequestCost
from gateway.prices.counts import USUAL_TOKENS, part_of, plausible
from gateway.registry.prices import Price
from metrics.counting.cells import local_date
from metrics.counting.costs import CostKey, CostSums, Place, PlaceSums, cost_key, place_of
from metrics.counting.fold import Fold
from metrics.counting.fold_sums import Group, GroupKey

_Name = str | tuple[str, str | None, str | None]  # of a model: asked, or with served model and canonical name


@dataclass(slots=True)
class Costs:
    """Costs of a batch of requests by id, and their sums: the same ones by key, and by place."""

    by_id: dict[str, RequestCost] = field(default_factory=dict)
    sums: dict[CostKey, CostSums] = field(default_factory=dict)
    places: dict[Place, PlaceSums] = field(default_factory=dict)

    def add(self, key: CostKey, added: CostSums) -> None:
        """Add to the sums of a key and of its place."""
        sums = self.sums.setdefault(key, added)
        if sums is not added:
            sums.add(added)
        place = self.places.setdefault(place_of(key), PlaceSums())
        place.requests += added.requests
        place.cost += added.cost


@dataclass(slots=True)
class _Priced:
    """A price of requests to one model at one endpoint, and the sums of their place."""

    price_id: int
    currency: str
    amounts: TokenAmounts
    place: PlaceSums


_NO_PRICE = _Priced(0, "", TokenAmounts(0, 0, 0, 0, 0), PlaceSums())
_UNKNOWN = _Priced(0, "", TokenAmounts(0, 0, 0, 0, 0), PlaceSums())


def costs_of(fold: Fold, pricing: Pricing) -> Costs:
    """Return the costs of the requests of a fold."""
    batch = _Batch(fold, pricing)
    batch.add_groups(fold.groups)
    for entry in fold.ungrouped:
        if entry.attempts:
            batch.add(entry)
    return batch.finished()


class _Batch:
    """Costs of the requests that were added."""

    def __init__(self, fold: Fold, pricing: Pricing) -> None:
        self.costs = Costs()
        self._zone = fold.zone
        self._pricing = pricing
        minutes = {key[0] for key, _, _ in fold.groups}
        self._span = (min(minutes, default=0), max(minutes, default=0))
        self._rows_in_minute: dict[tuple[int, str, str, str | None, str | None], list[Price] | None] = {}
        self._for_all: dict[int, bool] = {}  # by id of a row: all requests have this price
        self._amounts: dict[int, TokenAmounts] = {}  # by id of a row

    def finished(self) -> Costs:
        """Return the costs, without places where no request has one."""
        costs = self.costs
        costs.places = {place: sums for place, sums in costs.places.items() if sums.requests}
        return costs

    def add_groups(self, groups: Iterable[Group]) -> None:
        """Add successful requests with one attempt."""
        prices: dict[str, dict[_Name, _Priced | None]] = defaultdict(dict)  # by endpoint and model
        sums = self.costs.sums
        last_minute, date = -1, ""
        for group, entries, _ in groups:
            minute, endpoint_id, model, kind, api_key_id, _, served, canonical, step = group
            name = model if served is None and canonical is None else (model, served, canonical)
            of_endpoint = prices[endpoint_id]
            priced = of_endpoint.get(name, _UNKNOWN)
            if priced is _UNKNOWN:
                priced = of_endpoint[name] = self._price(endpoint_id, model, served, canonical)
            if priced is None:
                self._add_one_by_one(group, entries)
                continue
            if priced is _NO_PRICE:
                continue
            added = self._add_entries(priced, entries)
            if not added.requests:
                continue
            if minute != last_minute:
                last_minute, date = minute, local_date(minute, self._zone)
            served = model if served is None else served
            # As `cost_key` returns it.
            key = (
                date, endpoint_id, model, kind, api_key_id, served, served if canonical is None else canonical, step,
                priced.price_id, priced.currency,
            )  # fmt: skip
            known = sums.setdefault(key, added)
            if known is not added:
                known.add(added)
            place = priced.place
            place.requests += added.requests
            place.cost += added.cost

    def _add_entries(self, priced: _Priced, entries: list[RequestRecord]) -> CostSums:
        """Add the costs of successful requests that have this price, and return their sums.

        Requests with unusual counts are added alone, and are not in these sums.
        """
        price_id, currency, amounts, by_id = priced.price_id, priced.currency, priced.amounts, self.costs.by_id
        of_input, of_output, of_cached = amounts.input, amounts.output, amounts.cached
        fixed, divisor = amounts.fixed, amounts.divisor
        requests, total, estimated_requests, estimated = len(entries), 0, 0, 0
        for entry in entries:
            tokens_in, tokens_out = entry.input_tokens, entry.output_tokens or 0
            # Usual counts meet the conditions of `plausible` and `part_of`.
            if (
                tokens_in is None
                or tokens_in < 0
                or tokens_in > USUAL_TOKENS
                or tokens_out < 0
                or tokens_out > USUAL_TOKENS
                or entry.cache_write_tokens is not None
            ):
                requests -= 1
                self.add(entry)
                continue
            exact = of_input * tokens_in + of_output * tokens_out + fixed
            # Only if the part is unusual, a call is needed.
            if part := entry.cached_tokens:
                exact += of_cached * (part if part > 0 and part < tokens_in else part_of(part, tokens_in) or 0)
            if part := entry.reasoning_tokens:
                exact += amounts.reasoning * (
                    part if part > 0 and part < tokens_out else part_of(part, tokens_out) or 0
                )
            cost = exact if divisor == 1 else exact // divisor
            by_id[entry.id] = price_id, currency, cost
            total += cost
            if entry.estimated:
                estimated_requests += 1
                estimated += cost
        return CostSums(requests, estimated_requests, total, estimated)

    def _price(self, endpoint_id: str, model: str, served: str | None, canonical: str | None) -> _Priced | None:
        """Return the price of all requests to a model at an endpoint in these minutes, or _NO_PRICE.

        None: it depends on the minute, or on the request.
        """
        rows = self._pricing.rows(model, endpoint_id, served, canonical)
        if not rows:
            return _NO_PRICE
        row = rows[0]
        if row.id not in self._for_all:
            self._for_all[row.id] = row.counts_for_all and not _has_media(row) and bool(in_minutes((row,), *self._span))
        if self._for_all[row.id]:
            return self._priced(row, endpoint_id, model if served is None else served)
        return _NO_PRICE if in_minutes(rows, *self._span) == [] else None

    def _priced(self, row: Price, endpoint_id: str, served: str) -> _Priced:
        amounts = self._amounts.get(row.id)
        if amounts is None:
            amounts = self._amounts[row.id] = TokenAmounts.of(row)
        place = self.costs.places.setdefault((endpoint_id, served, row.currency), PlaceSums())
        return _Priced(row.id, row.currency, amounts, place)

    def _add_one_by_one(self, group: GroupKey, entries: list[RequestRecord]) -> None:
        """Add successful requests of a group whose price depends on the minute, or on the request."""
        minute, endpoint_id, model, _, _, _, served, canonical, _ = group
        of_minute = (minute, endpoint_id, model, served, canonical)
        if of_minute not in self._rows_in_minute:
            found = in_minutes(self._pricing.rows(model, endpoint_id, served, canonical), minute, minute)
            self._rows_in_minute[of_minute] = None if found is None or any(map(_has_media, found)) else found
        rows = self._rows_in_minute[of_minute]
        if rows is None:
            for entry in entries:
                self.add(entry)
            return
        for row, part in _by_price(rows, entries):
            priced = self._priced(row, endpoint_id, model if served is None else served)
            added = self._add_entries(priced, part)
            if added.requests:
                self.costs.add(cost_key(part[0], (row.id, row.currency, 0), self._zone), added)

    def add(self, entry: RequestRecord) -> None:
        """Add a request with attempts, if it has a cost."""
        found = self._pricing.cost(entry)
        if found is not None:
            self.costs.by_id[entry.id] = found
            added = CostSums()
            added.count(found[2], estimated=entry.estimated)
            self.costs.add(cost_key(entry, found, self._zone), added)


def _has_media(row: Price) -> bool:
    """Return True if requests with this price must be looked at alone."""
    return row.image is not None or row.minute is not None


def _by_price(rows: list[Price], entries: list[RequestRecord]) -> list[tuple[Price, list[RequestRecord]]]:
    """Return the entries that have a price, by their price."""
    parts: dict[int, tuple[Price, list[RequestRecord]]] = {}
    for entry in entries:
        price = first(rows, plausible(entry.input_tokens) or 0, entry.service_tier or "")
        if price is not None:
            parts.setdefault(price.id, (price, []))[1].append(entry)
    return list(parts.values())
