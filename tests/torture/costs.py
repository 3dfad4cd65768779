"""Compares every cost with those that the client computes from the usage in its responses.

A request whose response the client received costs what its usage makes. All others (cancelled, truncated, broken off)
cost what the counts of their rows make, estimated ones too: nobody else knows these counts. Two things are taken from
RouterDash in any case: which endpoint and model served a request, and of requests that ran at noon (see
`tests.torture.prices.completion`) when they completed.
"""

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from gateway.ipc import record
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.counting.stored_attempt import StoredAttempt, stored_attempts
from metrics.times import parse_time
from tests.router import RouterDash
from tests.torture.prices import NANO, Cost, Prices, Used, completion, reported, sums
from tests.torture.tally import Tally

COLUMNS = (
    "id", "completed_at", "model", "kind", "endpoint_id", "outcome", "input_tokens", "output_tokens",
    "tokens_estimated", "api_key_id", "attempts",
)  # fmt: skip
GROUPS = ("model", "served", "endpoint", "key", "user", "day")  # of /api/usage
GROUP_FIELDS = {
    "model": "model_id", "served": "served_model", "endpoint": "endpoint_id", "key": "api_key_id", "user": "user_id",
    "day": "day",
}  # fmt: skip
TOTAL, COST = "routerdash_cost_total", "routerdash_endpoint_cost_total"
UNPRICED = "routerdash_endpoint_unpriced_requests_total"
COST_METRICS = (TOTAL, COST, UNPRICED)
FOLLOW_SECONDS = 10.0
MAX_SHOWN = 5  # differences of one kind


@dataclass(frozen=True, slots=True)
class Request:
    """A row of the history, and the cost that it should have."""

    id: str
    groups: dict[str, str]  # its values by GROUPS
    cell: tuple[Any, ...]  # the key of the sum that it is stored in, but for its price
    estimated: bool
    known: bool  # the client received its response
    cost: Cost | None


