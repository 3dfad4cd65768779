"""Requests of clients by hour and by model, from the roll-ups of clients."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Annotated, TypedDict

from endpoints.openapi.payload_fields import Help
from metrics import sql
from metrics.queries.stored import run_sql
from metrics.storage.database import vendor

HEATMAP_HOURS = 7 * 24

SENT = "requests_ok + requests_failed + requests_cancelled"


class ClientHourPayload(TypedDict):
    hour: Annotated[str, Help("`YYYY-MM-DDTHH:00:00`, UTC.")]
    unique_ips: int
    request_count: int
    failed_count: int
    input_tokens: int
    output_tokens: int


# Cell of the heatmap.
class HeatPayload(TypedDict):
    day_of_week: Annotated[int, Help("0 is Sunday.")]
    hour: int
    count: int


class SharedModelPayload(TypedDict):
    model: str
    request_count: int
    percentage: float


def hour_now() -> int:
    """Return the present hour since 1970."""
    return int(time.time() // 3600)


def first_day(hours: int | None) -> int:
    """Return the day since 1970, UTC, with the first of the last hours; the first of all for None."""
    return 0 if hours is None else (hour_now() - hours + 1) // 24


def of_addresses(addresses: Sequence[str] | None) -> tuple[list[str], list[object]]:
    """Return conditions for any number of addresses, none for None, and their parameters."""
    if addresses is None:
        return [], []
    listed, values = sql.listed(addresses, vendor())
    return [f"client_ip IN ({sql.select('value', listed)})"], values


@dataclass(frozen=True, slots=True)
class ClientTimeline:
    """The last hours, oldest first, also those without a request. `first` is in hours since 1970."""

    first: int
    rows: list[ClientHourPayload]

    def heatmap(self, zone: tzinfo) -> list[HeatPayload]:
        """Return the last seven days by day of the week (0: Sunday) and hour in a time zone."""
        counts = dict.fromkeys(((day, hour) for day in range(7) for hour in range(24)), 0)
        for number, row in enumerate(self.rows):
            local = datetime.fromtimestamp((self.first + number) * 3600, zone)
            if number >= len(self.rows) - HEATMAP_HOURS:
                counts[local.isoweekday() % 7, local.hour] += row["request_count"]
        return [{"day_of_week": day, "hour": hour, "count": count} for (day, hour), count in counts.items()]


def client_hours(hours: int, addresses: Sequence[str] | None = None) -> ClientTimeline:
    """Return the last hours of all clients, or of the addresses of one. One query."""
    first = hour_now() - hours + 1
    if addresses is None:
        columns = ("hour", SENT, "requests_failed", "input_tokens", "output_tokens", "clients")
        rows = run_sql(sql.select(columns, "rollup_all_clients", where="hour >= %s"), [first])
    else:
        where, values = of_addresses(addresses)
        sums = ("hour", f"SUM({SENT})", "SUM(requests_failed)", "SUM(input_tokens)", "SUM(output_tokens)")
        statement = sql.select(sums, "rollup_client_hours", where=["hour >= %s", *where], group_by="hour")
        rows = [(*row, int(row[1] > 0)) for row in run_sql(statement, [first, *values])]
    counts_by_hour = {int(hour): [int(value) for value in counts] for hour, *counts in rows}
    return ClientTimeline(
        first, [_hour(hour, counts_by_hour.get(hour, [0] * 5)) for hour in range(first, first + hours)]
    )


def _hour(hour: int, counts: Sequence[int]) -> ClientHourPayload:
    requests, failed, tokens_in, tokens_out, clients = counts
    return {
        "hour": datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%dT%H:00:00"),
        "request_count": requests,
        "failed_count": failed,
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "unique_ips": clients,
    }


def client_models(hours: int | None, addresses: Sequence[str] | None = None) -> list[SharedModelPayload]:
    """Return the requested models on the days (UTC) of the last hours, of all time for None. One query."""
    where, values = of_addresses(addresses)
    columns = ("model", f"SUM({SENT})")
    statement = sql.select(columns, "rollup_client_days", where=["day >= %s", *where], group_by="model")
    counts = [(str(model), int(count)) for model, count in run_sql(statement, [first_day(hours), *values])]
    total = sum(count for _, count in counts)
    return [
        {"model": model, "request_count": count, "percentage": round(100 * count / total, 1)}
        for model, count in sorted(counts, key=lambda pair: (-pair[1], pair[0]))
        if count
    ]
