"""Costs: each sum of a day is that of its requests, in the currency of their price."""

from collections.abc import Iterator

from metrics import sql
from metrics.reconcile.comparison import Comparison, FigureDifference, Query, where
from metrics.reconcile.history import last_attempt, minute_of, text
from metrics.reconcile.scope import Scope, bound, sqlite
from metrics.reconcile.tables import COST_DAY, COSTS, DIMENSIONS, one_if

_PRICES = "prices"


def _requests(since: int) -> Query:
    """Return the requests of the history from a minute on that have a cost."""
    served = f"COALESCE({last_attempt('served', 'text')}, model)"
    estimated = "tokens_estimated = 1" if sqlite() else "tokens_estimated"
    columns = [
        f"{minute_of()} AS minute", "endpoint_id", "model", "kind", f"{text('api_key_id')} AS api_key_id",
        f"{served} AS served", f"COALESCE({last_attempt('canonical', 'text')}, {served}) AS canonical",
        f"COALESCE({last_attempt('step', 'integer')}, 0) AS step",
        f"{last_attempt('price_id', 'bigint')} AS price_id", f"{last_attempt('currency', 'text')} AS currency",
        f"{last_attempt('cost', 'bigint')} AS cost", one_if(estimated, "estimated"),
    ]  # fmt: skip
    conditions = ["outcome IS NOT NULL", "completed_at >= %s"]
    statement = sql.select(columns, "request_history", where=conditions)
    return Query(sql.select("*", sql.subquery(statement, "priced"), where="cost IS NOT NULL"), (bound(since),))


def days(scope: Scope) -> Comparison | None:
    """Express L3: costs of each cell are the sums of the costs of its requests.

    So are those of each key, model, endpoint and price, and of all together, because these are sums of cells.
    """
    dates = scope.days(scope.history_since)
    if not scope.every_row or not dates:
        return None
    columns = [
        "CAST(%s AS text) AS date", *COST_DAY[1:], "1 AS requests", "estimated AS estimated_requests", "cost",
        "estimated * cost AS estimated_cost",
    ]  # fmt: skip
    parts = []
    for date, (first, end) in dates.items():
        rows = _requests(first).select(columns, where="minute < %s")
        parts.append(Query(rows.sql, (date, *rows.parameters, end)))
    statement = sql.select("*", "rollup_cost_days", where=f"date IN {sql.placeholders(len(dates))}")
    return Comparison(
        law="L3",
        table="rollup_cost_days",
        source="request_history",
        keys=COST_DAY,
        columns=COSTS,
        expected=Query.union(parts),
        found=Query(statement, tuple(dates)),
    )


def priced_are_part(scope: Scope) -> Iterator[FigureDifference]:
    """Check L1: requests with a cost are part of the day roll-up of their key, on days of any age."""
    keys = ("date", *DIMENSIONS)
    priced = sql.select([*keys, "SUM(requests) AS requests"], "rollup_cost_days", group_by=", ".join(keys))
    same = " AND ".join(f"day.{key} = part.{key}" for key in keys)
    whole = "COALESCE(day.requests_ok + day.requests_failed + day.requests_cancelled, 0)"
    source = f"{sql.subquery(priced, 'part')} LEFT JOIN rollup_days AS day ON {same}"
    columns = [*(f"part.{key}" for key in keys), "part.requests", whole]
    for *key, part, most in Query(sql.select(columns, source, where=f"part.requests > {whole}")).rows():
        yield FigureDifference("L1", "requests", where("rollup_cost_days", keys, tuple(key)), f"at most {most}",
                               int(part))  # fmt: skip
    conditions = "estimated_requests > requests OR estimated_cost > cost"
    columns = [*COST_DAY, *COSTS]
    for *key, requests, estimated, cost, estimated_cost in Query(
        sql.select(columns, "rollup_cost_days", where=conditions)
    ).rows():
        place = where("rollup_cost_days", COST_DAY, tuple(key))
        if estimated > requests:
            yield FigureDifference("L1", "estimated_requests", place, f"at most {requests}", estimated)
        if estimated_cost > cost:
            yield FigureDifference("L1", "estimated_cost", place, f"at most {cost}", estimated_cost)


def one_currency(scope: Scope) -> Iterator[FigureDifference]:
    """Check that costs of rows of the price book stand in the currency of their row, on days of any age."""
    statement = sql.select(
        [*(f"day.{key}" for key in COST_DAY), f"{_PRICES}.currency"],
        f"rollup_cost_days AS day JOIN {_PRICES} ON {_PRICES}.id = day.price_id",
        where=f"{_PRICES}.currency <> day.currency",
    )
    for *key, currency in Query(statement).rows():
        yield FigureDifference("L3", "currency", where("rollup_cost_days", COST_DAY, tuple(key)), currency, key[-1])
