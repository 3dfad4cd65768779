"""Prices of a run, and the costs that they make. Nothing here uses RouterDash's own arithmetic of prices.

All prices but those of `NOON` count from the start. At noon, a moment in the middle of the run, others follow: their
rows are added through the API while requests run and processes are killed.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from tests.router import RouterDash

START = 1_577_836_800  # 2020-01-01, in seconds since 1970
NANO = Decimal("1e9")
REPORTING, RATED, UNRATED = "USD", "EUR", "JPY"  # UNRATED has no rate to REPORTING
RATES = {RATED: "1.083219877"}

# Amounts are such that almost every cost has to be rounded. `endpoint` is a name in run.py; `input`, `cached`,
# `write_short`, `output` and `reasoning` are per million tokens, `request` is per thousand requests.
MORNING: tuple[dict[str, Any], ...] = (
    {"pattern": "whole", "currency": "USD", "input": "0.123456789", "cached": "0.012345678", "write_short": "0.2",
     "output": "1.987654321", "reasoning": "2.512345679"},
    {"pattern": "sized", "currency": "USD", "input": "0.5", "cached": "0.07", "output": "3.333333333"},
    {"pattern": "sized", "currency": "USD", "min_prompt": 90, "input": "9.999999999", "output": "31.7"},
    {"pattern": "native", "currency": "EUR", "input": "0.271828183", "output": "0.314159265"},
    {"pattern": "flaky", "currency": "EUR", "input": "1.000000001", "output": "4.00000001"},
    {"pattern": "shared*", "currency": "JPY", "input": "77.123456789", "output": "301.7"},
    {"pattern": "shared*", "endpoint": "shared-good", "currency": "JPY", "input": "55.5", "request": "13.000000007"},
    {"pattern": "dies", "currency": "JPY", "output": "99.000000123", "request": "0.000000501"},
    {"pattern": "sl*w", "currency": "USD", "input": "3", "output": "15.000000011"},
    {"pattern": "edited", "currency": "USD", "input": "0"},
)  # fmt: skip
NOON: tuple[dict[str, Any], ...] = (
    {"pattern": "whole", "currency": "USD", "input": "0.223456781", "output": "2.123456789"},
    {"pattern": "sized", "currency": "USD", "min_prompt": 90, "input": "8.123456789", "output": "30.000000007"},
    {"pattern": "second", "currency": "EUR", "input": "0.717171717", "cached": "0.1", "output": "1.414213562"},
    {"pattern": "flaky", "currency": "JPY", "input": "150.123456789", "output": "600.1"},
    {"pattern": "sl*w", "currency": "USD", "input": "2.718281828", "output": "14"},
)  # fmt: skip
# These come too late: they count from the start, but only for requests that complete after they were added, and for
# those of before once `reprice` has run.
EVENING: tuple[dict[str, Any], ...] = (
    {"pattern": "second", "currency": "USD", "input": "0.987654321", "cached": "0.3", "output": "2.000000003"},
    {"pattern": "shared", "currency": "EUR", "input": "0.5", "output": "0.700000007", "request": "0.01"},
    {"pattern": "slow", "currency": "JPY", "output": "1234.567890123"},
)  # fmt: skip
NOTICE_SECONDS = 30.0  # before noon, by which faults have let a row in
LATEST_SECONDS = 3.0  # before noon: a row that is stored later might miss requests


@dataclass(frozen=True, slots=True)
class Used:
    """Tokens of one request. Cached and written ones are part of the input, reasoning of the output."""

    input: int = 0
    output: int = 0
    cached: int = 0
    written: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the price book, as the API returned it."""

    id: int
    since: float  # seconds since 1970
    endpoint_id: str  # empty: any
    values: dict[str, Any]

    def amount(self, *names: str) -> Decimal:
        """Return the first of the amounts that the row has, in units of its currency."""
        return next((Decimal(self.values[name]) for name in names if name in self.values), Decimal(0))

    def cost(self, used: Used) -> int:
        """Return the cost of a request in 10⁻⁹ of the currency, rounded half up."""
        rest = used.input - used.cached - used.written
        tokens = (
            rest * self.amount("input")
            + used.cached * self.amount("cached", "input")
            + used.written * self.amount("write_short", "input")
            + (used.output - used.reasoning) * self.amount("output")
            + used.reasoning * self.amount("reasoning", "output")
        )
        exact = tokens / 1_000_000 + self.amount("request") / 1000
        return rounded(exact * NANO)

    def counts_for(self, model: str, endpoint_id: str, prompt: int) -> bool:
        before, star, after = self.values["pattern"].partition("*")
        named = model.startswith(before) and model.endswith(after) if star else model == before
        return named and self.endpoint_id in ("", endpoint_id) and prompt > self.values.get("min_prompt", -1)


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one request, in 10⁻⁹ of the currency."""

    price_id: int
    currency: str
    cost: int


@dataclass(slots=True)
class Prices:
    """The prices of one installation."""

    rows: list[Row] = field(default_factory=list)
    noon: float | None = None  # seconds since 1970, a whole second; None: it has not been set

    def cost(self, model: str, endpoint_id: str, used: Used, completed: float) -> Cost | None:
        """Return the cost of a request; None if it has no price."""
        rows = [row for row in self.rows if row.since <= completed and row.counts_for(model, endpoint_id, used.input)]
        if not rows:
            return None
        row = max(rows, key=_specificity)
        return Cost(row.id, row.values["currency"], row.cost(used))

    def begin(self, router: RouterDash, endpoints: dict[str, str]) -> None:
        """Add the prices and the rate that count from the start. `endpoints`: ids by name."""
        for values in MORNING:
            self._store(router, values, START, endpoints)
        for currency, rate in RATES.items():
            body = {"currency": currency, "rate": rate, "valid_from": _text(START)}
            response = router.post("/api/currency-rates", body)
            assert response.status == 201, response

    def change(self, router: RouterDash, notice: float = NOTICE_SECONDS) -> None:
        """Add the prices that count from noon on, which begins in `notice` seconds, however often RouterDash fails.

        Raises AssertionError if that does not succeed in time.
        """
        noon = int(time.time() + notice)
        for values in NOON:
            while not self._try(router, values, noon):
                assert time.time() < noon - LATEST_SECONDS, f"the prices of noon were not stored in {notice} s"
                time.sleep(0.2)
        assert time.time() < noon, "the prices of noon were stored too late"
        self.noon = noon

    def add_late(self, router: RouterDash) -> None:
        """Add the prices that come too late. No request may run meanwhile."""
        for values in EVENING:
            self._store(router, values, START, {})

    def _try(self, router: RouterDash, values: dict[str, Any], noon: int) -> bool:
        """Store a row. Return False after an error."""
        try:
            row_id = self._stored(router, values, noon)  # by an attempt before, whose response was lost
            if row_id is None:
                self._store(router, values, noon, {})
            else:
                self._add(row_id, noon, values, "")
        except (OSError, ValueError, AssertionError, KeyError):
            return False
        return True

    def _stored(self, router: RouterDash, values: dict[str, Any], since: int) -> int | None:
        for row in router.get(f"/api/prices?q={values['pattern'].partition('*')[0]}").json()["prices"]:
            same = row["pattern"] == values["pattern"] and row["min_prompt"] == values.get("min_prompt", 0)
            if same and datetime.fromisoformat(row["valid_from"]).timestamp() == since:
                return int(row["id"])
        return None

    def _store(self, router: RouterDash, values: dict[str, Any], since: int, endpoints: dict[str, str]) -> None:
        endpoint_id = endpoints[values["endpoint"]] if "endpoint" in values else ""
        sent = {name: value for name, value in values.items() if name != "endpoint"}
        body = {**sent, "endpoint_id": endpoint_id or None, "valid_from": _text(since)}
        response = router.post("/api/prices", body)
        assert response.status == 201, response
        self._add(response.json()["id"], since, values, endpoint_id)

    def _add(self, row_id: int, since: int, values: dict[str, Any], endpoint_id: str) -> None:
        self.rows = [*self.rows, Row(row_id, since, endpoint_id, values)]


def _specificity(row: Row) -> tuple[Any, ...]:
    pattern = row.values["pattern"]
    return bool(row.endpoint_id), "*" not in pattern, row.values.get("min_prompt", 0), row.since


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


Completed = Callable[[str], float]  # returns when a request completed, by its id, in seconds since 1970


def completion(prices: Prices, started: float, ended: float, request_id: str, completed: Completed) -> float:
    """Return a moment on the same side of noon as the completion of a request that a client received.

    A request completes while its client waits. So only requests in flight at noon are uncertain: `completed` decides
    about them, by what RouterDash says of this request.
    """
    if prices.noon is None or ended < prices.noon or started >= prices.noon:
        return ended
    return completed(request_id)


def rounded(nanos: Decimal) -> int:
    """Round half up."""
    return int((nanos + Decimal("0.5")).to_integral_value(ROUND_FLOOR))


def reported(currency: str, nanos: int) -> tuple[str, int]:
    """Return an amount in the reporting currency if there is a rate, else as it is. Amounts are in 10⁻⁹."""
    return (REPORTING, rounded(nanos * Decimal(RATES[currency]))) if currency in RATES else (currency, nanos)


def sums(costs: Iterable[tuple[Any, Cost]]) -> dict[Any, int]:
    """Return the sums of costs by group and currency."""
    totals: dict[Any, int] = {}
    for group, cost in costs:
        key = group, cost.currency
        totals[key] = totals.get(key, 0) + cost.cost
    return totals


def text_of(nanos: int) -> str:
    """Return an amount in units of the currency."""
    return f"{nanos / NANO:f}"
