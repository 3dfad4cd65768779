"""One endpoint's attempts by local day and by model, over the last days: what its page and the API tell."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.urls import reverse

from metrics import histogram, queries
from metrics.database import SaneSum
from metrics.histogram import Histogram
from metrics.history import json_time
from metrics.models import DailyStat, DayRollUp


@dataclass(frozen=True, slots=True)
class Day:
    date: date
    ok: int
    failed: int
    requests: str  # the address of the page that lists them

    @property
    def total(self) -> int:
        return self.ok + self.failed


def dates(days: int, today: str) -> list[date]:
    """Local ones, up to and including today."""
    last = date.fromisoformat(today)
    return [last - timedelta(days=ago) for ago in range(days - 1, -1, -1)]


def days(endpoint_id: str, wanted: int, today: str) -> list[Day]:
    """Every one, oldest first, those without attempts too. The figures are those of queries.daily_stats."""
    counted = {row["date"]: row for row in queries.daily_stats(endpoint_id, wanted, today)}
    nothing = {"successful_requests": 0, "failed_requests": 0}
    found = ((it, counted.get(it.isoformat(), nothing)) for it in dates(wanted, today))
    return [
        Day(it, row["successful_requests"], row["failed_requests"], requests_of(endpoint_id, it)) for it, row in found
    ]


def requests_of(endpoint_id: str, of: date) -> str:
    """The page of the requests of a local day."""
    zone = settings.ROUTERDASH.zone
    since, until = (datetime.combine(it, time(), zone).astimezone(UTC) for it in (of, of + timedelta(days=1)))
    query = {"endpoint_id": endpoint_id, "since": json_time(since), "until": json_time(until)}
    return f"{reverse('requests')}?{urlencode(query)}"


def model_stats(endpoint_id: str, wanted: int, today: str) -> list[dict[str, Any]]:
    """As queries.model_stats, over local days, with speeds and medians. Two queries, by the keys of their tables."""
    span = [it.isoformat() for it in dates(wanted, today)]
    names = ("total_requests", "successful_requests", "failed_requests", "total_output_tokens", "total_duration_ms")
    stats = DailyStat.objects.filter(endpoint_id=endpoint_id, date__range=(span[0], span[-1]))
    sums = {model: found for model, *found in stats.values_list("model_id").annotate(*map(SaneSum, names))}
    spread = _spreads(endpoint_id, span)
    rows = [
        dict(zip(names, found, strict=True)) | {"model_id": model, **_of(spread.get(model), found[3], found[4])}
        for model, found in sums.items()
    ]
    return sorted(rows, key=lambda row: (-row["total_requests"], row["model_id"]))


@dataclass(slots=True)
class Spread:
    output_tokens: int
    durations: Histogram
    first_tokens: Histogram


def _of(spread: Spread | None, tokens: int, duration_ms: int) -> dict[str, Any]:
    return {
        "tokens_per_second": tokens / (duration_ms / 1000) if tokens and duration_ms else None,
        "p50_duration_ms": _median(spread.durations) if spread else None,
        "p50_first_token_ms": _median(spread.first_tokens) if spread else None,
        "output_tokens": spread.output_tokens if spread else 0,
    }


def _median(counts: Histogram) -> float | None:
    found = histogram.quantiles(counts, (0.5,))
    return found[0] / 1000 if found else None


def _spreads(endpoint_id: str, span: Iterable[str]) -> dict[str, Spread]:
    """By date after date, not by a range: so the key of the table leads to the rows of one endpoint alone."""
    rows = DayRollUp.objects.filter(date__in=span, endpoint_id=endpoint_id)
    found: dict[str, Spread] = {}
    for model, tokens, durations, first_tokens in rows.values_list(
        "model", "output_tokens", "durations", "first_tokens"
    ).iterator():
        spread = found.setdefault(model, Spread(0, {}, {}))
        spread.output_tokens += tokens
        histogram.add(spread.durations, histogram.unpack(durations))
        histogram.add(spread.first_tokens, histogram.unpack(first_tokens))
    return found
