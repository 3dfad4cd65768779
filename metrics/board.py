"""The overview as a whole: what its page shows, its events keep up to date, and its addresses in the API tell."""

from typing import Any

from metrics import attention as attention_module
from metrics import breakers, hour, queries
from metrics import marks as marks_module
from metrics.gauges import gauges
from metrics.marks import marks
from metrics.queries import Moment
from metrics.teller import surroundings
from metrics.trackers import Point, iso_minute


def live(moment: Moment | None = None, endpoints: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Everything, of one moment. From memory alone. `endpoints`: what queries tells of them, where that is known."""
    moment = moment or Moment.now()
    told = queries.live(moment, endpoints)
    return {
        **told,
        "minutes": minutes(moment),
        "busiest": busiest(moment),
        "attention": attention(moment, told["stats"]),
        "marks": recent_marks(),
    }


def minutes(moment: Moment) -> list[dict[str, Any]]:
    """The last 60 minutes, oldest first, beside their successes and failures."""
    return [_minute(point) for point in moment.figures.points]


def _minute(point: Point) -> dict[str, Any]:
    gauge = gauges.at(point.minute)
    return {
        "minute": iso_minute(point.minute),
        "input_tokens": point.input_tokens,
        "output_tokens": point.output_tokens,
        "average_ms": point.average_ms,
        "p95_ms": point.p95_ms,
        "first_token_ms": point.first_token_ms,
        "in_flight": gauge and gauge.in_flight,
        "queued": gauge and gauge.waiting,
        "online": gauge and gauge.online,
    }


def busiest(moment: Moment) -> dict[str, list[dict[str, Any]]]:
    """Models and API keys with the most requests in the last 60 minutes, and clients with the most in this hour and the
    one before.
    """
    sums, names = moment.figures.hour, surroundings.key_names()
    return {
        "models": [
            {"model_id": model, "requests": count} for model, count in hour.ranked(sums, hour.MODEL, hour.BUSIEST)
        ],
        "api_keys": [
            {"api_key_id": key or None, "api_key_name": names.get(key), "requests": count}
            for key, count in hour.ranked(sums, hour.KEY, hour.BUSIEST)
        ],
        "clients": [{"ip": client, "requests": count} for client, count in moment.figures.clients],
    }  # fmt: skip


def attention(moment: Moment, stats: dict[str, Any]) -> list[dict[str, Any]]:
    at = moment.figures.at
    trials = {endpoint_id: breakers.state(due, at) for endpoint_id, due in moment.trials.items()}
    return attention_module.items(moment.entries, trials, stats, at)


def recent_marks() -> list[dict[str, Any]]:
    return marks_module.told(marks.recent())
