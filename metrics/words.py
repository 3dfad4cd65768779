"""What pages and admin call the words of records."""

from django.utils.translation import gettext_lazy

from gateway import balancer, record
from metrics import routes

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
    balancer.PINNED: gettext_lazy("The playground asked for this very endpoint."),
    balancer.SEARCHED: gettext_lazy("Nobody remembers which endpoint made the response: each was asked."),
}
# Where a request would go now, and why endpoints are left out.
ROUTES = {
    balancer.ONLY: gettext_lazy("To the only endpoint that is in question."),
    balancer.LEAST: gettext_lazy("To the endpoint with the fewest requests in flight."),
    balancer.DRAWN: gettext_lazy("To one of those with the fewest requests in flight, by chance."),
    balancer.TRIAL: gettext_lazy("Every circuit breaker is open: to the endpoint whose trial is due first."),
    routes.WAIT: gettext_lazy("Into the queue: every endpoint has as many requests as it takes."),
}
LEFT_OUT = {
    routes.DISABLED: gettext_lazy("disabled"),
    routes.DRAINING: gettext_lazy("draining"),
    routes.OFFLINE: gettext_lazy("offline"),
    routes.INCAPABLE: gettext_lazy("not for this kind of request"),
    routes.IS_FULL: gettext_lazy("full"),
    routes.BREAKER_OPEN: gettext_lazy("its circuit breaker is open"),
    routes.LESS_HEALTHY: gettext_lazy("others are healthier"),
}
# What a request that is here does now.
PHASES = {
    "queue": gettext_lazy("In the queue"),
    "first_token": gettext_lazy("Waiting for the first token"),
    "stream": gettext_lazy("Streaming"),
    "answer": gettext_lazy("Being answered"),
}


def outcome(name: str) -> str:
    """A word that only a newer release knows stays as it is."""
    return str(OUTCOMES.get(name, name))


def reason(name: str) -> str:
    return str(REASONS.get(name, name))


def route(name: str) -> str:
    return str(ROUTES.get(name, name))


def phase(name: str) -> str:
    return str(PHASES.get(name, name))


def left_out(name: str) -> str:
    return str(LEFT_OUT.get(name, name))