@dataclass(slots=True)
class CostAudit:
    """Audits the costs of one installation."""

    router: RouterDash
    prices: Prices
    keys: dict[str, str]  # users of the client's API keys, by the keys' ids
    _requests: dict[str, Request] = field(default_factory=dict)  # as seen first
    settled: int = 0  # requests in flight at noon, of which RouterDash says on which side they completed
    _checked: dict[str, Cost | None] = field(default_factory=dict)  # stored costs, as seen first

    def audit_repriced(self, tally: Tally, *, certain: bool) -> list[str]:
        """Audit after `reprice`: all costs are those of the present prices.

        Unless it is `certain` that its transaction was committed, they may also all be the old ones.
        """
        if not certain and not list(self._changed()):
            return self.audit(tally)
        self._checked.clear()
        self._requests.clear()
        return self.audit(tally)

    def _changed(self) -> Iterator[str]:
        """Yield the ids of requests whose stored cost is not the one that was seen first."""
        for row in self._rows():
            request_id = str(row["id"])
            if request_id in self._checked and self._checked[request_id] != _stored(stored_attempts(row["attempts"])):
                yield request_id

    def audit(self, tally: Tally) -> list[str]:
        """Return a text for each wrong cost."""
        wrong: list[str] = []
        rows = self._rows()
        for row in rows:
            wrong += self._compare(row, tally)
        lost = sum(request_id not in self._requests for request_id in tally.answered)
        if lost > (unrecorded := self.router.stats()["records_unrecorded"]):
            wrong.append(f"{lost} responses have no row with their id, {unrecorded} are reported as unrecorded")
        wrong += self._usage()
        wrong += self._roll_ups()
        wrong += self._prometheus()
        return _shortened(wrong)

    @property
    def totals(self) -> dict[str, int]:
        """Costs in 10⁻⁹ by currency."""
        return {currency: cost for (_, currency), cost in sums(self._costs()).items()}

    def counts(self) -> Counter[str]:
        """Return the number of requests with and without a cost, and how the costs were checked."""
        counts = Counter("with a cost" if request.cost else "without a cost" for request in self._requests.values())
        counts["with a cost by the client's usage"] = sum(
            request.cost is not None and request.known for request in self._requests.values()
        )
        counts["with a cost of estimated tokens"] = sum(
            request.cost is not None and request.estimated for request in self._requests.values()
        )
        counts["in flight at noon"] = self.settled
        return counts

    # Rows

    def _rows(self) -> list[dict[str, Any]]:
        sql = f"SELECT {', '.join(COLUMNS)} FROM request_history ORDER BY completed_at"
        return [dict(zip(COLUMNS, row, strict=True)) for row in self.router.query(sql)]

    def _compare(self, row: dict[str, Any], tally: Tally) -> Iterator[str]:
        request_id, attempts = str(row["id"]), stored_attempts(row["attempts"])
        cost = _stored(attempts)
        if request_id in self._checked:  # what is stored never changes, nor does a price before noon
            if cost != (before := self._checked[request_id]):
                yield f"cost of {request_id} was {before} and is {cost}"
            return
        self._checked[request_id] = cost
        line = tally.answered.get(request_id)
        expected = self._expected(row, attempts, line) if attempts else None
        groups = self._groups(row, attempts)
        last = attempts[-1] if attempts else None
        cell = (*groups.values(), row["kind"], last and last.step, last and last.canonical)
        self._requests[request_id] = Request(
            request_id, groups, cell, bool(row["tokens_estimated"]), line is not None, expected
        )
        if cost != expected:
            yield f"cost of {row['model']} {request_id}: {cost}, but {expected} by {line or 'its row'}"

    def _expected(self, row: dict[str, Any], attempts: list[StoredAttempt], line: dict[str, Any] | None) -> Cost | None:
        last, stored = attempts[-1], _completed(row["completed_at"])
        counts = (row["input_tokens"], row["output_tokens"])
        if row["outcome"] == record.QUEUE or (counts == (None, None) and row["outcome"] != record.OK):
            return None  # nothing of it was counted
        used = Used(
            counts[0] or 0,
            counts[1] or 0,
            last.cached_tokens or 0,
            last.cache_write_tokens or 0,
            last.reasoning_tokens or 0,
        )
        completed = stored
        if line is not None:
            used = Used(*(line[f"{kind}_tokens"] for kind in ("input", "output", "cached", "cache_write", "reasoning")))
            completed = completion(self.prices, line["started"], line["at"], str(row["id"]), self._completed_by_api)
        served = row["model"] if last.served is None else last.served
        return self.prices.cost(served, last.endpoint_id, used, completed)

    def _completed_by_api(self, request_id: str) -> float:
        self.settled += 1
        return _completed(self.router.get(f"/api/requests/{request_id}").json()["completed_at"])

    def _groups(self, row: dict[str, Any], attempts: list[StoredAttempt]) -> dict[str, str]:
        key = str(row["api_key_id"])
        last = attempts[-1] if attempts else None
        return {
            "model": row["model"],
            "served": row["model"] if last is None or last.served is None else last.served,
            "endpoint": str(row["endpoint_id"]),
            "key": key,
            "user": self.keys.get(key, ""),
            "day": str(parse_time(row["completed_at"]))[:10],
        }

    # Sums

    def _costs(self, group: Callable[[Request], Any] = lambda request: "") -> Iterator[tuple[Any, Cost]]:
        return ((group(request), request.cost) for request in self._requests.values() if request.cost is not None)

    def _usage(self) -> Iterator[str]:
        for by in GROUPS:
            payload = self.router.get(f"/api/usage?by={by}").json()
            rows = {(row[GROUP_FIELDS[by]], *cost): nanos for row in payload["rows"] for cost, nanos in _shown(row)}
            yield from _different(f"cost by {by}", rows, self._reported(lambda request, by=by: request.groups[by]))  # type: ignore[misc]
            total = {("", *cost): nanos for cost, nanos in _shown(payload)}
            yield from _different("cost in total", total, self._reported(lambda request: ""))

    def _reported(self, group: Callable[[Request], Any]) -> dict[Any, int]:
        """Return the sums of costs by group, in the reporting currency if there is a rate.

        Each stored sum is converted and rounded once, so that the sums of all groups have the same total.
        """
        stored = sums(
            self._costs(lambda request: (group(request), request.cell, request.cost and request.cost.price_id))
        )
        amounts: dict[Any, int] = {}
        for ((value, _, _), of_currency), cost in stored.items():
            currency, amount = reported(of_currency, cost)
            amounts[value, currency] = amounts.get((value, currency), 0) + amount
        return amounts

    def _roll_ups(self) -> Iterator[str]:
        """Compare the stored sums, all columns of them, with the sums of the requests."""
        keys = "model, served, endpoint_id, api_key_id, price_id, currency"
        columns = "SUM(requests), SUM(estimated_requests), SUM(cost), SUM(estimated_cost)"
        stored = {
            (model, served, str(endpoint), str(key), int(price), currency): tuple(map(int, values))
            for model, served, endpoint, key, price, currency, *values in self.router.query(
                f"SELECT {keys}, {columns} FROM rollup_cost_days GROUP BY {keys}"
            )
        }
        expected: dict[tuple[Any, ...], tuple[int, ...]] = {}
        for request in self._requests.values():
            if (cost := request.cost) is not None:
                named = tuple(request.groups[name] for name in ("model", "served", "endpoint", "key"))
                place = (*named, cost.price_id, cost.currency)
                values = (1, request.estimated, cost.cost, cost.cost * request.estimated)
                before = expected.get(place, (0, 0, 0, 0))
                expected[place] = tuple(one + other for one, other in zip(before, values, strict=True))
        yield from _different("roll-ups of costs", stored, expected)

    def _prometheus(self) -> Iterator[str]:
        expected: dict[tuple[str, ...], int] = {
            (TOTAL, currency): cost for (_, currency), cost in sums(self._costs()).items()
        }
        costs = sums(self._costs(lambda request: (request.groups["endpoint"], request.groups["served"])))
        expected |= {(COST, *place, currency): cost for (place, currency), cost in costs.items()}
        unpriced = Counter(request.groups["endpoint"] for request in self._requests.values() if request.cost is None)
        del unpriced[NO_ENDPOINT]
        endpoints = {row["id"] for row in self.router.get("/api/endpoints").json()["endpoints"]}
        expected |= {(UNPRICED, endpoint): unpriced[endpoint] for endpoint in endpoints}
        end = time.monotonic() + FOLLOW_SECONDS  # control reads its totals again a moment after `reprice`
        while (samples := cost_samples(self.router.get("/metrics").body.decode())) != expected:
            if time.monotonic() > end:
                break
            time.sleep(0.1)
        yield from _different("Prometheus", samples, expected)

    # Exports, once at the end

    def audit_exports(self) -> list[str]:
        """Compare the costs in both exports of all requests."""
        expected = {
            request.id: (None, None, None)
            if request.cost is None
            else (request.cost.cost, request.cost.currency, request.cost.price_id)
            for request in self._requests.values()
        }
        text = self.router.get("/api/requests/export?format=csv").body.decode()
        rows = {row["id"]: _exported(row) for row in csv.DictReader(io.StringIO(text))}
        wrong = list(_different("exported CSV", rows, expected))
        lines = self.router.get("/api/requests/export?format=jsonl").body.decode().splitlines()
        rows = {row["id"]: _exported(row) for row in map(json.loads, lines)}
        return _shortened([*wrong, *_different("exported JSON", rows, expected)])


