"""L8: the amount that gateways take for spent of each budget of tokens is the usage of its subject in its period.

Usage grows while RouterDash serves. So it is counted before and after: the amount must lie between both. Requests
without a record, of a killed process, count until its journal is read; a difference is one that stays.
"""

import time
from collections.abc import Callable, Iterator
from datetime import date, datetime
from typing import NamedTuple

from gateway.base.config import Config
from gateway.ipc.counters.spending import SpendingReader, TagView
from gateway.ipc.counters.spending_file import SpendingFile, path_beside
from gateway.limits.periods import name_of
from gateway.registry.limits import EVERYONE_LEVEL, KEY_LEVEL, PERIODS, TOKENS, USER_LEVEL
from metrics import sql
from metrics.reconcile import live
from metrics.reconcile.comparison import FigureDifference, Query

TRIES = 5
PAUSE_SECONDS = 1.5  # in which records of a moment get into the database

_TOKENS = "SUM(used.input_tokens + used.output_tokens)"
_OF_KEYS = "budgets JOIN rollup_days AS used ON used.api_key_id = budgets.subject_id"
_OWNERS = (
    "SELECT CAST(id AS text) AS api_key_id, CAST(created_by AS text) AS user_id FROM api_keys UNION ALL "
    "SELECT CAST(id AS text), CAST(user_id AS text) FROM deleted_keys "
    "WHERE NOT EXISTS (SELECT 1 FROM api_keys WHERE api_keys.id = deleted_keys.id)"
)
_OF_USERS = (
    f"budgets JOIN ({_OWNERS}) AS owners ON owners.user_id = budgets.subject_id "
    "JOIN rollup_days AS used ON used.api_key_id = owners.api_key_id"
)
_OF_EVERYONE = "budgets CROSS JOIN rollup_days AS used"
_SOURCES = {KEY_LEVEL: _OF_KEYS, USER_LEVEL: _OF_USERS, EVERYONE_LEVEL: _OF_EVERYONE}


class BudgetPeriod(NamedTuple):
    """A budget in its present period, by its first day; empty: all time."""

    level: str
    subject_id: str
    period: str
    first_day: str


def compare(config: Config, pause: Callable[[float], None] = time.sleep) -> tuple[list[FigureDifference], list[str]]:
    """Return differences, and notes about comparisons that were left out. Raises django.db.Error."""
    path = path_beside(config.live_page_path)
    if not live.is_running(config) or not path.exists():
        return [], []
    differences: list[FigureDifference] = []
    for _ in range(TRIES):
        today = today_of(config)
        low = dict(_usage(today))
        if not low:
            return [], []
        amounts = _spent(SpendingFile(path), today, low)
        pause(PAUSE_SECONDS)
        differences = list(_differences(low, amounts, dict(_usage(today))))
        if not differences:
            break
    return differences, []


def today_of(config: Config) -> date:
    return datetime.now(config.zone).date()


def _usage(today: date) -> Iterator[tuple[BudgetPeriod, int]]:
    """Yield the tokens of each budget with any use in its present period."""
    for level, source in _SOURCES.items():
        for period in PERIODS:
            first = name_of(period, today)
            where = ["budgets.level = %s", "budgets.unit = %s", "budgets.period = %s", "used.date >= %s"]
            statement = sql.select(("budgets.subject_id", _TOKENS), source, where=where, group_by="budgets.subject_id")
            for subject_id, tokens in Query(statement, (level, TOKENS, period, first)).rows():
                yield BudgetPeriod(level, str(subject_id), period, first), int(tokens or 0)


def _spent(file: SpendingFile, today: date, budgets: dict[BudgetPeriod, int]) -> dict[BudgetPeriod, int | None]:
    reader = SpendingReader(file)
    if not reader.covers(today.toordinal()):
        return dict.fromkeys(budgets)
    return {
        budget: reader.spent(
            TagView(file.tag(budget.level, budget.subject_id, TOKENS, budget.period, budget.first_day))
        )
        for budget in budgets
    }


def _differences(
    low: dict[BudgetPeriod, int], amounts: dict[BudgetPeriod, int | None], high: dict[BudgetPeriod, int]
) -> Iterator[FigureDifference]:
    for budget, spent in amounts.items():
        lowest, highest = low[budget], high.get(budget, low[budget])
        if spent is None or not lowest <= spent <= highest:
            expected = lowest if lowest == highest else f"{lowest} to {highest}"
            where = f"the {budget.period} budget of {budget.level} {budget.subject_id}".strip()
            yield FigureDifference("L8", "tokens spent", where, expected, spent)
