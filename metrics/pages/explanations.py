"""Explanations of the figures at the top of the overview: a summary of docs/reference/figures.md."""

from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

STATS = "/api/dashboard/stats"
_UNCHANGED = _("The figure is unchanged. It is read from the database and from newer journal entries.")
_LIVE = _("The figure is measured live. The sparkline starts when RouterDash starts.")


@dataclass(frozen=True, slots=True)
class Explanation:
    """Explanation of a figure. `json` is its URL in the API, `field` its name there."""

    name: str
    label: str | Promise
    text: str | Promise
    counts: str | Promise
    window: str | Promise
    restart: str | Promise
    field: str
    json: str = STATS


_NOW = _("Now; sparkline: last 60 minutes")
_DAY = _("Last 24 hours, or the latest day with responses; sparkline: each of the last 60 minutes")
_TODAY = _("Today, in the server's time zone; sparkline: last 60 minutes")

EXPLANATIONS = {
    explanation.name: explanation
    for explanation in (
        Explanation(
            "online",
            _("Online endpoints"),
            _(
                "Registered endpoints that passed their latest health check. Drained and disabled "
                "endpoints are included, because they are checked as well. The sparkline shows the "
                "minimum of each minute."
            ),
            _("Endpoints"),
            _NOW,
            _("The state of each endpoint is stored in the database. The sparkline starts when RouterDash starts."),
            "online_runtimes",
        ),
        Explanation(
            "in_flight",
            _("In flight"),
            _(
                "Requests that endpoints are processing now, over all gateways. The sparkline shows "
                "the maximum of each minute."
            ),
            _("Requests"),
            _NOW,
            _LIVE,
            "total_active_requests",
        ),
        Explanation(
            "queued",
            _("Queued"),
            _(
                "Requests that wait because every endpoint with their model is full. The sparkline "
                "shows the maximum of each minute."
            ),
            _("Requests"),
            _NOW,
            _LIVE,
            "queued_requests",
        ),
        Explanation(
            "speed",
            _("Tokens per second"),
            _(
                "Output tokens of the requests that ended in this minute and the previous one, divided "
                "by the elapsed time. The tokens of a long response count when it ends."
            ),
            _("Output tokens of all endpoints"),
            _("One to two minutes; sparkline: each of the last 60 minutes"),
            _UNCHANGED,
            "tokens_per_second",
        ),
        Explanation(
            "first_token",
            _("Time to first token"),
            _(
                "Median time from the arrival of a request to its first token, including queue time "
                "and failed attempts. Only streamed responses have a first token."
            ),
            _("Streamed responses"),
            _DAY,
            _UNCHANGED,
            "p50_first_token_ms",
        ),
        Explanation(
            "requests",
            _("Requests today"),
            _(
                "Requests that succeeded or failed. Requests that a client abandoned, and requests "
                "that RouterDash rejected, are not included."
            ),
            _("Requests, regardless of the number of attempts"),
            _TODAY,
            _UNCHANGED,
            "today_requests, total_requests",
        ),
        Explanation(
            "success",
            _("Success rate"),
            _(
                "Requests with a status of 200 to 399 and a complete response, divided by all that "
                "succeeded or failed. A stream that breaks off is a failure; a client disconnect "
                "counts as neither."
            ),
            _("Requests"),
            _("The last 60 minutes"),
            _UNCHANGED,
            "success, error",
            "/api/dashboard/request-history",
        ),
        Explanation(
            "tokens",
            _("Tokens today"),
            _(
                "Input and output tokens reported by endpoints. If an endpoint reports none, they are "
                "estimated from the text, and the request is marked so."
            ),
            _("Tokens of all requests"),
            _TODAY,
            _UNCHANGED,
            "today_input_tokens, today_output_tokens",
        ),
        Explanation(
            "average",
            _("Average response"),
            _(
                "Mean time of a successful request, from its arrival to the last byte. Before the "
                "first response, it is the mean latency of online endpoints."
            ),
            _("Successful requests"),
            _DAY,
            _UNCHANGED,
            "average_response_time_ms",
        ),
        Explanation(
            "p95",
            _("95th percentile"),
            _(
                "95 of 100 successful requests took no longer than this. The value comes from a "
                "histogram with a precision of 1/16."
            ),
            _("Successful requests"),
            _DAY,
            _UNCHANGED,
            "p95_response_time_ms",
        ),
    )
}
