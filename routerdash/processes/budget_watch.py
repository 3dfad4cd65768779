"""Looks every few seconds which budgets are nearly spent, for attention items and /metrics.

Less often, it looks for models without a price, for which budgets of money count nothing.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from datetime import datetime

from django.conf import settings
from django.db import Error, connection

from access.limits.api import EVERYONE, subject_names
from access.limits.reading import read_limits
from endpoints.registry import registry
from gateway.prices.book import PriceBook
from gateway.registry.limits import LIMITS_OF_A_SUBJECT, NO_LIMITS
from metrics.memory.used_budgets import UsedBudget, used_budgets
from metrics.prices.registry import price_registry
from metrics.queries.attention import BUDGET_PERCENT
from metrics.spending.figures import spent_budgets
from metrics.spending.subjects import Subject
from metrics.spending.unpriced import models_without_price

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
REST_FACTOR = 50  # pauses are at least so many times as long as a look: thousands of budgets take long
UNPRICED_SECONDS = 10.0  # between two looks for models without a price, unless prices change
KEPT = 50  # the fullest budgets, with names


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
    found = spent_budgets(share=0.0, spenders=spenders)
    kept = [it for it in found[:KEPT] if it.spent is not None]
    subjects = list({(it.level, it.subject_id) for it in kept})
    names, facts = subject_names(subjects), read_limits([*subjects, EVERYONE])
    instead = {
        (*subject, budget.unit, budget.period): budget.instead
        for subject, limits in facts.items()
        for budget in limits.budgets
    }
    used = [
        UsedBudget(
            it.level,
            it.subject_id,
            names.get((it.level, it.subject_id)),
            it.unit,
            it.period,
            it.amount,
            it.spent or 0,
            it.resets_at,
            instead.get((it.level, it.subject_id, it.unit, it.period)),
        )
        for it in kept
    ]
    of_everyone = facts.get(EVERYONE, NO_LIMITS)
    used_budgets.limits_of_everyone = {
        name: limit for name in LIMITS_OF_A_SUBJECT if (limit := getattr(of_everyone, name)) is not None
    }
    used_budgets.note(used, sum((it.share or 0.0) >= BUDGET_PERCENT / 100 for it in found))


class PriceWatch:
    """Looks for models for which budgets of money count nothing."""

    def __init__(self) -> None:
        self._due = 0.0  # time.monotonic() of the next look
        self._book: PriceBook | None = None  # at the last look

    def look(self, now: float) -> None:
        """Look if it is time, or if prices have changed. `now`: time.monotonic(). Raises django.db.Error."""
        book = price_registry.book()
        if now < self._due and book is self._book:
            return
        today = datetime.now(settings.ROUTERDASH.zone).date()
        started = time.monotonic()
        used_budgets.unpriced = models_without_price(registry.all(), today, time.time())
        self._due = now + max(UNPRICED_SECONDS, REST_FACTOR * (time.monotonic() - started))
        self._book = book
