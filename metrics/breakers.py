"""The circuit breakers of endpoints, as the gateways have them: by the live page, where each tells until when."""

from datetime import UTC, datetime

from metrics.history import json_time

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"
STATES = (CLOSED, OPEN, HALF_OPEN)


def state(trial_due: int, now: float) -> str:
    """Past its time, one request is let through as a trial, or is under way. See LivePage.trial_due; `now` as there."""
    if not trial_due:
        return CLOSED
    return OPEN if now < trial_due else HALF_OPEN


def told_due(trial_due: int) -> str | None:
    """The moment of the trial as the API tells it; None: none is needed."""
    return json_time(datetime.fromtimestamp(trial_due, UTC)) if trial_due else None
