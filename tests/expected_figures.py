"""Rules that give the figures of the JSON API for each place of each page; the tests compare pages with them.

No rule uses code of pages: it queries documented paths, with the page's own filters.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from gateway.base import request_kinds
from tests.displayed_figures import Place, agrees, numbers, value, without
from tests.sample_installation import ZONE, Busy

Row = dict[str, Any]
Reported = dict[Place, list[Any]]  # figures; None is shown as a dash, ABSENT not at all
Column = str | Callable[[Row], Any]

ABSENT = object()
MINUTE, DAY = 60_000.0, 86_400_000.0  # ms
MOST_LIVE = 200  # of each gateway, running ones and in its queue


class AnyOrder(list[Any]):
    """Figures of one place, in any order."""


class Between(NamedTuple):
    """A figure that is measured again at each request."""

    low: float
    high: float


@dataclass(frozen=True)
class Shown:
    """A page at one URL: its query, and the arguments of its path."""

    busy: Busy
    query: dict[str, Any]
    known: dict[str, str]

    def api(self, path: str, **query: Any) -> Any:
        return self.busy.api(f"{path}?{urlencode(query)}" if query else path)

    def post(self, path: str, **body: Any) -> Any:
        """Return the API's response to a POST that changes nothing."""
        return self.busy.change("POST", path, body)


Rule = Callable[[Shown], Reported]


# Words with a digit that describe a figure but are not figures.
WORDING = re.compile(
    "|".join(
        (
            r"(in|last|,) 60 min(utes)?|[Ll]ast 24 h(ours)?|[Ll]ast (7|30) days",
            r"(Requests|Cancelled|Cost|tokens|Today),? 7 days",
            r"p95 to first token|at most 256",
            r"latest 2,000|The 50 models with the most responses|below 99 percent|status of 200 to 399|/64 network",
            r"9[05]th percentile|95 of 100 successful requests|precision of 1/16|[/\w]*p\d\d_\w+|IPv[46]|/v1\b",
            r"If this is 120, the default, [^.]*\(600 s\)",
            # Choices
            r"15 min 1 h 24 h 7 d|7 days 30 days 90 days",
            r"(1 hour 6 hours )?24 hours 7 days 30 days|In \d+ days|after \d+ minutes?",
        )
    )
)


def differences(shown: Mapping[Place, str], before: Reported, after: Reported, names: Iterable[str]) -> Iterator[str]:
    """Return differences between the texts of a page and the figures reported before and after it was read."""
    for place in dict.fromkeys((*shown, *before, *after)):
        text = WORDING.sub(" … ", without(shown.get(place, ""), names))
        api = [_numbers(reported.get(place, []), end) for end, reported in enumerate((before, after))]
        try:
            figures = numbers(text)
        except ValueError as error:
            yield f"{tuple(place)}: {error}"
            continue
        if isinstance(before.get(place), AnyOrder):
            figures.sort(key=lambda figure: value(figure)[0])
            api = [sorted(reported) for reported in api]
        if not len(figures) == len(api[0]) == len(api[1]) or not all(map(agrees, figures, zip(*api, strict=True))):
            yield f"{tuple(place)} shows {figures}, the API tells {api[1]}: {text[:300]!r}"
        elif text.count("—") < sum(figure is None for figure in before.get(place, [])):
            yield f"{tuple(place)} has no dash for what was not measured: {text[:300]!r}"


def shape(reported: Reported) -> dict[Place, int]:
    """Return the number of figures at each place: a page that is read during a change shows neither state."""
    return {place: len(_numbers(figures, 0)) for place, figures in reported.items()}


def _numbers(figures: list[Any], end: int) -> list[float]:
    reported = (figure for figure in figures if figure is not None and figure is not ABSENT)
    return [figure[end] if isinstance(figure, Between) else figure for figure in reported]


# Parts of rules


def fact(panel: str, name: str, *figures: Any) -> Reported:
    return {Place(panel, "", name): list(figures)}


def table(panel: str, rows: Iterable[Row], name: Column, columns: dict[str, Sequence[Column]]) -> Reported:
    """Return the figures of a table; rows with the same name share a place, in their order."""
    reported: Reported = {}
    for row in rows:
        for column, figures in columns.items():
            place = reported.setdefault(Place(panel, str(_of(row, name)), column), [])
            for figure in figures:
                cell = _of(row, figure)
                place += cell if isinstance(cell, list) else [cell]
    return reported


