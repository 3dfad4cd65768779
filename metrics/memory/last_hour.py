"""Sums of the last 60 minutes by endpoint, model and API key: the busiest ones, and failed attempts by endpoint.

The 60-minute chart (timeline) has its data in metrics.memory.figures: `Figures.timeline` and `Figures.points`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from metrics.counting.cells import Cell, CellKey

MINUTES = 60
BUSIEST = 5  # entries of a ranking
RETAINED_MINUTES = 4 * 60  # if the clock is set back further, all figures are read again

# Kinds of sums. Each has an id: of an endpoint, the name of a model, or the id of an API key (empty: none).
ATTEMPTS, FAILED, MODEL, KEY = "attempts", "failed", "model", "key"

HourKey = tuple[str, str]  # kind of sum, id


@dataclass(slots=True)
class LastHour:
    """Counts by minute since 1970, and their sums over the last 60 minutes."""

    minutes: dict[int, dict[HourKey, int]] = field(default_factory=dict)
    sums: dict[HourKey, int] = field(default_factory=dict)  # over minutes after `since`, without zeros
    since: int = 0

    def add(self, minute: int, endpoint_id: str, model: str, api_key_id: str, cell: Cell) -> None:
        """Count attempts by endpoint, and successful and failed requests by model and API key."""
        self.add_all({(minute, endpoint_id, model, "", api_key_id): cell})

    def add_all(self, cells: Mapping[CellKey, Cell]) -> None:
        """Count as `add` does. The cells are added up first, because most share endpoint, model or key."""
        added: dict[int, dict[HourKey, int]] = {}
        for (minute, endpoint_id, model, _, api_key_id), cell in cells.items():
            counts = added.get(minute)
            if counts is None:
                counts = added[minute] = {}
            key: HourKey
            if attempts := cell.attempts_ok + cell.attempts_failed:
                key = (ATTEMPTS, endpoint_id)
                counts[key] = counts.get(key, 0) + attempts
            if failed := cell.attempts_failed:
                key = (FAILED, endpoint_id)
                counts[key] = counts.get(key, 0) + failed
            if requests := cell.requests_ok + cell.requests_failed:
                key = (MODEL, model)
                counts[key] = counts.get(key, 0) + requests
                key = (KEY, api_key_id)
                counts[key] = counts.get(key, 0) + requests
        for minute, counts in added.items():
            of_minute = self.minutes.setdefault(minute, {})
            for target in (of_minute, self.sums) if minute > self.since else (of_minute,):
                for key, count in counts.items():
                    target[key] = target.get(key, 0) + count

    def advance(self, minute: int) -> None:
        """Make `minute` the last of the 60. Only minutes that enter or leave the range are added or subtracted."""
        since = minute - MINUTES
        if since == self.since:
            return
        for counted_minute, counts in self.minutes.items():
            sign = -1 if self.since < counted_minute <= since else 1 if since < counted_minute <= self.since else 0
            for key, count in counts.items() if sign else ():
                self.sums[key] = self.sums.get(key, 0) + sign * count
        self.since = since
        self.sums = {key: count for key, count in self.sums.items() if count}
        for old in [counted_minute for counted_minute in self.minutes if counted_minute <= minute - RETAINED_MINUTES]:
            del self.minutes[old]


def ranked(sums: Mapping[HourKey, int], kind: str, limit: int) -> list[tuple[str, int]]:
    """Return the ids with the largest sums of a kind, largest first, then by id."""
    matching = [(name, count) for (at_kind, name), count in sums.items() if at_kind == kind]
    return sorted(matching, key=lambda entry: (-entry[1], entry[0]))[:limit]
