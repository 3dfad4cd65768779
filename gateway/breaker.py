"""A circuit breaker for each endpoint: keeps requests away from one that fails, and tries it again from time to time.

It opens at 5 failures in a row, or when at least half of at least 20 attempts in 30 seconds failed; for 2, 4, 8 … 60
seconds, give or take a tenth so that breakers do not all try at once. Then it is half open: one request goes through,
and decides. Only the clock that its caller passes in is known to it, in seconds.

A failure that may be the request's own fault counts once for its key while another key succeeds at the endpoint, see
`Keys`: one client's bad requests must not take an endpoint from all the others.
"""

import random
from collections.abc import Callable

IN_A_ROW = 5
SHARE, AT_LEAST, WINDOW_SECONDS = 0.5, 20, 30.0
BUCKETS = 10  # of the window
FIRST_SECONDS, MAX_SECONDS = 2.0, 60.0
JITTER = 0.1

MAX_KEYS = 256  # that an endpoint's `Keys` remember of each sort

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"


def jitter() -> float:
    return random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311


class Keys:
    """How the requests of each API key end at one endpoint, as far as it decides whether a failure counts.

    A key succeeds there if the last of its attempts that ended went well, less than WINDOW_SECONDS ago. While another
    key does, the failures of a key count once in WINDOW_SECONDS. An endpoint that fails for all keys, or for the only
    active one, is found out as if there were no keys.

    After a success, `if keys.last == key: keys.last_at = now`, else `keys.succeeded(key, now)`. Keys are any names of
    clients, times are in seconds.
    """

    __slots__ = ("_counted", "_earlier", "last", "last_at")

    def __init__(self) -> None:
        self.last: str | None = None  # the key that succeeded last
        self.last_at = 0.0
        self._earlier: dict[str, float] = {}  # when the other keys last succeeded, in this order
        self._counted: dict[str, float] = {}  # when a failure of each key last counted, in this order

    def succeeded(self, key: str, now: float) -> None:
        """An attempt of another key than `last` went well."""
        if self.last is not None:
            _remember(self._earlier, self.last, self.last_at)
        self._earlier.pop(key, None)
        self.last, self.last_at = key, now

    def failed(self, key: str, now: float) -> bool:
        """An attempt of `key` failed. Does it count?"""
        self._forget_success(key)
        another_succeeds = self.last is not None and now - self.last_at < WINDOW_SECONDS
        counted_at = self._counted.get(key)
        if another_succeeds and counted_at is not None and now - counted_at < WINDOW_SECONDS:
            return False
        _remember(self._counted, key, now)
        return True

    def forgive(self) -> None:
        """As if nothing had ever failed."""
        self._counted.clear()

    def _forget_success(self, key: str) -> None:
        if self.last != key:
            self._earlier.pop(key, None)
        elif self._earlier:
            self.last, self.last_at = self._earlier.popitem()
        else:
            self.last = None


def _remember(times: dict[str, float], key: str, at: float) -> None:
    """As the newest of at most MAX_KEYS."""
    times.pop(key, None)
    times[key] = at
    if len(times) > MAX_KEYS:
        del times[next(iter(times))]


class Breaker:
    """As attempts end: `well += 1`, and `good()` if any had failed since the last that did not; or `bad(now)`.

    `blocks(now)` says whether requests should go elsewhere.
    """

    __slots__ = ("_bad", "_good", "_jitter", "_openings", "_turned_at", "bad_in_a_row", "due", "keys", "trials", "well")

    def __init__(self, jitter: Callable[[], float] = jitter) -> None:
        self.due: float | None = None  # None: closed; else when a trial is let through
        self.keys = Keys()
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
        self.keys.forgive()
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