def _stored(attempts: list[StoredAttempt]) -> Cost | None:
    last = attempts[-1] if attempts else None
    return None if last is None or last.cost is None else Cost(last.price_id or 0, last.currency or "", last.cost)


def cost_samples(text: str) -> dict[tuple[str, ...], int]:
    """Return the samples of costs in the Prometheus text by name and labels; costs in 10⁻⁹ of the currency."""
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in COST_METRICS:
                labels = [sample.labels[name] for name in ("endpoint_id", "model", "currency") if name in sample.labels]
                exact = Decimal(repr(sample.value)) * (1 if sample.name == UNPRICED else NANO)
                samples[sample.name, *labels] = int(exact.to_integral_value())
    return samples


def _exported(row: dict[str, Any]) -> tuple[int | None, str | None, int | None]:
    cost = None if row["cost"] in ("", None) else int(Decimal(row["cost"]) * NANO)
    return cost, row["currency"] or None, int(row["price_id"]) if row["price_id"] else None


def _completed(text: Any) -> float:
    moment: datetime | None = parse_time(text)
    assert moment is not None, text
    return moment.timestamp()


def _shown(row: dict[str, Any]) -> Iterator[tuple[tuple[str], int]]:
    """Yield currencies, and costs in 10⁻⁹ of them."""
    for cost in row["costs"]:
        yield (cost["currency"],), int(Decimal(cost["cost"]) * NANO)


def _different(what: str, actual: dict[Any, Any], expected: dict[Any, Any]) -> Iterator[str]:
    for key in sorted({*actual, *expected}, key=str):
        if actual.get(key) != expected.get(key):
            yield f"{what}: {key} is {actual.get(key)}, and {expected.get(key)} by the client"


def _shortened(wrong: Iterable[str]) -> list[str]:
    """Return the first differences, and the number of the others."""
    every = list(wrong)
    more = len(every) - MAX_SHOWN
    return [*every[:MAX_SHOWN], *([f"{more} more differences of costs"] if more > 0 else [])]
