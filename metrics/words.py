"""What pages and admin call the words of records."""

from django.utils.translation import gettext_lazy

from gateway import balancer, record

OUTCOMES = {
    record.OK: gettext_lazy("OK"),
    record.REFUSED: gettext_lazy("Refused by the endpoint"),
    record.FAILED: gettext_lazy("Failed"),
    record.TRUNCATED: gettext_lazy("Broken off"),
    record.CANCELLED: gettext_lazy("Cancelled"),
    record.NO_ENDPOINT: gettext_lazy("No endpoint"),
    record.QUEUE: gettext_lazy("Gave up in the queue"),
}
# Why an endpoint was chosen.
REASONS = {
    balancer.ONLY: gettext_lazy("No other endpoint could take it."),
    balancer.LEAST: gettext_lazy("It had the fewest requests in flight."),
    balancer.DRAWN: gettext_lazy("Drawn by chance among those with the fewest requests in flight."),
    balancer.TRIAL: gettext_lazy("Every circuit breaker was open, and its trial was due first."),
    balancer.MADE_IT: gettext_lazy("It made the response that this request is about."),
    balancer.SEARCHED: gettext_lazy("Nobody remembers which endpoint made the response: each was asked."),
}


def outcome(name: str) -> str:
    """A word that only a newer release knows stays as it is."""
    return str(OUTCOMES.get(name, name))


def reason(name: str) -> str:
    return str(REASONS.get(name, name))
