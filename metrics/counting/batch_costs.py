"""Costs of the requests of a fold, and their sums.

Most requests have the same price as others of their group, and reported the usual counts. Their costs are computed in
one loop for each group, with the same result as `Pricing.cost` for each of them.
"""

from dataclasses import dataclass, field

from gateway.ipc.record import RequestRecord
from gateway.prices.book import TOKENS, TokenAmounts, first, in_minutes
from gateway.prices.costs import Pricing, RequestCost
from gateway.prices.counts import MAX_TOKENS, plausible
from gateway.registry.prices import Price
from metrics.counting.costs import CostKey, CostSums, cost_key, group_key
from metrics.counting.fold import Fold, Group, GroupKey

_OfModel = tuple[str, str, str | None, str | None]  # endpoint, asked model, served model, canonical name


@dataclass(slots=True)
class Costs:
    """Costs of a batch of requests by id, and their sums."""

    by_id: dict[str, RequestCost] = field(default_factory=dict)
    sums: dict[CostKey, CostSums] = field(default_factory=dict)


def costs_of(fold: Fold, pricing: Pricing) -> Costs:
    """Return the costs of the requests of a fold."""
    batch = _Batch(fold, pricing)
    for group in fold.groups:
        batch.add_group(group)
    for entry in fold.ungrouped:
        if entry.attempts:
            batch.add(entry)
    return batch.costs


class _Batch:
    """Costs of the requests that were added."""

    def __init__(self, fold: Fold, pricing: Pricing) -> None:
        self.costs = Costs()
        self._zone = fold.zone
        self._pricing = pricing
        minutes = {group[0][0] for group in fold.groups}
        self._span = (min(minutes, default=0), max(minutes, default=0))
        # Rows that count in all these minutes, or in one of them; None: it depends on the minute, or on the request.
        self._rows: dict[_OfModel, list[Price] | None] = {}
        self._rows_in_minute: dict[tuple[int, _OfModel], list[Price] | None] = {}
        self._amounts: dict[int, TokenAmounts] = {}

    def add_group(self, group: Group) -> None:
        """Add successful requests with one attempt."""
        key, entries = group
        minute, endpoint_id, model, _, _, _, served, canonical, _ = key
        of_model = (endpoint_id, model, served, canonical)
        try:
            rows = self._rows[of_model]
        except KeyError:
            rows = self._rows[of_model] = self._common(of_model, *self._span)
        if rows is None:
            rows = self._in_minute(minute, of_model)
        if rows is None:
            for entry in entries:
                self.add(entry)
        elif rows and rows[0].counts_for_all:
            self._add_priced(key, rows[0], entries)
        elif rows:
            for price, part in _by_price(rows, entries):
                self._add_priced(key, price, part)

    def _in_minute(self, minute: int, of_model: _OfModel) -> list[Price] | None:
        key = (minute, of_model)
        if key not in self._rows_in_minute:
            self._rows_in_minute[key] = self._common(of_model, minute, minute)
        return self._rows_in_minute[key]

    def _common(self, of_model: _OfModel, first_minute: int, last_minute: int) -> list[Price] | None:
        """Return the rows that count all through these minutes; None if some requests must be looked at alone."""
        endpoint_id, model, served, canonical = of_model
        found = in_minutes(self._pricing.rows(model, endpoint_id, served, canonical), first_minute, last_minute)
        has_media = found is not None and any([row.image is not None or row.minute is not None for row in found])
        return None if has_media else found

    def add(self, entry: RequestRecord) -> None:
        """Add a request with attempts, if it has a cost."""
        found = self._pricing.cost(entry)
        if found is not None:
            self.costs.by_id[entry.id] = found
            sums = self.costs.sums.setdefault(cost_key(entry, found, self._zone), CostSums())
            sums.count(found.cost, estimated=entry.estimated)

    def _add_priced(self, group: GroupKey, price: Price, entries: list[RequestRecord]) -> None:
        """Add successful requests of a group that have this price."""
        price_id, currency, by_id = price.id, price.currency, self.costs.by_id
        amounts = self._amounts.get(price_id)
        if amounts is None:
            amounts = self._amounts[price_id] = TokenAmounts.of(price)
        of_input, of_output, of_cached, fixed = amounts.input, amounts.output, amounts.cached, amounts.fixed
        requests, total, estimated_requests, estimated = len(entries), 0, 0, 0
        for entry in entries:
            tokens_in, tokens_out = entry.input_tokens, entry.output_tokens or 0
            # The conditions of `plausible` and `part_of`, without calls for each entry.
            if (
                tokens_in is None
                or not 0 <= tokens_in <= MAX_TOKENS
                or not 0 <= tokens_out <= MAX_TOKENS
                or entry.cache_write_tokens is not None
            ):
                requests -= 1
                self.add(entry)
                continue
            exact = of_input * tokens_in + of_output * tokens_out + fixed
            if (part := entry.cached_tokens) and 0 < part <= MAX_TOKENS:
                exact += of_cached * (part if part < tokens_in else tokens_in)
            if (part := entry.reasoning_tokens) and 0 < part <= MAX_TOKENS:
                exact += amounts.reasoning * (part if part < tokens_out else tokens_out)
            cost = exact // TOKENS
            by_id[entry.id] = RequestCost(price_id, currency, cost)
            total += cost
            if entry.estimated:
                estimated += cost
                estimated_requests += 1
        if requests:
            added = CostSums(requests, estimated_requests, total, estimated)
            key = group_key(group, price_id, currency, self._zone)
            sums = self.costs.sums.setdefault(key, added)
            if sums is not added:
                sums.add(added)


def _by_price(rows: list[Price], entries: list[RequestRecord]) -> list[tuple[Price, list[RequestRecord]]]:
    """Return the entries that have a price, by their price."""
    parts: dict[int, tuple[Price, list[RequestRecord]]] = {}
    for entry in entries:
        price = first(rows, plausible(entry.input_tokens) or 0, entry.service_tier or "")
        if price is not None:
            parts.setdefault(price.id, (price, []))[1].append(entry)
    return list(parts.values())
