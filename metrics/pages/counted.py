"""How each figure above the overview is counted, for whoever asks: docs/figures.md in a few words."""

from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

STATS = "/api/dashboard/stats"
_SAME = _("The same figure: it is read from the database, and from the journals what came after.")
_ANEW = _("It is looked at anew. The line begins with the start.")


@dataclass(frozen=True, slots=True)
class Counted:
    """`json` is the address that tells it, `field` its name there."""

    name: str
    label: str | Promise
    text: str | Promise
    counts: str | Promise
    window: str | Promise
    restart: str | Promise
    field: str
    json: str = STATS


_NOW = _("Now; the line: the last 60 minutes")
_DAY = _("The last 24 hours; if nothing was answered in them, the latest day; the line: each of the last 60 minutes")
_TODAY = _("Today, by the server's time zone; the line: the last 60 minutes")

COUNTED = {
    it.name: it
    for it in (
        Counted(
            "online",
            _("Endpoints online"),
            _(
                "Endpoints that passed their last health check, of all that are registered. Drained and disabled "
                "ones are among them: they are checked, too. The line has the fewest of each minute."
            ),
            _("Endpoints"),
            _NOW,
            _("The state of each is in the database. The line begins with the start."),
            "online_runtimes",
        ),
        Counted(
            "in_flight",
            _("In flight"),
            _("Requests that an endpoint works on now, over all gateways. The line has the most of each minute."),
            _("Requests"),
            _NOW,
            _ANEW,
            "total_active_requests",
        ),
        Counted(
            "queued",
            _("Queued"),
            _(
                "Requests that wait because every endpoint that has their model is full. The line has the most of "
                "each minute."
            ),
            _("Requests"),
            _NOW,
            _ANEW,
            "queued_requests",
        ),
        Counted(
            "speed",
            _("Tokens per second"),
            _(
                "Output tokens of the requests that ended in this minute and the one before it, over the time since "
                "then. The tokens of a long answer count when it ends."
            ),
            _("Output tokens of all endpoints"),
            _("One to two minutes; the line: each of the last 60 minutes"),
            _SAME,
            "tokens_per_second",
        ),
        Counted(
            "first_token",
            _("First token"),
            _(
                "The median time from a request to its first token, queue and failed attempts included. Only "
                "streamed answers have one."
            ),
            _("Streamed answers"),
            _DAY,
            _SAME,
            "p50_first_token_ms",
        ),
        Counted(
            "requests",
            _("Requests today"),
            _(
                "Requests that were answered or failed. Those that a client left, and those that RouterDash refused "
                "itself, are not among them."
            ),
            _("Requests, however many endpoints each was tried on"),
            _TODAY,
            _SAME,
            "today_requests, total_requests",
        ),
        Counted(
            "success",
            _("Success rate"),
            _(
                "Requests with a status of 200 to 399 and a whole answer, of all that were answered or failed. A "
                "stream that breaks off is a failure; a client that leaves is neither."
            ),
            _("Requests"),
            _("The last 60 minutes"),
            _SAME,
            "success, error",
            "/api/dashboard/request-history",
        ),
        Counted(
            "tokens",
            _("Tokens today"),
            _(
                "Input and output tokens as endpoints tell them; where one tells none, estimated from the text, and "
                "marked so on the request."
            ),
            _("Tokens of all requests"),
            _TODAY,
            _SAME,
            "today_input_tokens, today_output_tokens",
        ),
        Counted(
            "average",
            _("Average response"),
            _(
                "The mean time of an answered request, from its arrival to its last byte. Before anything was ever "
                "answered: the mean latency of the endpoints online."
            ),
            _("Answered requests"),
            _DAY,
            _SAME,
            "average_response_time_ms",
        ),
        Counted(
            "p95",
            _("95th percentile"),
            _("Of a hundred answered requests, 95 took no longer. From a histogram: exact to a sixteenth."),
            _("Answered requests"),
            _DAY,
            _SAME,
            "p95_response_time_ms",
        ),
    )
}
