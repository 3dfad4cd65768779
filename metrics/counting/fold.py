"""Fold: adds a batch of records to sums of requests, tokens, duration and time to first token.

It is the only implementation of "What is counted where" in docs/concepts/counting.md, except for the audit.
Every sum is commutative, so the order in which the journals of several workers are read has no effect. Moving averages
have their own rules: see metrics.counting.speeds.
"""

import time
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import TypeVar

from gateway.ipc.record import Entry, RequestRecord
from metrics.counting import speeds
from metrics.counting.cells import (
    Cell,
    ClientCell,
    Counters,
    Daily,
    DailyKey,
    DayKey,
    EndpointUsage,
    SpeedSums,
    local_date,
)
from metrics.counting.fold_sums import FoldSums
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.counting.speeds import Sample, SpeedKey
from metrics.counting.token_details import DETAIL_COLUMNS
from metrics.counting.totals import (
    DURATIONS_US,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    REQUESTS_CANCELLED,
    REQUESTS_FAILED,
    REQUESTS_OK,
    duration_total_of,
)


class Fold(FoldSums):
    """Sums of a batch of entries, and all that are computed from these. See FoldSums."""

    def add_all(self, entries: Iterable[Entry]) -> "Fold":
        """Count the entries and return this fold."""
        self.count_all(entries)
        return self

    def __add__(self, other: "Fold") -> "Fold":
        """Return the sums of both folds, which do not change."""
        return Fold(
            self.zone,
            _joined(self.cells, other.cells),
            _joined(self.speed_sums, other.speed_sums),
            Counter(
                {name: self.others[name] + other.others[name] for name in self.others.keys() | other.others.keys()}
            ),
            self.refused_connections | other.refused_connections,
            self.unknown_models | other.unknown_models,
            [*self.counted, *other.counted],
            _joined(self.clients, other.clients),
            _joined(self.served, other.served),
        )

    @cached_property
    def models(self) -> dict[DailyKey, Cell]:
        """Cells summed by endpoint, model, local date and kind. Cells of one part only are shared: do not change them.

        Most other sums are computed from these, because there are fewer of them than of cells.
        """
        parts: dict[DailyKey, list[Cell]] = {}
        for (minute, endpoint_id, model, kind, _), cell in self.cells.items():
            parts.setdefault((endpoint_id, model, local_date(minute, self.zone), kind), []).append(cell)
        return {key: Cell.sum(cells) for key, cells in parts.items()}

    @cached_property
    def minutes(self) -> dict[int, Cell]:
        """Cells summed by minute. They may be shared: do not change them."""
        parts: dict[int, list[Cell]] = {}
        for (minute, *_), cell in self.cells.items():
            parts.setdefault(minute, []).append(cell)
        return {minute: Cell.sum(cells) for minute, cells in parts.items()}

    @cached_property
    def endpoint_cells(self) -> dict[str, Cell]:
        """Cells summed by endpoint id, without those of no endpoint. They may be shared: do not change them."""
        parts: dict[str, list[Cell]] = {}
        for (endpoint_id, *_), cell in self.models.items():
            if endpoint_id != NO_ENDPOINT:
                parts.setdefault(endpoint_id, []).append(cell)
        return {endpoint_id: Cell.sum(cells) for endpoint_id, cells in parts.items()}

    @cached_property
    def endpoints(self) -> dict[str, Counters]:
        """Attempts by endpoint id."""
        return {
            endpoint_id: Counters(
                cell.attempts_ok + cell.attempts_failed, cell.attempts_ok, cell.attempts_failed, cell.requests_cancelled
            )
            for endpoint_id, cell in self.endpoint_cells.items()
        }

    @cached_property
    def usage(self) -> dict[str, EndpointUsage]:
        """Successful requests and tokens by endpoint id."""
        return {
            endpoint_id: EndpointUsage(cell.requests_ok, cell.ok_duration_us, cell.input_tokens, cell.output_tokens)
            for endpoint_id, cell in self.endpoint_cells.items()
        }

    @cached_property
    def daily(self) -> dict[DailyKey, Daily]:
        """Rows to add to endpoint_daily_stats."""
        result = {
            key: Daily(attempts, cell.attempts_ok, cell.attempts_failed)
            for key, cell in self.models.items()
            if (attempts := cell.attempts_ok + cell.attempts_failed)
        }
        for key, sums in self.speed_sums.items():
            result[key].add(Daily(output_tokens=sums.output_tokens, duration_ms=sums.duration_ms))
        return result

    @cached_property
    def samples(self) -> dict[SpeedKey, list[Sample]]:
        """Sorted samples for moving averages, at most one window for each key."""
        by_key: dict[SpeedKey, list[RequestRecord]] = {}
        for (endpoint_id, model, _, kind), sums in self.speed_sums.items():
            by_key.setdefault((endpoint_id, model, kind), []).extend(sums.entries)
        now = time.time()
        return {
            key: speeds.window(sorted(map(speeds.sample, speeds.latest(entries, now))), now)
            for key, entries in by_key.items()
        }

    @cached_property
    def totals(self) -> Counter[str]:
        """Totals by name (see metrics.counting.totals), without zeros."""
        result = Counter(self.others)
        for cell in self.minutes.values():
            result[REQUESTS_OK] += cell.requests_ok
            result[REQUESTS_FAILED] += cell.requests_failed
            result[REQUESTS_CANCELLED] += cell.requests_cancelled
            result[INPUT_TOKENS] += cell.input_tokens
            result[OUTPUT_TOKENS] += cell.output_tokens
            result[DURATIONS_US] += cell.ok_duration_us
            for index, count in cell.durations.items():
                result[duration_total_of(index)] += count
            if cell.details is not None:
                result.update(dict(zip(DETAIL_COLUMNS, cell.details, strict=True)))
        return Counter({name: value for name, value in result.items() if value})

    @cached_property
    def days(self) -> dict[DayKey, Cell]:
        """Cells summed by local date. Most are those of one minute, and shared: do not change them."""
        parts: dict[DayKey, list[Cell]] = {}
        for (minute, endpoint_id, model, kind, key), cell in self.cells.items():
            parts.setdefault((local_date(minute, self.zone), endpoint_id, model, kind, key), []).append(cell)
        return {day: Cell.sum(cells) for day, cells in parts.items()}


_Key = TypeVar("_Key")
_Sum = TypeVar("_Sum", Cell, SpeedSums, ClientCell)


def _joined(one: dict[_Key, _Sum], other: dict[_Key, _Sum]) -> dict[_Key, _Sum]:
    joined = dict(one)
    for key, value in other.items():
        joined[key] = joined[key] + value if key in joined else value
    return joined
