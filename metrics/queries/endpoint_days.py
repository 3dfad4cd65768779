"""One endpoint's attempts by local day and by model, over the last days."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, NotRequired
from urllib.parse import urlencode

from django.conf import settings
from django.db.models import Q, Sum
from django.urls import reverse

from endpoints.openapi.payload_fields import Help
from gateway.base.request_kinds import GENERATING
from metrics.counting import histogram
from metrics.counting.histogram import Histogram
from metrics.counting.reported_details import TokenDetailsPayload, detail_counts
from metrics.counting.token_details import DETAIL_COLUMNS
from metrics.models import DailyStat, DayRollUp
from metrics.queries.payloads import ModelStatsPayload
from metrics.queries.stored import TOTALS, daily_stats
from metrics.storage.database import SaneSum
from metrics.times import json_time

ENOUGH_RESPONSES = 20  # without a report, before the page says how to get one


class ModelDaysPayload(ModelStatsPayload):
    """Sums of one model. All-time sums lack the optional fields."""

    output_tokens: NotRequired[
        Annotated[int, Help("All output tokens, also of requests without a speed. Only with `days`.")]
    ]
    tokens_per_second: NotRequired[
        Annotated[float | None, Help("total_output_tokens over total_duration_ms. Only with `days`.")]
    ]
    p50_duration_ms: NotRequired[
        Annotated[
            float | None,
            Help("Median of successful requests, from histograms with a precision of 1/16. Only with `days`."),
        ]
    ]
    p50_first_token_ms: NotRequired[Annotated[float | None, Help("Median of successful streams. Only with `days`.")]]


@dataclass(frozen=True, slots=True)
class EndpointDay:
    date: date
    ok: int
    failed: int
    requests: str  # URL of the page that lists them

    @property
    def total(self) -> int:
        return self.ok + self.failed


def dates(days: int, today: str) -> list[date]:
    """Return local days up to and including today."""
    last = date.fromisoformat(today)
    return [last - timedelta(days=ago) for ago in range(days - 1, -1, -1)]


def endpoint_days(endpoint_id: str, number: int, today: str) -> list[EndpointDay]:
    """Return every day, oldest first, also those without attempts. The figures are those of `daily_stats`."""
    counted = {row["date"]: row for row in daily_stats(endpoint_id, number, today)}
    rows = ((day, counted.get(day.isoformat())) for day in dates(number, today))
    return [
        EndpointDay(
            day,
            row["successful_requests"] if row else 0,
            row["failed_requests"] if row else 0,
            requests_url(endpoint_id, day),
        )
        for day, row in rows
    ]


def requests_url(endpoint_id: str, day: date) -> str:
    """Return the URL of the page with the requests of a local day."""
    zone = settings.ROUTERDASH.zone
    since, until = (
        datetime.combine(midnight, time(), zone).astimezone(UTC) for midnight in (day, day + timedelta(days=1))
    )
    query = {"endpoint_id": endpoint_id, "since": json_time(since), "until": json_time(until)}
    return f"{reverse('requests')}?{urlencode(query)}"


def model_days(endpoint_id: str, number: int, today: str) -> list[ModelDaysPayload]:
    """Return sums by model over local days, busiest first. Two queries, by the keys of their tables."""
    span = [day.isoformat() for day in dates(number, today)]
    stats = DailyStat.objects.filter(endpoint_id=endpoint_id, date__range=(span[0], span[-1]))
    sums = stats.values_list("model_id").annotate(*map(SaneSum, TOTALS))
    distributions = _distributions(endpoint_id, span)
    rows = [_model_days(model, sums_of_model, distributions.get(model)) for model, *sums_of_model in sums]
    return sorted(rows, key=lambda row: (-row["total_requests"], row["model_id"]))


@dataclass(slots=True)
class Distributions:
    """Sums of one model that only the roll-ups have."""

    output_tokens: int
    durations: Histogram
    first_tokens: Histogram


@dataclass(frozen=True, slots=True)
class EndpointDetails:
    """Tokens that only some servers report, over some days of one endpoint."""

    counts: TokenDetailsPayload
    responses: int  # successful, of APIs that generate tokens

    @property
    def lacks_cache_reports(self) -> bool:
        """Return True if the endpoint has responded often enough, and never reported cached tokens."""
        return self.responses >= ENOUGH_RESPONSES and not self.counts["cache_reports"]


def endpoint_details(endpoint_id: str, number: int, today: str) -> EndpointDetails:
    """Return sums over local days. One query, by the key of its table."""
    span = [day.isoformat() for day in dates(number, today)]
    rows = DayRollUp.objects.filter(date__in=span, endpoint_id=endpoint_id)
    responses = Sum("requests_ok", filter=Q(kind__in=GENERATING))
    sums = rows.aggregate(responses=responses, **{f"sum_{name}": Sum(name) for name in DETAIL_COLUMNS})
    return EndpointDetails(detail_counts([sums[f"sum_{name}"] for name in DETAIL_COLUMNS]), int(sums["responses"] or 0))


def _model_days(model: str, sums: list[int], distributions: Distributions | None) -> ModelDaysPayload:
    total, ok, failed, tokens, duration_ms = sums
    return {
        "total_requests": total,
        "successful_requests": ok,
        "failed_requests": failed,
        "total_output_tokens": tokens,
        "total_duration_ms": duration_ms,
        "model_id": model,
        "tokens_per_second": tokens / (duration_ms / 1000) if tokens and duration_ms else None,
        "p50_duration_ms": _median(distributions.durations) if distributions else None,
        "p50_first_token_ms": _median(distributions.first_tokens) if distributions else None,
        "output_tokens": distributions.output_tokens if distributions else 0,
    }


def _median(counts: Histogram) -> float | None:
    values = histogram.quantiles(counts, (0.5,))
    return values[0] / 1000 if values else None


def _distributions(endpoint_id: str, span: Iterable[str]) -> dict[str, Distributions]:
    """Read one date after another, not a range: so the table's key leads to the rows of this endpoint alone."""
    rows = DayRollUp.objects.filter(date__in=span, endpoint_id=endpoint_id)
    columns = rows.values_list("model", "output_tokens", "durations", "first_tokens")
    by_model: dict[str, Distributions] = {}
    for model, tokens, durations, first_tokens in columns.iterator():
        sums = by_model.setdefault(model, Distributions(0, {}, {}))
        sums.output_tokens += tokens
        histogram.add(sums.durations, histogram.unpack(durations))
        histogram.add(sums.first_tokens, histogram.unpack(first_tokens))
    return by_model
