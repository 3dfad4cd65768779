"""Looks every few seconds which budgets are nearly spent, for attention items and /metrics.

Less often, it looks for models without a price, for which budgets of money count nothing.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime

from django.conf import settings
from django.db import Error, connection

from access.limits.api import EVERYONE, subject_names
from access.limits.gauges import spent_now
from access.limits.reading import budgets_of, read_limits, some_budgets
from endpoints.registry import registry
from gateway.prices.book import PriceBook
from gateway.registry.limits import LIMITS_OF_A_SUBJECT, NO_LIMITS, Subject
from metrics.costs.price_cache import price_cache
from metrics.queries.attention import BUDGET_PERCENT
from metrics.spending.unpriced import models_without_price
from metrics.spending.used_budgets import UsedBudget, used_budgets

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
REST_FACTOR = 50  # pauses are at least so many times as long as a look: thousands of budgets take long
UNPRICED_SECONDS = 10.0  # between two looks for models without a price, unless prices change
KEPT = 50  # the fullest budgets, with names
MAX_LOOKED_AT = 10_000  # budgets of all subjects at once


def run(
    stopping: threading.Event,
    is_ready: Callable[[], bool],
    spenders: Callable[[], Collection[Subject]] = tuple,
    has_limits: Callable[[], bool] = lambda: True,
) -> None:
    """Look at budgets until `stopping` is set. `is_ready`: the database can be read.

    `spenders`: returns the subjects that have spent something of a budget. `has_limits`: some are published. It is
    asked first because it costs less than a look, and most installations have none.
    """
    has_failed, pause, prices = False, LOOK_SECONDS, PriceWatch()
    while not stopping.wait(pause):
        if not is_ready():
            continue
        if not has_limits():
            used_budgets.reset()
            pause = LOOK_SECONDS
            continue
        started = time.monotonic()
        try:
            look(spenders())
            prices.look(started)
            has_failed = False
        except Error as error:
            if not has_failed:
                log.warning("budgets cannot be read: %s; items that need attention show the last ones", error)
            has_failed = True
            connection.close()
        pause = max(LOOK_SECONDS, REST_FACTOR * (time.monotonic() - started))
    connection.close()


def look(spenders: Collection[Subject] = ()) -> None:
    """Read the budgets, and keep the fullest ones. Raises django.db.Error."""
    budgets = _known(spenders)
    budgets.sort(key=lambda budget: (-budget.spent / budget.amount, *_key(budget)))
    kept = budgets[:KEPT]
    subjects = list({(budget.level, budget.subject_id) for budget in kept})
    names = subject_names(subjects)
    of_everyone = read_limits([EVERYONE]).get(EVERYONE, NO_LIMITS)
    used_budgets.limits_of_everyone = {
        name: limit for name in LIMITS_OF_A_SUBJECT if (limit := getattr(of_everyone, name)) is not None
    }
    named = [replace(budget, name=names.get((budget.level, budget.subject_id))) for budget in kept]
    used_budgets.note(named, sum(budget.percent >= BUDGET_PERCENT for budget in budgets))


def _known(spenders: Collection[Subject]) -> list[UsedBudget]:
    """Return the budgets whose amounts are known, without names.

    Of an installation with more than MAX_LOOKED_AT budgets, only those of `spenders` are sure to be looked at.
    """
    rows = dict.fromkeys(some_budgets(MAX_LOOKED_AT))
    if len(rows) == MAX_LOOKED_AT:
        rows |= dict.fromkeys(budgets_of(spenders))
    amounts, budgets = spent_now(), []
    for subject, budget in rows:
        spent = amounts.spent(subject, budget.unit, budget.period)
        if spent is not None:
            end = amounts.end_of(budget.period)
            budgets.append(
                UsedBudget(*subject, None, budget.unit, budget.period, budget.amount, spent, end, budget.instead)
            )
    return budgets


def _key(budget: UsedBudget) -> tuple[str, str, str, str]:
    return budget.level, budget.subject_id, budget.unit, budget.period


class PriceWatch:
    """Looks for models for which budgets of money count nothing."""

    def __init__(self) -> None:
        self._due = 0.0  # time.monotonic() of the next look
        self._book: PriceBook | None = None  # at the last look

    def look(self, now: float) -> None:
        """Look if it is time, or if prices have changed. `now`: time.monotonic(). Raises django.db.Error."""
        book = price_cache.book()
        if now < self._due and book is self._book:
            return
        today = datetime.now(settings.ROUTERDASH.zone).date()
        started = time.monotonic()
        used_budgets.unpriced = models_without_price(registry.all(), today, time.time())
        self._due = now + max(UNPRICED_SECONDS, REST_FACTOR * (time.monotonic() - started))
        self._book = book
