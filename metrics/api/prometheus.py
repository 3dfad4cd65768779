"""GET /metrics: the figures of metrics.queries.figures in Prometheus's text format 0.0.4.

Values that are null in the JSON API are omitted. Counters are omitted until all figures are restored: Prometheus would
treat the smaller values as a reset, and the restored ones as an increase.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector

from endpoints.models import OperatorState, Status
from endpoints.registry import Entry
from gateway.prices.book import NANO
from metrics.costs.hardware_totals import HardwareCosts, by_currency
from metrics.costs.totals import CostTotalsNow
from metrics.counting import choices
from metrics.counting.cells import EndpointUsage
from metrics.counting.totals import DURATIONS_US, PROMETHEUS_BUCKETS, duration_total
from metrics.learning.current_slowdowns import slowdowns
from metrics.learning.learned_models import learned_speeds
from metrics.queries import breakers, figures
from metrics.queries.figures import Moment
from metrics.queries.payloads import DashboardEndpointPayload, StatsPayload
from metrics.spending.gauges import limit_gauges

ENDPOINT = ("endpoint_id", "endpoint_name")
Samples = Iterable[tuple[Any, ...]]  # values of the labels, then the metric's value or None


__all__ = ["CONTENT_TYPE", "MomentCollector", "text"]


def text(moment: Moment) -> bytes:
    registry = CollectorRegistry()
    registry.register(MomentCollector(moment))
    return generate_latest(registry)


class MomentCollector(Collector):
    """Collector of all metrics at one moment."""

    def __init__(self, moment: Moment) -> None:
        self.moment = moment

    def collect(self) -> Iterator[Metric]:
        stats, endpoints = figures.stats(self.moment), figures.endpoints(self.moment)
        if stats["figures_restored"]:
            yield from _totals(stats)
            yield _response_times(self.moment.figures.totals)
            yield from _choices(self.moment.figures.totals)
            yield from _endpoint_totals(endpoints)
            yield from _endpoint_usage(self.moment)
            if self.moment.costs is not None:
                yield from _costs(self.moment.costs, self.moment.entries)
            if self.moment.hardware is not None:
                yield from _hardware(self.moment.hardware, self.moment.entries)
        yield from _stats_now(stats)
        yield from _endpoints_now(endpoints)
        slots = [(entry.id, entry.name, entry.slots) for entry in self.moment.entries]
        yield _gauge(
            "routerdash_endpoint_slots",
            "Slots of the endpoint: its maximum number of concurrent requests.",
            slots,
            ENDPOINT,
        )
        slow = slowdowns.factors(time.time())
        yield _gauge(
            "routerdash_endpoint_slowdown",
            "By what factor requests take longer than before, beside as many others; 1 if they do not.",
            [(entry.id, entry.name, slow.get(entry.id, 1.0)) for entry in self.moment.entries],
            ENDPOINT,
        )
        yield _learned(self.moment)
        yield from limit_gauges()
        speeds = [
            (entry.id, entry.name, row["model_id"], row["api_kind"], row["tps"])
            for entry, row in figures.all_model_tps(self.moment)
        ]
        yield _gauge(
            "routerdash_endpoint_tokens_per_second",
            "Output tokens per second of whole responses, moving average.",
            speeds,
            (*ENDPOINT, "model", "kind"),
        )


def _totals(stats: StatsPayload) -> Iterator[Metric]:
    requests = [
        ("ok", stats["successful_requests"]),
        ("failed", stats["failed_requests"]),
        ("cancelled", stats["cancelled_requests"]),
    ]
    tokens = [
        ("input", stats["total_input_tokens"]),
        ("output", stats["total_output_tokens"]),
        ("cached_input", stats["total_cached_tokens"]),
        ("cache_reporting_input", stats["total_cached_of_tokens"]),
        ("cache_write_input", stats["total_cache_write_tokens"]),
        ("reasoning_output", stats["total_reasoning_tokens"]),
    ]
    reasons = stats["rejected_by_reason"].items()
    damaged = [(stats["journal_damaged_bytes"],)]
    yield _counter("routerdash_requests_total", "Finished requests.", requests, ("outcome",))
    yield _counter(
        "routerdash_rejected_requests_total", "Requests rejected by RouterDash itself.", reasons, ("reason",)
    )
    hits = stats["bound_hits"].items()
    yield _counter("routerdash_bound_hits_total", "Hits of bounds; see docs/reference/bounds.md.", hits, ("bound",))
    yield _counter("routerdash_tokens_total", "Tokens of finished requests.", tokens, ("direction",))
    yield _counter("routerdash_journal_damaged_bytes_total", "Bytes of journals that could not be read.", damaged)


def _endpoint_totals(endpoints: list[DashboardEndpointPayload]) -> Iterator[Metric]:
    attempts = [
        (row["id"], row["name"], outcome, count)
        for row in endpoints
        for outcome, count in (("ok", row["successful_requests"]), ("failed", row["failed_requests"]))
    ]
    yield _counter(
        "routerdash_endpoint_attempts_total",
        "Attempts at the endpoint, without cancelled ones.",
        attempts,
        (*ENDPOINT, "outcome"),
    )
    yield _counter(
        "routerdash_endpoint_cancelled_total",
        "Cancelled requests at the endpoint.",
        [(row["id"], row["name"], row["cancelled_requests"]) for row in endpoints],
        ENDPOINT,
    )


def _response_times(totals: Mapping[str, int]) -> Metric:
    """Return the histogram of durations, with the bucket bounds of PROMETHEUS_BUCKETS."""
    family = HistogramMetricFamily("routerdash_answer_seconds", "Durations of successful requests.")
    below, buckets = 0, []
    for bucket in PROMETHEUS_BUCKETS:
        below += totals.get(duration_total(bucket), 0)
        buckets.append(("+Inf" if bucket == PROMETHEUS_BUCKETS[-1] else str(2**bucket / 1e6), float(below)))
    family.add_metric([], buckets, totals.get(DURATIONS_US, 0) / 1e6)
    return family


def _choices(totals: Mapping[str, int]) -> Iterator[Metric]:
    """Yield the totals of adaptive routing."""
    reasons = [(reason, totals.get(choices.CHOICES + reason, 0)) for reason in choices.REASONS]
    yield _counter(
        "routerdash_routing_choices_total", "Attempts by the reason for their endpoint.", reasons, ("reason",)
    )
    for name, documentation, total in (
        ("late_binding_seconds", "Time for which requests waited for a better endpoint.", choices.LATE_US),
        ("expected_seconds", "Expected durations of successful attempts.", choices.EXPECTED_US),
        ("actual_seconds", "Actual durations of the same attempts.", choices.ACTUAL_US),
    ):
        yield _counter(f"routerdash_routing_{name}_total", documentation, [(totals.get(total, 0) / 1e6,)])
    loads = [(totals.get(choices.COLD_LOADS, 0),)]
    yield _counter("routerdash_routing_cold_loads_total", "Requests for which the model had to be loaded.", loads)
    prefixes = [
        (prefix, totals.get(total, 0))
        for prefix, total in (("expected", choices.EXPECTED_PREFIX), ("found", choices.FOUND_PREFIX))
    ]
    yield _counter(
        "routerdash_routing_prefix_tokens_total",
        "Prompt tokens expected in prefix caches, and found there, of responses that report cached tokens.",
        prefixes,
        ("prefix",),
    )


def _learned(moment: Moment) -> Metric:
    """Return what routing has learned of models that have a moving average of their speed."""
    rows = [
        (entry.id, entry.name, model, kind, parameter, seconds)
        for entry, model, kind, speeds in learned_speeds(moment)
        for parameter, seconds in (
            ("setup", speeds.setup),
            ("read", speeds.read),
            ("write", speeds.write),
            ("share", speeds.share),
        )
    ]
    return _gauge(
        "routerdash_endpoint_learned_seconds",
        "What routing has learned: time for a request, a prompt token, an output token, and more for each in flight.",
        rows,
        (*ENDPOINT, "model", "kind", "parameter"),
    )


def _endpoint_usage(moment: Moment) -> Iterator[Metric]:
    used = [(entry, moment.figures.usage.get(entry.id) or EndpointUsage()) for entry in moment.entries]
    tokens = [
        (entry.id, entry.name, direction, count)
        for entry, usage in used
        for direction, count in (("input", usage.input_tokens), ("output", usage.output_tokens))
    ]
    yield _counter(
        "routerdash_endpoint_tokens_total", "Tokens of requests at the endpoint.", tokens, (*ENDPOINT, "direction")
    )
    durations = SummaryMetricFamily(
        "routerdash_endpoint_answer_seconds", "Durations of successful requests at the endpoint.", labels=ENDPOINT
    )
    for entry, usage in used:
        durations.add_metric([entry.id, entry.name], usage.requests_ok, usage.duration_us / 1e6)
    yield durations


def _costs(costs: CostTotalsNow, entries: Iterable[Entry]) -> Iterator[Metric]:
    """Yield costs in units of their currencies, of what has a price.

    Sums are integers in 10⁻⁹, divided once here: each value is the double nearest to the exact sum. Rounded to nine
    decimal places, that is the exact sum up to eight million units of the currency (2²³).
    """
    names = {entry.id: entry.name for entry in entries}
    total = [(currency, cost / NANO) for currency, cost in sorted(costs.by_currency().items())]
    yield _counter("routerdash_cost_total", "Costs of finished requests.", total, ("currency",))
    shown = [
        (endpoint_id, names[endpoint_id], served, currency, cost / NANO)
        for (endpoint_id, served, currency), cost in sorted(costs.costs.items())
        if endpoint_id in names
    ]
    yield _counter(
        "routerdash_endpoint_cost_total",
        "Costs of finished requests by the endpoint and its model.",
        shown,
        (*ENDPOINT, "model", "currency"),
    )
    yield _counter(
        "routerdash_endpoint_unpriced_requests_total",
        "Finished requests at the endpoint without a cost: they have no price, or nothing of them was counted.",
        [(endpoint_id, name, costs.unpriced(endpoint_id)) for endpoint_id, name in names.items()],
        ENDPOINT,
    )


def _hardware(costs: HardwareCosts, entries: Iterable[Entry]) -> Iterator[Metric]:
    """Yield the costs of counted hours of own hardware, as `_costs` does. Each hour adds to both parts.

    They are gauges, because a request that ends late moves cost from idle time to requests. Prometheus would take the
    lower value of a counter for a reset, and add the whole of it.
    """
    parts = {False: "requests", True: "idle"}
    total = [(currency, parts[is_idle], cost / NANO) for currency, is_idle, cost in by_currency(costs)]
    yield _gauge(
        "routerdash_hardware_cost",
        "Costs of own hardware in the hours that are counted: of requests, and of idle time.",
        total,
        ("currency", "part"),
    )
    names = {entry.id: entry.name for entry in entries}
    shown = [
        (endpoint_id, names[endpoint_id], currency, parts[is_idle], cost / NANO)
        for (endpoint_id, currency, is_idle), cost in sorted(costs.items())
        if endpoint_id in names
    ]
    yield _gauge(
        "routerdash_endpoint_hardware_cost",
        "Costs of the endpoint's own hardware in the hours that are counted: of requests, and of idle time.",
        shown,
        (*ENDPOINT, "currency", "part"),
    )


def _stats_now(stats: StatsPayload) -> Iterator[Metric]:
    average = _seconds(stats["average_response_time_ms"])
    for name, documentation, value in (
        ("in_flight_requests", "Requests in flight at endpoints.", stats["total_active_requests"]),
        ("queued_requests", "Requests in the queue.", stats["queued_requests"]),
        ("average_response_time_seconds", "Average response time of the last 24 hours, as on the overview.", average),
        ("records_waiting", "Records in the figures that are not yet in the database.", stats["records_waiting"]),
        ("records_waiting_seconds", "Time for which the database has been behind.", stats["records_waiting_secs"]),
        ("records_unrecorded", "Served requests that no figure counts.", stats["records_unrecorded"]),
        ("figures_restored", "1 once the database has been read, else 0.", stats["figures_restored"]),
        ("figures_version", "Changes of the figures since the start.", stats["figures_version"]),
    ):
        yield _gauge(f"routerdash_{name}", documentation, [(value,)])


def _endpoints_now(endpoints: list[DashboardEndpointPayload]) -> Iterator[Metric]:
    latencies = [(row["id"], row["name"], _seconds(row["latency_ms"])) for row in endpoints]
    yield _gauge(
        "routerdash_endpoint_in_flight_requests",
        "Requests in flight at the endpoint.",
        [(row["id"], row["name"], row["active_requests"]) for row in endpoints],
        ENDPOINT,
    )
    yield _gauge(
        "routerdash_endpoint_latency_seconds", "Latency of the last successful health check.", latencies, ENDPOINT
    )
    yield _gauge(
        "routerdash_endpoint_status",
        "1 for the present status by health checks, 0 for the others.",
        _one_of(((row["id"], row["name"], row["status"]) for row in endpoints), Status.values),
        (*ENDPOINT, "status"),
    )
    yield _gauge(
        "routerdash_endpoint_operator_state",
        "1 for the present administrative state, 0 for the others.",
        _one_of(((row["id"], row["name"], row["operator_state"]) for row in endpoints), OperatorState.values),
        (*ENDPOINT, "state"),
    )
    yield _gauge(
        "routerdash_endpoint_breaker_open",
        "1 while the circuit breaker is open, 0 while it is closed or half-open.",
        [(row["id"], row["name"], row["breaker"] == breakers.OPEN) for row in endpoints],
        ENDPOINT,
    )
    yield _gauge(
        "routerdash_endpoint_paused",
        "1 while the provider of a cloud gets no requests for this cause, 0 for the others.",
        _one_of(((row["id"], row["name"], row["pause_cause"]) for row in endpoints), breakers.PAUSE_CAUSES),
        (*ENDPOINT, "cause"),
    )


def _one_of(values: Iterable[tuple[str, str, str | None]], states: Sequence[str]) -> Samples:
    """Return a sample of 0 or 1 for each state. `values` has ids and names of endpoints, and their state."""
    return [(id, name, state, value == state) for id, name, value in values for state in states]


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _counter(name: str, documentation: str, samples: Samples, labels: Sequence[str] = ()) -> Metric:
    return _filled(CounterMetricFamily(name, documentation, labels=labels), samples)


def _gauge(name: str, documentation: str, samples: Samples, labels: Sequence[str] = ()) -> Metric:
    return _filled(GaugeMetricFamily(name, documentation, labels=labels), samples)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, samples: Samples) -> Metric:
    for *labels, value in samples:
        if value is not None:
            family.add_metric(labels, value)
    return family