def _of(row: Row, column: Column) -> Any:
    return column(row) if callable(column) else row[column]


def money(amount: str | None) -> list[Any]:
    """Return an amount as pages have it: exact in its title, and shortened."""
    return [None] if amount is None else [float(amount)] * 2


def cost(row: Row) -> list[Any]:
    """Return the costs of a row, and the number of its requests without one."""
    amounts = [figure for each in row["costs"] for figure in money(each["cost"])]
    return [*amounts, row["requests_without_cost"] or ABSENT] if amounts else [None]


def cost_facts(panel: str, row: Row) -> Reported:
    return {
        **fact(panel, "Cost", *cost(row)),
        **fact(panel, "Of it estimated", *estimated(row)),
        **fact(panel, "Requests with a cost", sum(each["requests"] for each in row["costs"])),
        **fact(panel, "Requests without a cost", row["requests_without_cost"]),
    }


def estimated(row: Row) -> list[Any]:
    amounts = [each["estimated_cost"] for each in row["costs"] if each["estimated_requests"]]
    return [figure for each in amounts for figure in money(each)] or [None]


def if_any(name: str) -> Column:
    return lambda row: row[name] or ABSENT


def percent(part: float, whole: float) -> float | None:
    return 100 * part / whole if whole else None


def since(moment: str) -> float:
    """Return the milliseconds until now."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds() * 1000


def local_time(moment: str, form: str) -> str:
    """Return the time in the server's zone, which is used without a cookie of the browser."""
    return datetime.fromisoformat(moment).astimezone(ZONE).strftime(form)


def today() -> date:
    return datetime.now(ZONE).date()


def named(row: Row, kind: str) -> str | None:
    """Return the name of a row's endpoint or key; if it is deleted and its name is unknown, the ID."""
    unknown = f"deleted: {row[f'{kind}_id']}" if row[f"{kind}_id"] else None
    return row[f"{kind}_name"] or unknown


def latency(row: Row) -> list[Any]:
    """Return the latency; of an offline endpoint with the age of the last measurement."""
    if row["status"] != "offline" or row["latency_ms"] is None:
        return [row["latency_ms"]]
    return [row["latency_ms"], since(row["last_seen"]) if row["last_seen"] else None]


def nothing(_: Shown) -> Reported:
    return {}


# The overview


def overview(page: Shown) -> Reported:
    stats, history = page.api("/api/dashboard/stats"), page.api("/api/dashboard/request-history")
    minutes, busiest = page.api("/api/dashboard/minutes"), page.api("/api/dashboard/busiest")
    attention, endpoints = page.api("/api/dashboard/attention"), page.api("/api/dashboard/endpoints")
    ok, failed = (sum(slot[name] for slot in history) for name in ("success", "error"))
    tokens = stats["today_input_tokens"] + stats["today_output_tokens"]
    peak = {name: max(row[name] for row in minutes if row[name] is not None) for name in ("in_flight", "queued")}
    return {
        **fact("", "Online endpoints", *(stats[f"{name}_runtimes"] for name in ("online", "total", "offline"))),
        **fact("", "In flight", stats["total_active_requests"], peak["in_flight"]),
        **fact("", "Queued", stats["queued_requests"], peak["queued"]),
        **fact("", "Tokens per second", stats["tokens_per_second"]),
        **fact("", "Time to first token", stats["p50_first_token_ms"]),
        **fact("", "Requests today", stats["today_requests"], stats["total_requests"], stats["failed_requests"]),
        **fact("", "Success rate", percent(ok, ok + failed), failed),
        **fact("", "Tokens today", tokens, tokens, stats["total_tokens"], stats["total_output_tokens"]),
        **fact("", "Average response", stats["average_response_time_ms"]),
        **fact("", "95th percentile", stats["p95_response_time_ms"]),
        Place("attention"): [len(attention) or ABSENT, *(figure for row in attention for figure in _attention(row))],
        Place("minutes"): [stats["cancelled_requests"], stats["rejected_requests"]],
        **table(
            "minutes", history, lambda row: local_time(row["minute"], "%H:%M"), {"OK": ["success"], "Failed": ["error"]}
        ),
        Place("busiest"): [row["requests"] for name in ("models", "api_keys", "clients") for row in busiest[name]],
        **table(
            "endpoints",
            endpoints,
            "name",
            {
                "In flight": ["active_requests", if_any("slots")],
                "tok/s": ["tokens_per_second"],
                "Latency": [latency],
                "Failed, 60 min": [lambda row: percent(row["recent_failures"], row["recent_attempts"])],
                "Attempts": ["total_requests", "failed_requests"],
                "Models": ["model_count"],
            },
        ),
        **table(
            "speeds",
            speeds(page, endpoints),
            "endpoint_name",
            {"tok/s": ["tps"], "Responses today": ["request_count"], "Output tokens today": ["total_output_tokens"]},
        ),
    }


