"""Circuit breaker of one endpoint: it keeps requests away from a failing endpoint and tries it again later.

States and transitions:
- closed → open: after 5 failures in a row, or if at least half of at least 20 attempts in 30 seconds failed.
- open → half-open: after 2, 4, 8 … 60 seconds, plus or minus a tenth, so that breakers do not all try at once.
- half-open → closed or open: one trial request decides.

gateway.routing.roster publishes the state in the live page, and follows the breakers of other processes.

The caller passes the time in seconds; the breaker reads no clock. While another key succeeds at the endpoint, failures
that a request itself may have caused count once for its key (`Keys`): the bad requests of one client must not take an
endpoint from all other clients.
"""

import random
from collections.abc import Callable

FAILURES_IN_A_ROW = 5
SHARE, AT_LEAST, WINDOW_SECONDS = 0.5, 20, 30.0
BUCKETS = 10  # of the window
FIRST_SECONDS, MAX_SECONDS = 2.0, 60.0
JITTER = 0.1

MAX_KEYS = 256  # entries of each table in `Keys`

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"


def jitter() -> float:
    return random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311


class Keys:
    """Results of each API key at one endpoint, which decide whether a failure counts.

    A key succeeds if its last finished attempt was a success less than WINDOW_SECONDS ago. While another key succeeds,
    the failures of a key count once in WINDOW_SECONDS. If an endpoint fails for all keys, or for the only active key,
    every failure counts. Keys are names of clients; times are in seconds.
    """

    __slots__ = ("_counted", "_earlier", "last", "last_at")

    def __init__(self) -> None:
        self.last: str | None = None  # key of the latest success
        self.last_at = 0.0
        self._earlier: dict[str, float] = {}  # time of the latest success of each other key, oldest first
        self._counted: dict[str, float] = {}  # time of the latest counted failure of each key, oldest first

    def succeeded(self, key: str, now: float) -> None:
        """Record a success of `key`."""
        if key != self.last:
            if self.last is not None:
                _remember(self._earlier, self.last, self.last_at)
            self._earlier.pop(key, None)
            self.last = key
        self.last_at = now

    def failed(self, key: str, now: float) -> bool:
        """Record a failure of `key`. Return True if it counts."""
        self._forget_success(key)
        another_succeeds = self.last is not None and now - self.last_at < WINDOW_SECONDS
        counted_at = self._counted.get(key)
        if another_succeeds and counted_at is not None and now - counted_at < WINDOW_SECONDS:
            return False
        _remember(self._counted, key, now)
        return True

    def forgive(self) -> None:
        """Delete all failures."""
        self._counted.clear()

    def _forget_success(self, key: str) -> None:
        if self.last != key:
            self._earlier.pop(key, None)
        elif self._earlier:
            self.last, self.last_at = self._earlier.popitem()
        else:
            self.last = None


def _remember(times: dict[str, float], key: str, moment: float) -> None:
    """Add the key as the newest of at most MAX_KEYS."""
    times.pop(key, None)
    times[key] = moment
    if len(times) > MAX_KEYS:
        del times[next(iter(times))]


class Breaker:
    """Circuit breaker. `blocks(now)` is True while requests should go elsewhere."""

    __slots__ = (
        "_failures",
        "_jitter",
        "_moved_at",
        "_openings",
        "_successes",
        "due",
        "failures_in_a_row",
        "keys",
        "successes",
        "trials",
    )

    def __init__(self, jitter: Callable[[], float] = jitter) -> None:
        self.due: float | None = None  # time of the next trial; None if closed
        self.keys = Keys()
        self.trials = 0  # running trial requests
        self._jitter = jitter
        self._openings = 0  # since the latest success
        self.failures_in_a_row = 0
        self.successes = 0  # since the window moved last
        self._successes = [0] * BUCKETS
        self._failures = [0] * BUCKETS
        self._moved_at = 0.0

    def __repr__(self) -> str:
        return "<Breaker closed>" if self.due is None else f"<Breaker open until {self.due:.1f}>"

    def state(self, now: float) -> str:
        if self.due is None:
            return CLOSED
        return OPEN if now < self.due else HALF_OPEN

    def blocks(self, now: float) -> bool:
        """Return True if the breaker is open, or half-open with a running trial."""
        return self.due is not None and (now < self.due or self.trials > 0)

    def record_success(self) -> None:
        """Record a successful attempt: the breaker closes if one has failed here since the latest success."""
        self.successes += 1
        if self.failures_in_a_row:
            self.failures_in_a_row = 0
            if self.due is not None:
                self.close()

    def record_failure(self, now: float, *, pause: float | None = None) -> bool:
        """Record a failed attempt. Return True if the breaker opens.

        `pause`: seconds of a Retry-After header of the endpoint.
        """
        self.move_window(now)
        self._failures[0] += 1
        self.failures_in_a_row += 1
        if self.due is not None and now < self.due:
            return False  # this attempt began before the breaker opened
        if pause is not None:
            self.due = now + min(MAX_SECONDS, pause)
            return True
        if self.due is None and not self._has_enough():
            return False
        seconds = min(MAX_SECONDS, FIRST_SECONDS * 2.0 ** min(self._openings, 10))
        self._openings += 1
        self.due = now + seconds * self._jitter()
        return True

    def half_open(self, now: float) -> None:
        """Let one request through as a trial. Its success closes the breaker."""
        if self.due is None:
            self.due = now
            self.failures_in_a_row = max(1, self.failures_in_a_row)

    def close(self) -> None:
        """Close the breaker and delete all failures."""
        self.due = None
        self.keys.forgive()
        self._openings = self.failures_in_a_row = self.successes = 0
        self._successes, self._failures = [0] * BUCKETS, [0] * BUCKETS

    def move_window(self, now: float) -> None:
        """Move the window to `now`, and drop older results. The gateway calls this several times a second."""
        passed = int((now - self._moved_at) * BUCKETS / WINDOW_SECONDS)
        if passed <= 0:
            return
        self._successes[0] += self.successes
        self.successes = 0
        self._moved_at += passed * WINDOW_SECONDS / BUCKETS
        fresh = [0] * min(passed, BUCKETS)
        self._successes = [*fresh, *self._successes][:BUCKETS]
        self._failures = [*fresh, *self._failures][:BUCKETS]

    def _has_enough(self) -> bool:
        if self.failures_in_a_row >= FAILURES_IN_A_ROW:
            return True
        failures = sum(self._failures)
        attempts = failures + sum(self._successes) + self.successes
        return attempts >= AT_LEAST and failures >= SHARE * attempts
