"""GET /metrics: the figures as Prometheus scrapes them (text format 0.0.4), each as metrics.queries tells it.

What the JSON API tells as null is left out. Counters are left out until all figures are restored: Prometheus would take
the lesser values for a reset, and what comes back for new.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request
from rest_framework.views import APIView

from endpoints.models import OperatorState, Status
from metrics import breakers, queries
from metrics.fold import ANSWERS_BELOW, ANSWERS_US, BELOW_HIGH, BELOW_LOW, Usage
from metrics.queries import Moment

ENDPOINT = ("endpoint_id", "endpoint_name")
OUTCOMES = {"ok": "successful_requests", "failed": "failed_requests"}

Samples = Iterable[tuple[Any, ...]]  # the labels' values, and behind them the figure or None


def text(moment: Moment) -> bytes:
    registry = CollectorRegistry()
    registry.register(Told(moment))
    return generate_latest(registry)


class Told(Collector):
    """All metrics of one moment."""

    def __init__(self, moment: Moment) -> None:
        self.moment = moment

    def collect(self) -> Iterator[Metric]:
        stats, endpoints = queries.stats(self.moment), queries.endpoints(self.moment)
        if stats["figures_restored"]:
            yield from _totals(stats)
            yield _answers(self.moment.figures.totals)
            yield from _endpoint_totals(endpoints)
            yield from _endpoint_usage(self.moment)
        yield from _stats_now(stats)
        yield from _endpoints_now(endpoints)
        slots = [(it.id, it.name, it.slots) for it in self.moment.entries]
        yield _gauge("routerdash_endpoint_slots", "Requests that the endpoint gets at a time.", slots, ENDPOINT)
        speeds = [
            (entry.id, entry.name, row["model_id"], row["api_kind"], row["tps"])
            for entry, row in queries.all_model_tps(self.moment)
        ]
        yield _gauge(
            "routerdash_endpoint_tokens_per_second",
            "Output tokens a second over the whole answer, moving average.",
            speeds,
            (*ENDPOINT, "model", "kind"),
        )


def _totals(stats: dict[str, Any]) -> Iterator[Metric]:
    outcomes = {**OUTCOMES, "cancelled": "cancelled_requests"}
    requests = [(outcome, stats[name]) for outcome, name in outcomes.items()]
    tokens = [(direction, stats[f"total_{direction}_tokens"]) for direction in ("input", "output")]
    reasons = stats["rejected_by_reason"].items()
    damaged = [(stats["journal_damaged_bytes"],)]
    yield _counter("routerdash_requests_total", "Requests that ended.", requests, ("outcome",))
    yield _counter("routerdash_rejected_requests_total", "Requests refused by RouterDash itself.", reasons, ("reason",))
    hits = stats["bound_hits"].items()
    yield _counter("routerdash_bound_hits_total", "Hits of bounds on resources; docs/limits.md.", hits, ("bound",))
    yield _counter("routerdash_tokens_total", "Tokens of requests that ended.", tokens, ("direction",))
    yield _counter("routerdash_journal_damaged_bytes_total", "Bytes of journals that could not be read.", damaged)


def _endpoint_totals(endpoints: list[dict[str, Any]]) -> Iterator[Metric]:
    attempts = [(row["id"], row["name"], outcome, row[name]) for row in endpoints for outcome, name in OUTCOMES.items()]
    yield _counter(
        "routerdash_endpoint_attempts_total",
        "Tries of requests on the endpoint, without those of clients who left.",
        attempts,
        (*ENDPOINT, "outcome"),
    )
    yield _counter(
        "routerdash_endpoint_cancelled_total",
        "Requests on the endpoint whose client left.",
        _of_each(endpoints, "cancelled_requests"),
        ENDPOINT,
    )


def _answers(totals: Mapping[str, int]) -> Metric:
    """Their bounds are powers of two in µs: there, the histograms of the roll-ups are exact."""
    family = HistogramMetricFamily("routerdash_answer_seconds", "Whole durations of successful requests.")
    below, buckets = 0, []
    for power in range(BELOW_LOW, BELOW_HIGH + 1):
        below += totals.get(f"{ANSWERS_BELOW}{power}", 0)
        buckets.append(("+Inf" if power == BELOW_HIGH else str(2**power / 1e6), float(below)))
    family.add_metric([], buckets, totals.get(ANSWERS_US, 0) / 1e6)
    return family


def _endpoint_usage(moment: Moment) -> Iterator[Metric]:
    used = [(it, moment.figures.usage.get(it.id) or Usage()) for it in moment.entries]
    tokens = [
        (it.id, it.name, direction, count)
        for it, usage in used
        for direction, count in (("input", usage.input_tokens), ("output", usage.output_tokens))
    ]
    yield _counter(
        "routerdash_endpoint_tokens_total", "Tokens of requests on the endpoint.", tokens, (*ENDPOINT, "direction")
    )
    durations = SummaryMetricFamily(
        "routerdash_endpoint_answer_seconds", "Whole durations of the endpoint's successful requests.", labels=ENDPOINT
    )
    for it, usage in used:
        durations.add_metric([it.id, it.name], usage.answers, usage.duration_us / 1e6)
    yield durations


def _stats_now(stats: dict[str, Any]) -> Iterator[Metric]:
    average = _seconds(stats["average_response_time_ms"])
    for name, documentation, value in (
        ("in_flight_requests", "Requests that endpoints are working on now.", stats["total_active_requests"]),
        ("queued_requests", "Requests that wait for an endpoint to have a free slot.", stats["queued_requests"]),
        ("average_response_time_seconds", "As on the overview: of the last 24 hours.", average),
        ("records_waiting", "Records in the figures already, not yet in the database.", stats["records_waiting"]),
        ("records_waiting_seconds", "For so long has the database been behind.", stats["records_waiting_secs"]),
        ("records_unrecorded", "Requests served that no figure counts.", stats["records_unrecorded"]),
        ("figures_restored", "1 once the database has been read, else 0.", stats["figures_restored"]),
        ("figures_version", "Changes of the figures since the start.", stats["figures_version"]),
    ):
        yield _gauge(f"routerdash_{name}", documentation, [(value,)])


def _endpoints_now(endpoints: list[dict[str, Any]]) -> Iterator[Metric]:
    latencies = [(row["id"], row["name"], _seconds(row["latency_ms"])) for row in endpoints]
    yield _gauge(
        "routerdash_endpoint_in_flight_requests",
        "Requests that the endpoint is working on now.",
        _of_each(endpoints, "active_requests"),
        ENDPOINT,
    )
    yield _gauge("routerdash_endpoint_latency_seconds", "Of its last successful health check.", latencies, ENDPOINT)
    yield _gauge(
        "routerdash_endpoint_status",
        "1 for what health checks say, 0 for what they do not.",
        _one_of(endpoints, "status", Status.values),
        (*ENDPOINT, "status"),
    )
    yield _gauge(
        "routerdash_endpoint_operator_state",
        "1 for what the operator says, 0 for the others.",
        _one_of(endpoints, "operator_state", OperatorState.values),
        (*ENDPOINT, "state"),
    )
    yield _gauge(
        "routerdash_endpoint_breaker_open",
        "1 while its circuit breaker keeps requests away from it, 0 while it is closed or on trial.",
        [(row["id"], row["name"], row["breaker"] == breakers.OPEN) for row in endpoints],
        ENDPOINT,
    )


def _of_each(endpoints: list[dict[str, Any]], name: str) -> Samples:
    return [(row["id"], row["name"], row[name]) for row in endpoints]


def _one_of(endpoints: list[dict[str, Any]], name: str, states: Sequence[str]) -> Samples:
    return [(row["id"], row["name"], state, row[name] == state) for row in endpoints for state in states]


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


class OneFormat(BaseContentNegotiation):
    """The same text, whatever is accepted: Prometheus asks for newer formats first, and takes this one."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class Metrics(APIView):
    permission_needed = "metrics.read"
    content_negotiation_class = OneFormat
    http_method_names = ("get", "head")

    @extend_schema(responses={(200, "text/plain"): OpenApiTypes.STR})
    def get(self, request: Request) -> HttpResponse:
        """Prometheus text, format 0.0.4."""
        return HttpResponse(text(Moment.now()), content_type=CONTENT_TYPE_PLAIN_0_0_4)