def _attention(row: Row) -> list[Any]:
    return [row["models_nowhere_else"] or ABSENT, since(row["since"]) if row["since"] else ABSENT]


def speeds(page: Shown, endpoints: list[Row]) -> list[Row]:
    return [
        {"endpoint_id": endpoint["id"], "endpoint_name": endpoint["name"], **row}
        for endpoint in sorted(endpoints, key=lambda row: str(row["name"]))
        for row in page.api(f"/api/endpoints/{endpoint['id']}/model-tps")
    ]


# Endpoints

STATES = ("online", "error", "offline", "draining", "disabled")


def behind(page: Shown) -> Reported:
    """Return the panel of items that need attention, which exists but is hidden."""
    stats = page.api("/api/dashboard/stats")
    names = ("records_waiting", "oldest_waiting_secs", "records_unrecorded")
    return {Place("attention"): [stats[name] for name in names]}


def endpoints(page: Shown) -> Reported:
    every, selected = page.api("/api/endpoints")["endpoints"], page.api("/api/endpoints", **page.query)["endpoints"]
    shown = {endpoint["id"] for endpoint in selected}
    choices = Counter(choice for endpoint in every for choice in _choices(page, endpoint))
    return {
        **behind(page),
        Place("endpoints"): AnyOrder([len(every), *choices.values(), len(selected)]),
        **table(
            "endpoints",
            [row for row in page.api("/api/dashboard/endpoints") if row["id"] in shown],
            "name",
            {
                "In flight": ["active_requests", if_any("slots")],
                "tok/s": ["tokens_per_second"],
                "Latency": [latency],
                "Attempts": ["total_requests"],
                "Failed": ["failed_requests"],
                "Models": ["model_count"],
            },
        ),
    }


def _choices(page: Shown, endpoint: Row) -> Iterator[tuple[str, str]]:
    """Return the filters, each with its number of results."""
    yield "status", endpoint["status"] if endpoint["operator_state"] == "enabled" else endpoint["operator_state"]
    yield "type", endpoint["endpoint_type"]
    yield from (("tag", tag) for tag in endpoint["tags"])
    yield from (("model", row["model_id"]) for row in page.api(f"/api/endpoints/{endpoint['id']}/models")["models"])


def endpoint(page: Shown) -> Reported:
    base, days = f"/api/endpoints/{page.known['endpoint_id']}", int(page.query.get("days", "30"))
    entry, health = page.api(base), page.api(f"{base}/health")
    row = next(row for row in page.api("/api/dashboard/endpoints") if row["id"] == entry["id"])
    counted = page.api(f"{base}/today-stats")
    slots = entry["max_concurrency"] or entry["learned_slots"] or entry["assumed_slots"] or ABSENT
    since = today() - timedelta(days=days - 1)
    used = page.api("/api/usage", by="model", since=since, endpoint_id=entry["id"])
    return {
        **behind(page),
        Place("what"): [row["active_requests"], health["days"]],
        **fact("what", "In flight", row["active_requests"], slots),
        **fact("what", "Today", counted["total_requests"], counted["failed_requests"]),
        **fact("what", "Attempts, all time", row["total_requests"], row["failed_requests"]),
        **fact(
            "what",
            "Success rate, all time",
            percent(row["successful_requests"], row["total_requests"]),
            row["cancelled_requests"],
        ),
        **fact("what", "Latency", *latency(row), _last_response(row)),
        **fact(
            "what",
            f"Uptime, {health['days']} days",
            _uptime(health),
            _milliseconds("online", "error", "offline")(health),
        ),
        **_by_day(page, base, days),
        **_health(health),
        **_by_model(page, base, days, entry["models"], used["rows"]),
        **cost_facts("costs", used),
        Place("costs"): [days if days > 1 else ABSENT],
        **token_details("details", used["total"]),
        Place("errors"): [(row["attempt"] or {}).get("status_code") or ABSENT for row in page.api(f"{base}/failures")],
        Place("offered"): [len(entry["models"])],
        **table("offered", entry["models"], "model_id", {"Context": ["max_tokens"]}),
        **table("speeds", page.api(f"{base}/model-tps"), "model_id", {"tok/s": ["tps"]}),
        **_about(entry, health, slots),
    }


