"""The overview: its page, its live events and its API show these payloads. All from memory."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TypedDict
from zlib import crc32

from metrics.memory import last_hour
from metrics.memory.endpoint_events import endpoint_events
from metrics.memory.figures import Point, iso_minute
from metrics.memory.gauges import gauges
from metrics.memory.runtime import runtime
from metrics.queries import attention as attention_items
from metrics.queries import breakers, figures
from metrics.queries.attention import AttentionPayload
from metrics.queries.figures import Moment
from metrics.queries.live import speeds
from metrics.queries.live.shown_endpoints import shown_endpoints
from metrics.queries.payloads import (
    BusiestPayload,
    EndpointEventPayload,
    LiveEndpointPayload,
    MinuteFiguresPayload,
    MinutePayload,
    SpeedRowPayload,
    StatsPayload,
)
from metrics.times import json_time

MAX_ATTENTION = 8  # items on the page and in events; the API lists all of them


class MarksPayload(TypedDict):
    """Which endpoint events of the last 60 minutes there are: a page fetches them again when this changes."""

    count: int
    last_at: str | None


class DigestsPayload(TypedDict):
    """Texts by which an open list notices that it has to be fetched again."""

    endpoints_digest: str
    states_digest: str


class LiveFigures(DigestsPayload):
    """What live events keep up to date on all pages. Its size does not depend on the number of endpoints."""

    stats: StatsPayload
    history: list[MinutePayload]
    speeds: list[SpeedRowPayload]
    speeds_known: int
    minutes: list[MinuteFiguresPayload]
    busiest: BusiestPayload
    attention: list[AttentionPayload]
    attention_count: int
    marks: MarksPayload
    states: dict[str, int]
    generated_at: str


class LiveOverviewPayload(LiveFigures):
    """Everything that an open page shows and live events keep up to date."""

    endpoints: list[LiveEndpointPayload]


def live(moment: Moment | None = None) -> LiveOverviewPayload:
    """Return the whole overview at one moment, with the endpoints that it shows."""
    moment = moment or Moment.now()
    return {
        **live_figures(moment),
        "endpoints": figures.live_endpoints(moment, shown_endpoints.of(moment)),
    }


def live_figures(moment: Moment) -> LiveFigures:
    """Return what all open pages get."""
    stats = figures.stats(moment)
    items, count = first_attention(moment, stats, MAX_ATTENTION)
    events = endpoint_events.recent()
    return {
        "stats": stats,
        "history": figures.history(moment.figures),
        "speeds": speeds.busiest(moment),
        "speeds_known": speeds.known(moment),
        "minutes": minutes(moment),
        "busiest": busiest(moment),
        "attention": items,
        "attention_count": count,
        "marks": {"count": len(events), "last_at": json_time(events[-1].at) if events else None},
        "states": Counter(str(entry.shown_status) for entry in moment.entries),
        **digests(moment),
        "generated_at": json_time(datetime.now(UTC)),
    }


def digests(moment: Moment) -> DigestsPayload:
    """Return texts that differ when other endpoints exist, and when one of them has another shown status."""
    return {
        "endpoints_digest": _digest(entry.id for entry in moment.entries),
        "states_digest": _digest(f"{entry.id}{entry.shown_status}" for entry in moment.entries),
    }


def _digest(texts: Iterable[str]) -> str:
    """Return a short text that differs if the texts differ."""
    return f"{crc32(''.join(texts).encode()):08x}"


def minutes(moment: Moment) -> list[MinuteFiguresPayload]:
    """Return the last 60 minutes, oldest first, without their successes and failures (`figures.history`)."""
    return [_minute(point) for point in moment.figures.points]


def _minute(point: Point) -> MinuteFiguresPayload:
    gauge = gauges.at(point.minute)
    return {
        "minute": iso_minute(point.minute),
        "input_tokens": point.input_tokens,
        "output_tokens": point.output_tokens,
        "average_ms": point.average_ms,
        "p95_ms": point.p95_ms,
        "first_token_ms": point.first_token_ms,
        "in_flight": gauge.in_flight if gauge else None,
        "queued": gauge.waiting if gauge else None,
        "online": gauge.online if gauge else None,
    }


def busiest(moment: Moment) -> BusiestPayload:
    """Return the models and API keys with the most requests in 60 minutes, and the busiest clients of two hours.

    The two hours are the present one of the clock and the one before.
    """
    sums = moment.figures.hour
    keys = last_hour.ranked(sums, last_hour.KEY, last_hour.BUSIEST)
    names = runtime.installation.key_names([key for key, _count in keys])
    return {
        "models": [
            {"model_id": model, "requests": count}
            for model, count in last_hour.ranked(sums, last_hour.MODEL, last_hour.BUSIEST)
        ],
        "api_keys": [
            {"api_key_id": key or None, "api_key_name": names.get(key), "requests": count} for key, count in keys
        ],
        "clients": [{"ip": client, "requests": count} for client, count in moment.figures.clients],
    }


def attention(moment: Moment, stats: StatsPayload) -> list[AttentionPayload]:
    """Return all items that need attention, the worst first."""
    return first_attention(moment, stats, None)[0]


def first_attention(moment: Moment, stats: StatsPayload, most: int | None) -> tuple[list[AttentionPayload], int]:
    """Return the worst items, at most so many, and the number of all."""
    now = moment.figures.at
    trials = {endpoint_id: breakers.state(due, now) for endpoint_id, due in moment.trials.items()}
    return attention_items.items(moment.entries, trials, moment.aside, stats, now, most)


def recent_events() -> list[EndpointEventPayload]:
    """Return the endpoint events of the last 60 minutes, oldest first."""
    return [
        {
            "at": json_time(event.at),
            "what": event.kind,
            "endpoint_id": event.endpoint_id,
            "endpoint_name": event.endpoint_name,
            "status_before": event.before,
            "status_after": event.after,
            "detail": event.detail,
            "by": event.by,
        }
        for event in endpoint_events.recent()
    ]
