"""How many retries are let through, so that a failing fleet is not asked many times over for each request.

As Finagle's RetryBudget: each request deposits a share of a retry; a few a second are granted in any case.
"""

import time
from collections.abc import Callable

SHARE = 0.2  # of a retry, for each request
A_SECOND = 10.0
MAX_BALANCE = 100.0


class RetryBudget:
    """Each request adds SHARE to `balance`; `withdraw()` before each retry. `clock` tells seconds."""

    __slots__ = ("_clock", "_looked_at", "balance")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_at = clock()
        self.balance = MAX_BALANCE

    def withdraw(self) -> bool:
        """May one more retry be made?"""
        now = self._clock()
        self.balance = min(MAX_BALANCE, self.balance + (now - self._looked_at) * A_SECOND)
        self._looked_at = now
        if self.balance < 1:
            return False
        self.balance -= 1
        return True
