"""State of endpoints' circuit breakers, from the live page of the gateways."""

from datetime import UTC, datetime

from metrics.times import json_time

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"
PAUSE_CAUSES = ("limited", "overloaded", "money", "key_refused")  # for which a provider gets no requests
STATES = (CLOSED, OPEN, HALF_OPEN)


def state(trial_due: int, now: float) -> str:
    """Return one of STATES. After `trial_due`, one request is let through as a trial (see BreakerCells.trial_due)."""
    if not trial_due:
        return CLOSED
    return OPEN if now < trial_due else HALF_OPEN


def trial_time(trial_due: int) -> str | None:
    """Return the time of the trial for JSON; None if the breaker is closed."""
    return json_time(datetime.fromtimestamp(trial_due, UTC)) if trial_due else None
