"""Models for which budgets of money count nothing, because their requests have no price."""

from collections.abc import Iterable, Iterator
from datetime import date, timedelta

from endpoints.registry import Entry
from gateway.registry.limits import EVERYONE_LEVEL, KEY_LEVEL, MONEY, USER_LEVEL
from metrics import sql
from metrics.costs.in_effect import DAYS, unpriced_models
from metrics.queries.stored import run_sql
from metrics.spending import stored

# A budget with another model refuses nothing.
_COUNTS_NOTHING = "unit = %s AND (NOT refuses_unpriced OR instead <> '')"


def models_without_price(entries: Iterable[Entry], today: date, moment: float) -> list[str]:
    """Return models that requests under budgets of money used in the last days, the most used first.

    They have no price now, or its currency no rate, and the budgets do not refuse such requests. Raises
    django.db.Error.
    """
    levels = {str(row[0]) for row in run_sql(sql.select("DISTINCT level", "budgets", where=_COUNTS_NOTHING), _UNIT)}
    if not levels:
        return []
    since = (today - timedelta(days=DAYS - 1)).isoformat()
    models: dict[str, None] = {}
    for row in unpriced_models(entries, today, moment, needs_rate=True):
        model = row["model"]
        if model not in models and (EVERYONE_LEVEL in levels or _is_used(since, row["endpoint_id"], model)):
            models[model] = None
    return list(models)


_UNIT = (MONEY,)


def _is_used(since: str, endpoint_id: str, served: str) -> bool:
    """Return True if API keys used a model whose own budget or that of their owner counts nothing for it."""
    return any(
        _has_budget(KEY_LEVEL, keys) or _has_budget(USER_LEVEL, set(stored.owners_of(keys).values()))
        for keys in stored.parts_of(_keys(since, endpoint_id, served))
    )


def _keys(since: str, endpoint_id: str, served: str) -> Iterator[str]:
    for table, column in (("rollup_days", "model"), ("rollup_served_days", "served")):
        where = ("date >= %s", "endpoint_id = %s", f"{column} = %s", "api_key_id <> ''")
        statement = sql.select("DISTINCT api_key_id", table, where=where)
        for (key,) in run_sql(statement, (since, endpoint_id, served)):
            yield str(key)


def _has_budget(level: str, ids: Iterable[str]) -> bool:
    for part in stored.parts_of(ids):
        where = ("level = %s", f"subject_id IN {sql.placeholders(len(part))}", _COUNTS_NOTHING)
        if any(run_sql(sql.select("1", "budgets", where=where, limit=1), (level, *part, MONEY))):
            return True
    return False
