"""Figures that scripts of pages and Prometheus must receive: those of the API under other names."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from itertools import product
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from gateway.ipc import record
from gateway.routing import adaptive
from metrics.counting.choices import REASONS
from tests.expected_figures import Row, Shown, speeds, today
from tests.router import PASSING

# Fields that change without any request, in addition to those that a restart may change.
MOVING = {*PASSING, "average_response_time_ms"}
EVER = 150  # days: older than any sent request

LEARNED = "routerdash_endpoint_learned_seconds"

LearnedSeconds = dict[str, float]  # by parameter: setup, read, write, share
Samples = dict[tuple[str, ...], float]  # by the metric's name and the values of its labels


# The overview's script


def overview(page: Shown) -> Row:
    """Return the expected figures of the page and its events."""
    endpoints = page.api("/api/dashboard/endpoints")
    model_speeds = speeds(page, endpoints)
    return {
        "stats": steady(page.api("/api/dashboard/stats")),
        "endpoints": endpoints,
        "history": page.api("/api/dashboard/request-history"),
        "minutes": page.api("/api/dashboard/minutes"),
        "busiest": page.api("/api/dashboard/busiest"),
        "attention": page.api("/api/dashboard/attention"),
        "marks": page.api("/api/dashboard/marks"),
        "speeds": model_speeds,
        "speeds_known": len(model_speeds),
    }


def steady(stats: Row) -> Row:
    return {name: value for name, value in stats.items() if name not in MOVING}


def scripted(reported: Row, api: Row) -> Row:
    """Return the figures of a script: of endpoints, those that may change while a page is open, in its order."""
    names = reported["endpoints"][0].keys()
    rows = {row["id"]: {name: row[name] for name in names} for row in api["endpoints"]}
    assert {"total_requests", "failed_requests", "active_requests", "model_count", "latency_ms"} <= names
    states = Counter(
        row["status"] if row["operator_state"] == "enabled" else row["operator_state"] for row in rows.values()
    )
    return api | {
        "endpoints": [rows[row["id"]] for row in reported["endpoints"]],
        "marks": marks(api),
        "states": dict(states),
        "attention_count": len(api["attention"]),
        "endpoints_digest": reported["endpoints_digest"],
        "states_digest": reported["states_digest"],
    }


def marks(api: Row) -> Row:
    """Return number and time of the endpoint events, by which a page notices new ones."""
    return {"count": len(api["marks"]), "last_at": api["marks"][-1]["at"]}


def event(text: str) -> Row:
    """Return the figures of the first event of a stream."""
    data = next(line for line in text.splitlines() if line.startswith("data: "))
    figures: Row = json.loads(data.removeprefix("data: "))
    return figures


# Prometheus: labels in the order of their names

SPEED = ("endpoint_id", "endpoint_name", "api_kind", "model_id")


def scraped(page: Shown) -> Samples:
    families = text_string_to_metric_families(page.busy.router.get("/metrics").body.decode())
    samples = (row for family in families for row in family.samples)
    return {(row.name, *(value for _, value in sorted(row.labels.items()))): row.value for row in samples}


def learned_seconds(page: Shown) -> dict[tuple[str, str, str], LearnedSeconds]:
    """Return the parameters of adaptive routing by endpoint, kind and model: only Prometheus has each of them."""
    learned: dict[tuple[str, str, str], LearnedSeconds] = {}
    for (name, *labels), seconds in scraped(page).items():
        if name == LEARNED:
            endpoint_id, _, kind, model, parameter = labels
            learned.setdefault((endpoint_id, kind, model), {})[parameter] = seconds
    return learned


def prometheus(page: Shown) -> Samples:
    stats, endpoints = page.api("/api/dashboard/stats"), page.api("/api/dashboard/endpoints")
    return {
        **{key: float(value) for key, value in _totals(stats) if value is not None},
        **{key: float(value) for row in endpoints for key, value in _endpoint(row) if value is not None},
        **_speeds(page, endpoints),
        **_usage(page, endpoints),
        **_costs(page, endpoints),
        **_response_durations(page),
        **_choices(page.api("/api/requests", limit=500)["requests"]),
        **{("routerdash_endpoint_slowdown", row["id"], row["name"]): 1.0 for row in endpoints},
    }


def _choices(requests: list[Row]) -> Samples:
    """Return the totals of requests that were routed adaptively; no endpoint of the sample reports cached tokens."""
    routed = [row for row in requests if row["attempts"] and row["attempts"][-1]["work"]]
    reasons = Counter(attempt["reason"] for row in routed for attempt in row["attempts"])
    ok = [row["attempts"][-1] for row in routed if row["outcome"] == record.OK]
    foretold = [attempt for attempt in ok if attempt["work"]["expected_ms"] and not attempt["work"]["is_cold"]]
    late = [row["queue_ms"] or 0 for row in routed if row["attempts"][-1]["reason"] == adaptive.WAITED]
    return {
        **{("routerdash_routing_choices_total", reason): float(reasons[reason]) for reason in REASONS},
        **{("routerdash_routing_prefix_tokens_total", prefix): 0.0 for prefix in ("expected", "found")},
        ("routerdash_routing_late_binding_seconds_total",): sum(late) / 1000,
        ("routerdash_routing_expected_seconds_total",): sum(attempt["work"]["expected_ms"] for attempt in foretold)
        / 1000,
        ("routerdash_routing_actual_seconds_total",): sum(attempt["duration_ms"] for attempt in foretold) / 1000,
        ("routerdash_routing_cold_loads_total",): sum(row["attempts"][-1]["work"]["is_cold"] for row in routed),
    }


def _totals(stats: Row) -> Iterator[tuple[tuple[str, ...], Any]]:
    for outcome, name in (("ok", "successful"), ("failed", "failed"), ("cancelled", "cancelled")):
        yield ("routerdash_requests_total", outcome), stats[f"{name}_requests"]
    for direction in ("input", "output"):
        yield ("routerdash_tokens_total", direction), stats[f"total_{direction}_tokens"]
    details = {
        "cached_input": "cached", "cache_reporting_input": "cached_of", "cache_write_input": "cache_write",
        "reasoning_output": "reasoning",
    }  # fmt: skip
    for direction, name in details.items():
        if (tokens := stats[f"total_{name}_tokens"]) is not None:
            yield ("routerdash_tokens_total", direction), tokens
    for reason, count in stats["rejected_by_reason"].items():
        yield ("routerdash_rejected_requests_total", reason), count
    for bound, count in stats["bound_hits"].items():
        yield ("routerdash_bound_hits_total", bound), count
    yield ("routerdash_journal_damaged_bytes_total",), stats["journal_damaged_bytes"]
    yield ("routerdash_in_flight_requests",), stats["total_active_requests"]
    yield ("routerdash_queued_requests",), stats["queued_requests"]
    yield ("routerdash_average_response_time_seconds",), stats["average_response_time_ms"] / 1000
    yield ("routerdash_records_waiting_seconds",), stats["records_waiting_secs"]
    for name in ("records_waiting", "records_unrecorded", "figures_restored", "figures_version"):
        yield (f"routerdash_{name}",), stats[name]


def _endpoint(row: Row) -> Iterator[tuple[tuple[str, ...], Any]]:
    labels = row["id"], row["name"]
    latency = None if row["latency_ms"] is None else row["latency_ms"] / 1000
    yield ("routerdash_endpoint_attempts_total", *labels, "ok"), row["successful_requests"]
    yield ("routerdash_endpoint_attempts_total", *labels, "failed"), row["failed_requests"]
    yield ("routerdash_endpoint_cancelled_total", *labels), row["cancelled_requests"]
    yield ("routerdash_endpoint_in_flight_requests", *labels), row["active_requests"]
    yield ("routerdash_endpoint_slots", *labels), row["slots"]
    yield ("routerdash_endpoint_latency_seconds", *labels), latency
    yield ("routerdash_endpoint_breaker_open", *labels), row["breaker"] == "open"
    for status in ("pending", "online", "offline", "error"):
        yield ("routerdash_endpoint_status", *labels, status), row["status"] == status
    for state in ("enabled", "draining", "disabled"):
        yield ("routerdash_endpoint_operator_state", *labels, state), row["operator_state"] == state
    for cause in ("limited", "overloaded", "money", "key_refused"):
        yield ("routerdash_endpoint_paused", cause, *labels), row["pause_cause"] == cause


def _speeds(page: Shown, endpoints: list[Row]) -> Samples:
    return {
        ("routerdash_endpoint_tokens_per_second", *(row[name] for name in SPEED)): row["tps"]
        for row in speeds(page, endpoints)
        if row["tps"] is not None
    }


def _usage(page: Shown, endpoints: list[Row]) -> Samples:
    """Tokens by endpoint over all days, and durations of responses by the rows of the history."""
    used = page.api("/api/usage", by="endpoint", since=today() - timedelta(days=EVER), until=today())["rows"]
    tokens = {row["endpoint_id"]: row for row in used}
    durations = [row for row in page.busy.history() if row.outcome == record.OK]
    counts = Counter(row.endpoint_id for row in durations)
    samples: Samples = {}
    for row, direction in product(endpoints, ("input", "output")):
        labels = row["id"], row["name"]
        count = tokens.get(row["id"], {}).get(f"{direction}_tokens", 0)
        samples["routerdash_endpoint_tokens_total", direction, *labels] = count
        samples["routerdash_endpoint_answer_seconds_count", *labels] = counts[row["id"]]
        took = sum(response.duration_ms for response in durations if response.endpoint_id == row["id"])
        samples["routerdash_endpoint_answer_seconds_sum", *labels] = took / 1000
    return samples


def _costs(page: Shown, endpoints: list[Row]) -> Samples:
    """Costs by endpoint and model, and the finished requests at each endpoint without a cost."""
    rows = [row for row in page.api("/api/requests", limit=500)["requests"] if row["endpoint_id"]]
    sums: dict[tuple[str, ...], Decimal] = {}
    for row in rows:
        if row["cost"] is not None:
            labels = row["currency"], row["endpoint_id"], row["endpoint_name"], row["served_model"] or row["model"]
            for key in (("routerdash_endpoint_cost_total", *labels), ("routerdash_cost_total", labels[0])):
                sums[key] = sums.get(key, Decimal(0)) + Decimal(row["cost"])
    samples: Samples = {key: float(cost) for key, cost in sums.items()}
    unpriced = Counter(row["endpoint_id"] for row in rows if row["cost"] is None)
    for row in endpoints:
        samples["routerdash_endpoint_unpriced_requests_total", row["id"], row["name"]] = unpriced[row["id"]]
    return samples


def _response_durations(page: Shown) -> Samples:
    """Return the numbers of successful requests by the powers of two in µs that are above their durations."""
    took = [round(1000 * row.duration_ms) for row in page.busy.history() if row.outcome == record.OK]
    bounds = [2**power for power in range(13, 29)]
    return {
        **{("routerdash_answer_seconds_bucket", str(bound / 1e6)): sum(us < bound for us in took) for bound in bounds},
        ("routerdash_answer_seconds_bucket", "+Inf"): len(took),
        ("routerdash_answer_seconds_count",): len(took),
        ("routerdash_answer_seconds_sum",): sum(took) / 1e6,
    }