def _last_response(row: Row) -> Any:
    """Return the time since the last response; pages write "just now" within the first minute."""
    if not row["last_seen"]:
        return None
    elapsed = since(row["last_seen"])
    return elapsed if elapsed >= MINUTE else ABSENT


def _by_day(page: Shown, base: str, days: int) -> Reported:
    by_date = {row["date"]: row for row in page.api(f"{base}/daily-stats", days=days)}
    none = dict.fromkeys(("total_requests", "successful_requests", "failed_requests"), 0)
    rows = [
        none | {"date": day} | by_date.get(day, {})
        for day in ((today() - timedelta(days=ago)).isoformat() for ago in range(days))
    ]
    ok, failed = (sum(row[name] for row in rows) for name in ("successful_requests", "failed_requests"))
    return {
        Place("by-day"): [7 * DAY, 30 * DAY, 90 * DAY],  # the choices
        **fact("by-day", "OK", ok),
        **fact("by-day", "Failed", failed),
        **fact("by-day", "Success", percent(ok, ok + failed)),
        # The data of the chart
        **{Place("by-day", row["date"]): [row["successful_requests"], row["failed_requests"]] for row in rows},
        **table(
            "by-day",
            rows,
            "date",
            {
                "Attempts": ["total_requests"],
                "OK": ["successful_requests"],
                "Failed": ["failed_requests"],
                "Success": [lambda row: percent(row["successful_requests"], row["total_requests"])],
            },
        ),
    }


def _uptime(health: Row) -> float | None:
    return None if health["uptime"] is None else 100 * health["uptime"]


def _milliseconds(*states: str) -> Callable[[Row], float]:
    return lambda day: sum(1000.0 * day["seconds"][state] for state in states)


def _health(health: Row) -> Reported:
    low = [_uptime(day) for day in health["by_day"] if day["uptime"] is not None and day["uptime"] < 0.99]
    spans = [1000 * span["duration_secs"] for span in health["spans"][:8]]
    named: dict[str, Sequence[Column]] = {state.capitalize(): [_milliseconds(state)] for state in STATES}
    return {
        # Twice in the drawing: for screen readers, and visible.
        Place("health"): [health["days"], health["days"], *low, *low, *spans],
        **fact("health", "Uptime", _uptime(health)),
        **table(
            "health",
            health["by_day"],
            "date",
            {"Uptime": [_uptime], **named, "Unknown": [_milliseconds("unknown", "pending")]},
        ),
    }


def _by_model(page: Shown, base: str, days: int, models: list[Row], used: list[Row]) -> Reported:
    by_model = {row["model_id"]: row for row in used}
    context = {name: model["max_tokens"] for model in models for name in (model["canonical_name"], model["model_id"])}
    return {
        Place("by-model"): [days if days > 1 else ABSENT],
        **table(
            "by-model",
            page.api(f"{base}/model-stats", days=days),
            "model_id",
            {
                "Context": [lambda row: context.get(row["model_id"])],
                "Attempts": ["total_requests"],
                "Success": [lambda row: percent(row["successful_requests"], row["total_requests"])],
                "tok/s": ["tokens_per_second"],
                "TTFT, median": ["p50_first_token_ms"],
                "Duration, median": ["p50_duration_ms"],
                "Output tokens": ["output_tokens"],
                "Cost": [lambda row: cost(by_model[row["model_id"]]) if row["model_id"] in by_model else [None]],
            },
        ),
    }


def _about(entry: Row, health: Row, slots: Any) -> Reported:
    known = [milliseconds for milliseconds in health["latencies_ms"] if milliseconds is not None]
    line = [len(health["latencies_ms"]), min(known), max(known), 0, max(known)] if len(known) > 1 else [None]
    timeout, total = entry["inference_timeout_secs"], entry["total_timeout_secs"]
    return {
        **fact("about", "Health check interval", 1000 * entry["health_check_interval_secs"]),
        **fact("about", "Latest health checks", *line),
        **fact("about", "Timeout", 1000 * timeout),
        **fact("about", "A response that is not streamed", 1000 * (600 if timeout == 120 else timeout)),
        **fact("about", "Connect", 1000 * (entry["connect_timeout_secs"] or 5)),
        **fact(
            "about",
            "Between two events of a stream",
            1000 * (entry["idle_timeout_secs"] or timeout),
        ),
        **fact("about", "A whole stream", 1000 * total if total else ABSENT),
        **fact("about", "Requests at a time", slots),
        **fact("about", "Tier", entry["tier"] or 1),
        **fact("about", "Cost weight", entry["cost_weight"] or 1),
    }


