"""Retry budget: limits retries and failovers, so that a failing fleet does not get many attempts per request.

The algorithm is that of Finagle's RetryBudget: each request deposits a share of a retry, and a few retries a second
are granted in any case.
"""

import time
from collections.abc import Callable

SHARE = 0.2  # retries that each request deposits
GRANTED_PER_SECOND = 10.0
MAX_BALANCE = 100.0


class RetryBudget:
    """Balance of retries. Each request adds SHARE to `balance`. `clock` returns seconds."""

    __slots__ = ("_clock", "_updated_at", "balance")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._updated_at = clock()
        self.balance = MAX_BALANCE

    def withdraw(self) -> bool:
        """Take one retry. Return False if the budget is exhausted."""
        now = self._clock()
        self.balance = min(MAX_BALANCE, self.balance + (now - self._updated_at) * GRANTED_PER_SECOND)
        self._updated_at = now
        if self.balance < 1:
            return False
        self.balance -= 1
        return True
