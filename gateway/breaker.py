"""A circuit breaker for each endpoint: keeps requests away from one that fails, and tries it again from time to time.

It opens at 5 failures in a row, or when at least half of at least 20 attempts in 30 seconds failed; for 2, 4, 8 … 60
seconds, give or take a tenth so that breakers do not all try at once. Then it is half open: one request goes through,
and decides. Only the clock that its caller passes in is known to it, in seconds.
"""

import random
from collections.abc import Callable

IN_A_ROW = 5
SHARE, AT_LEAST, WINDOW_SECONDS = 0.5, 20, 30.0
BUCKETS = 10  # of the window
FIRST_SECONDS, MAX_SECONDS = 2.0, 60.0
JITTER = 0.1

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"


def jitter() -> float:
    return random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311


class Breaker:
    """As attempts end: `well += 1`, and `good()` if any had failed since the last that did not; or `bad(now)`.

    `blocks(now)` says whether requests should go elsewhere.
    """

    __slots__ = ("_bad", "_good", "_jitter", "_openings", "_turned_at", "bad_in_a_row", "due", "trials", "well")

    def __init__(self, jitter: Callable[[], float] = jitter) -> None:
        self.due: float | None = None  # None: closed; else when a trial is let through
        self.trials = 0  # requests under way that were let through half open
        self._jitter = jitter
        self._openings = 0  # without a success in between
        self.bad_in_a_row = 0
        self.well = 0  # attempts since the window was last turned
        self._good = [0] * BUCKETS
        self._bad = [0] * BUCKETS
        self._turned_at = 0.0

    def __repr__(self) -> str:
        return "<Breaker closed>" if self.due is None else f"<Breaker open until {self.due:.1f}>"

    def state(self, now: float) -> str:
        if self.due is None:
            return CLOSED
        return OPEN if now < self.due else HALF_OPEN

    def blocks(self, now: float) -> bool:
        """Open, or half open with its one trial under way."""
        return self.due is not None and (now < self.due or self.trials > 0)

    def good(self) -> None:
        """An attempt ended well: closed, whatever was."""
        self.bad_in_a_row = 0
        if self.due is not None:
            self.close()

    def bad(self, now: float, *, pause: float | None = None) -> bool:
        """An attempt failed. `pause`: seconds that the endpoint asked to be left alone. True if the breaker opens."""
        self.turn(now)
        self._bad[0] += 1
        self.bad_in_a_row += 1
        if self.due is not None and now < self.due:
            return False  # one of those that were under way when it opened
        if pause is not None:
            self.due = now + min(MAX_SECONDS, pause)
            return True
        if self.due is None and not self._has_enough():
            return False
        seconds = min(MAX_SECONDS, FIRST_SECONDS * 2.0 ** min(self._openings, 10))
        self._openings += 1
        self.due = now + seconds * self._jitter()
        return True

    def close(self) -> None:
        """As if nothing had ever failed."""
        self.due = None
        self._openings = self.bad_in_a_row = self.well = 0
        self._good, self._bad = [0] * BUCKETS, [0] * BUCKETS

    def turn(self, now: float) -> None:
        """Let go of what the window has left behind. Called every now and then."""
        passed = int((now - self._turned_at) * BUCKETS / WINDOW_SECONDS)
        if passed <= 0:
            return
        self._good[0] += self.well
        self.well = 0
        self._turned_at += passed * WINDOW_SECONDS / BUCKETS
        fresh = [0] * min(passed, BUCKETS)
        self._good = [*fresh, *self._good][:BUCKETS]
        self._bad = [*fresh, *self._bad][:BUCKETS]

    def _has_enough(self) -> bool:
        if self.bad_in_a_row >= IN_A_ROW:
            return True
        bad = sum(self._bad)
        return bad >= SHARE * (attempts := bad + sum(self._good) + self.well) and attempts >= AT_LEAST