# Responses to forms. `query` has the sent fields.

DEADLINES = [60_000, 300_000, 1_800_000]  # the choices
PROBE_TIME = Between(1, 15_000)  # milliseconds until a server that does not respond is given up


def confirmation(page: Shown) -> Reported:
    """Return the selected endpoints with their running requests."""
    rows = [row for row in page.api("/api/dashboard/endpoints") if row["id"] in page.query["endpoint"]]
    running = sum(row["active_requests"] for row in rows)
    return {
        Place("ask"): [len(rows), running, *(DEADLINES if page.query["action"] == "drain" else [])],
        **table("ask", rows, "name", {"In flight": ["active_requests"]}),
    }


def discovered(page: Shown) -> Reported:
    """Return the discovered servers; closed ports are listed below."""
    places = page.post("/api/endpoints/discover")["places"]
    new = [place for place in places if not place["registered"]]
    silent = [place["port"] for place in new if not place["listens"]]
    return {Place("discover"): [figure for place in new if place["listens"] for figure in _there(place)] + silent}


def _there(place: Row) -> list[Any]:
    """Return the status of a server that cannot be added as it is."""
    if place["endpoint_type"]:
        return [len(place["models"]), place["slots"] or ABSENT, PROBE_TIME]
    return [int(digits) for digits in re.findall(r"\d+", place["problem"])]


def detected(page: Shown) -> Reported:
    return detected_details(
        page.post("/api/endpoints/detect", base_url=page.query["base_url"]) | {"latency_ms": PROBE_TIME}
    )


def detected_details(reported: Row) -> Reported:
    """Return the details of a server, next to the form that adds it."""
    return {
        **fact("there", "Latency", reported["latency_ms"]),
        **fact("there", "Requests at a time", reported["slots"] or reported["assumed_slots"]),
        Place("there"): [len(reported["models"]), *(model["max_tokens"] or ABSENT for model in reported["models"])],
    }


# Models


def models(page: Shown) -> Reported:
    rows = page.api("/api/dashboard/models", **page.query)["data"]
    return {
        Place("all"): [len(rows)],
        **table(
            "all",
            rows,
            "id",
            {
                "Endpoints": [lambda row: [offer["fastest_tps"] or ABSENT for offer in row["endpoints"]]],
                "Online": ["endpoints_online", lambda row: len(row["endpoints"])],
                "Context": ["max_tokens"],
                "tok/s": ["fastest_tps"],
                "Today": ["requests_today"],
                "7 days": ["requests_7_days", if_any("failed_7_days")],
                "Cost, 7 days": [lambda row: cost(row["costs_7_days"])],
            },
        ),
    }


def model(page: Shown) -> Reported:
    name = page.known["name"]
    row = page.api(f"/api/dashboard/models/{quote(name)}")
    kind = next((kind.name for kind in request_kinds.KINDS if kind.name in row["supported_apis"]), None)
    route = page.api("/api/route", model=name, kind=kind)["endpoints"] if row["endpoints"] else []
    return {
        **fact("what", "Online endpoints", row["endpoints_online"], len(row["endpoints"])),
        **fact("what", "Context", row["max_tokens"]),
        **fact("what", "Tokens per second", row["fastest_tps"]),
        **fact("what", "Requests today", row["requests_today"], row["failed_today"]),
        **fact("what", "Requests, 7 days", row["requests_7_days"], row["failed_7_days"]),
        **fact("what", "Cancelled, 7 days", row["cancelled_7_days"]),
        **fact("what", "Output tokens, 7 days", row["output_tokens_7_days"]),
        **cost_facts("costs", row["costs"]),
        **token_details("details", row["token_details"]),
        **table(
            "who",
            row["endpoints"],
            "endpoint_name",
            {
                "Context": ["max_tokens"],
                "In flight": ["active_requests", if_any("max_concurrency")],
                "tok/s": [lambda offer: [speed["tps"] for speed in offer["speeds"]] or None],
            },
        ),
        **table("where", route, "name", {"In flight": ["in_flight", if_any("max_concurrency")]}),
        **table(
            "days",
            row["days"],
            "day",
            {
                "OK": ["successful_requests"],
                "Failed": ["failed_requests"],
                "Cancelled": ["cancelled_requests"],
                "Output tokens": ["output_tokens"],
                "Average": ["average_duration_ms"],
                "Cost": [cost],
            },
        ),
    }


# Requests


def ended(row: Row) -> str:
    """Format a time as lists do."""
    is_today = local_time(row["completed_at"], "%Y-%m-%d") == str(today())
    return local_time(row["completed_at"], "%H:%M:%S" if is_today else "%m-%d %H:%M:%S")


def requests(page: Shown) -> Reported:
    query = {name: value for name, value in page.query.items() if name != "id"}
    wanted = [float(query[name]) for name in ("min_tokens", "min_duration_ms", "status_code") if name in query]
    return {Place("rq-h"): wanted * 2} | table(  # in the filters and in the form
        "rq-h",
        page.api("/api/requests", **query)["requests"],
        ended,
        {
            "Outcome": [lambda row: ABSENT if row["status_code"] in (None, 0, 200) else row["status_code"]],
            "Endpoint": [lambda row: len(row["attempts"]) if len(row["attempts"]) > 1 else ABSENT],
            "In / out": ["input_tokens", "output_tokens"],
            "tok/s": ["tokens_per_second"],
            "Cost": [lambda row: money(row["cost"])],
            "Duration": ["duration_ms"],
        },
    )


def request(page: Shown) -> Reported:
    row = page.api(f"/api/requests/{page.known['request_id']}")
    return {
        Place("what"): [row["status_code"] or ABSENT],
        **fact("what", "Duration", row["duration_ms"]),
        **fact("what", "Queue time", row["queue_ms"]),
        **fact("what", "Time to first token", row["first_token_ms"]),
        **fact("what", "Tokens (in / out)", row["input_tokens"], row["output_tokens"]),
        **fact("what", "Tokens per second", row["tokens_per_second"]),
        **fact("what", "Cost", *_cost_of_request(row)),
        **_cost_parts(row),
        **fact("who", "Cached (read / written)", row["cached_tokens"], row["cache_write_tokens"]),
        **fact("who", "Reasoning tokens", row["reasoning_tokens"]),
        **_time("time", row),
        **_way("why", row["attempts"]),
    }


def _cost_of_request(row: Row) -> list[Any]:
    is_converted = row["currency"] not in (None, "USD") and row["reporting_cost"]
    return [*(money(row["cost"]) if row["cost"] else []), *(money(row["reporting_cost"]) if is_converted else [])]


PARTS = {"input": "Other input tokens", "output": "Other output tokens", "cached": "Cached input tokens"}


def _cost_parts(row: Row) -> Reported:
    columns: dict[str, Sequence[Column]] = {
        "Quantity": ["count"],
        "Price": [lambda part: money(part["amount"])],
        "Cost": [lambda part: money(part["cost"])],
    }
    total = [{"cost": row["cost"]}] if row["cost_parts"] else []
    return {
        **table("cost", row["cost_parts"], lambda part: PARTS[part["part"]], columns),
        **table("cost", total, lambda _: "Total", {"Cost": [lambda total_row: money(total_row["cost"])]}),
    }


def bodies(page: Shown) -> Reported:
    """A request's page with its bodies."""
    return {**request(page), Place("bo"): [row["attempt"] or ABSENT for row in error_texts(page)]}


def error_texts(page: Shown) -> list[Row]:
    """Return error responses of endpoints, by attempt."""
    responses: list[Row] = page.api(f"/api/requests/{page.known['request_id']}/bodies")["endpoint_errors"]
    return responses


def drawer(page: Shown) -> Reported:
    """A request next to the list, all in one panel."""
    row = page.api(f"/api/requests/{page.known['request_id']}")
    reported = {**_time("dr-h", row), **_way("dr-h", row["attempts"])}
    reported[Place("dr-h")] = [
        row["status_code"] or ABSENT,
        *_time("", row)[Place("")],
        *_way("", row["attempts"])[Place("")],
    ]
    return {
        **requests(page),
        **reported,
        **fact("dr-h", "Tokens (in / out)", row["input_tokens"], row["output_tokens"]),
        **fact("dr-h", "Tokens per second", row["tokens_per_second"]),
        **fact("dr-h", "Cost", *_cost_of_request(row)),
        **fact("dr-h", "Cached (read / written)", row["cached_tokens"], row["cache_write_tokens"]),
        **fact("dr-h", "Reasoning tokens", row["reasoning_tokens"]),
    }


def _time(panel: str, row: Row) -> Reported:
    """Return begin and duration of each part of a request."""
    parts: list[tuple[str, float, float]] = []
    whole, tries = row["duration_ms"], row["attempts"]
    numbers: list[Any] = []
    for number, attempt in enumerate(tries, 1):
        start, length = attempt["at_ms"] or 0, attempt["duration_ms"]
        first, last = row["first_token_ms"], number == len(tries)
        whole = max(whole, start + length)
        if last and first is not None and start <= first <= start + length:
            parts += [("Time to first token", start, first - start), ("Stream", first, start + length - first)]
        else:
            parts.append(("Response" if last else f"Attempt {number}", start, length))
            numbers += [ABSENT if last else number]
    if row["queue_ms"] is not None:
        starts = [start for _, start, _ in parts if start >= row["queue_ms"]]
        parts.append(("Queue", min(starts, default=whole) - row["queue_ms"], row["queue_ms"]))
    reported: Reported = {Place(panel): [whole, *numbers]}
    for name, start, length in parts:
        reported.setdefault(Place(panel, "", name), []).extend([start, length])
    return reported


def _way(panel: str, attempts: list[Row]) -> Reported:
    reported: Reported = {Place(panel): []}
    for number, attempt in enumerate(attempts, 1):
        reported[Place(panel)] += [
            number,
            attempt["status_code"] or ABSENT,
            attempt["duration_ms"],
            *_foretold(attempt),
        ]
        candidates = [
            *table(panel, attempt["scores"], "endpoint_name", {"In flight": ["in_flight"]}).items(),
            *table(panel, attempt["costs"], "endpoint_name", {"Cost": ["cost_ms"]}).items(),
        ]
        for place, figures in candidates:
            reported.setdefault(place, []).extend(figures)
    return reported


def _foretold(attempt: Row) -> list[Any]:
    """Return what adaptive routing expected of an attempt, beside its duration."""
    work = attempt["work"]
    return [work["expected_ms"], attempt["duration_ms"], work["prefix_tokens"] or ABSENT] if work else []


# Running requests


def live(page: Shown) -> Reported:
    reported = page.api("/api/live")
    return {
        # The notice that there are more is hidden if there are none.
        Place("running"): [reported["running_total"], MOST_LIVE],
        Place("waiting"): [reported["waiting_total"], MOST_LIVE],
        **table(
            "running",
            reported["running"],
            "model",
            {"Age": ["age_ms"], "Tokens": [lambda row: row["deltas"] if row["streamed"] else None]},
        ),
        **table("waiting", reported["waiting"], "model", {"Age": ["age_ms"], "Position": ["position"]}),
    }


def token_details(panel: str, row: Row) -> Reported:
    """Return tokens that only some servers report, each with its share of those that did."""
    reported = fact(panel, "Tokens written to caches", row["cache_write_tokens"])
    for label, part, whole in (
        ("Cached input tokens", "cached_tokens", "cached_of_tokens"),
        ("Requests with cached tokens", "cache_hits", "cache_reports"),
        ("Reasoning tokens", "reasoning_tokens", "reasoning_of_tokens"),
    ):
        reported |= fact(panel, label, row[part], *([percent(row[part], row[whole]), row[whole]] if row[whole] else []))
    return reported


MINUTES_PAST = 45  # the hour in that zone at the start of an hour of UTC


# Clients


def clients(page: Shown) -> Reported:
    span = page.query.get("range", "24h")
    ranking = page.api("/api/dashboard/clients", range=span, per_page=50)
    marked = sum(row["is_alert"] for row in ranking["rankings"])
    threshold = int(page.api("/api/dashboard/settings/ip_alert_threshold")["value"])
    return {
        **_hours(page.api("/api/dashboard/clients/timeline", range=span), every=True),
        Place("ranking"): [ranking["total_count"], marked or ABSENT, threshold],
        **table(
            "ranking",
            ranking["rankings"],
            "ip",
            {
                "Requests": ["request_count"],
                "Failed": ["failed_count"],
                "Input tokens": ["input_tokens"],
                "Output tokens": ["output_tokens"],
                "Keys": ["api_key_count"],
            },
        ),
        **_heat(page.api("/api/dashboard/clients/heatmap", time_zone=ZONE.key)),
        **_shares(page.api("/api/dashboard/clients/models", range=span)),
    }


def client(page: Shown) -> Reported:
    name = page.known["client"]
    base, span = f"/api/dashboard/clients/{name}", page.query.get("range", "24h")
    detail = page.api(f"{base}/detail")
    return {
        **fact("who", "Requests", detail["total_requests"]),
        **fact("who", "Failed", detail["failed_requests"]),
        **fact("who", "Cancelled", detail["cancelled_requests"]),
        **fact("who", "Input tokens", detail["input_tokens"]),
        **fact("who", "Output tokens", detail["output_tokens"]),
        **_hours(page.api(f"{base}/timeline", range=span), every=False),
        **_heat(page.api("/api/dashboard/clients/heatmap", ip=name, time_zone=ZONE.key)),
        **_shares(detail["model_distribution"]),
        **table(
            "keys",
            page.api(f"{base}/api-keys"),
            lambda row: row["name"] or f"deleted: {row['api_key_id']}",
            {"Requests": ["request_count"]},
        ),
        **table(
            "recent",
            detail["recent_requests"],
            lambda row: local_time(row["timestamp"], "%Y-%m-%d %H:%M:%S"),
            {"Duration": ["duration_ms"]},
        ),
    }


def _hours(rows: list[Row], *, every: bool) -> Reported:
    columns: dict[str, Sequence[Column]] = {
        "Requests": ["request_count"],
        "Failed": ["failed_count"],
        **({"Clients": ["unique_ips"]} if every else {}),
        "Input tokens": ["input_tokens"],
        "Output tokens": ["output_tokens"],
    }
    return table("hours", rows, lambda row: local_time(f"{row['hour']}+00:00", "%Y-%m-%d %H:%M"), columns)


def _heat(cells: list[Row]) -> Reported:
    names = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
    counts = [cell["count"] for cell in cells]
    most = max(counts)
    scale = [most, 0, *{math.ceil(most * share) for share in (1 / 16, 1 / 4, 9 / 16, 1)}] if most else []
    # Hours are above the drawing and above the table, and below it at their beginning.
    return {
        Place("heat"): AnyOrder([*counts, *scale, *range(0, 24, 3), *range(24), MINUTES_PAST]),
        **{Place("heat", names[cell["day_of_week"]], f"{cell['hour']:02d}"): [cell["count"]] for cell in cells},
    }


def _shares(rows: list[Row]) -> Reported:
    return table("models", rows[:12], "model", {"Requests": ["request_count"], "Share": ["percentage"]})


# Figures that only a script writes


def overview_with_script(page: Shown) -> Reported:
    history = page.api("/api/dashboard/request-history")
    ok, failed = (sum(slot[name] for slot in history) for name in ("success", "error"))
    read = {"OK": ok, "Failed": failed, "Success": percent(ok, ok + failed)}
    return overview(page) | written("minutes", read)


def endpoint_with_script(page: Shown) -> Reported:
    running = [row for row in page.api("/api/live")["running"] if row["endpoint_id"] == page.known["endpoint_id"]]
    return {
        **endpoint(page),
        Place("now"): [len(running)],
        **table(
            "now",
            running,
            "model",
            {"Tokens": [lambda row: row["deltas"] if row["streamed"] else None], "Age": ["age_ms"]},
        ),
    }


def live_with_script(page: Shown) -> Reported:
    """Return the speed of a stream since its first token."""
    rows = page.api("/api/live")["running"]
    columns: dict[str, Sequence[Column]] = {"tok/s": [_pace]}
    return live(page) | table("running", rows, "model", columns)


def _pace(row: Row) -> float:
    return float(1000 * row["deltas"] / (row["age_ms"] - row["first_token_ms"]))


def clients_with_script(page: Shown) -> Reported:
    known = page.api("/api/dashboard/clients")["total_count"]
    return clients(page) | written("hours", _sums(page.api("/api/dashboard/clients/timeline")) | {"Clients": known})


def client_with_script(page: Shown) -> Reported:
    return client(page) | written("hours", _sums(page.api(f"/api/dashboard/clients/{page.known['client']}/timeline")))


def _sums(hours: list[Row]) -> dict[str, int]:
    sent, failed = (sum(hour[name] for hour in hours) for name in ("request_count", "failed_count"))
    return {"OK or cancelled": sent - failed, "Failed": failed}


def written(panel: str, read: dict[str, Any]) -> Reported:
    return {Place(panel, "", name): [figure] for name, figure in read.items()}
