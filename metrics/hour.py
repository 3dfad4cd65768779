"""Sums of the last 60 minutes by endpoint, model and API key: what is busy now, and what fails."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from metrics.fold import Cell

MINUTES = 60
BUSIEST = 5  # are told
KEPT = 4 * 60  # minutes: further back the clock is not set without all figures being read again

# What is summed, each with an id: of an endpoint, a model's name, of an API key (empty: none).
ATTEMPTS, FAILED, MODEL, KEY = "attempts", "failed", "model", "key"

Summed = tuple[str, str]


@dataclass(slots=True)
class Hour:
    minutes: dict[int, dict[Summed, int]] = field(default_factory=dict)
    sums: dict[Summed, int] = field(default_factory=dict)  # of those after `since`; none of them zero
    since: int = 0

    def add(self, minute: int, endpoint_id: str, model: str, api_key_id: str, cell: Cell) -> None:
        """The models and keys have requests that were answered or failed, the endpoints attempts."""
        counts = self.minutes.get(minute)
        if counts is None:
            counts = self.minutes[minute] = {}
        summed = (counts, self.sums) if minute > self.since else (counts,)
        requests, attempts = cell.requests_ok + cell.requests_failed, cell.attempts_ok + cell.attempts_failed
        for to in summed:
            if attempts:
                to[ATTEMPTS, endpoint_id] = to.get((ATTEMPTS, endpoint_id), 0) + attempts
            if cell.attempts_failed:
                to[FAILED, endpoint_id] = to.get((FAILED, endpoint_id), 0) + cell.attempts_failed
            if requests:
                to[MODEL, model] = to.get((MODEL, model), 0) + requests
                to[KEY, api_key_id] = to.get((KEY, api_key_id), 0) + requests

    def turn(self, this: int) -> None:
        """`this` is the present minute, the last of the 60. Only what changes sides is added or taken away."""
        since = this - MINUTES
        if since == self.since:
            return
        for minute, counts in self.minutes.items():
            sign = -1 if self.since < minute <= since else 1 if since < minute <= self.since else 0
            for key, count in counts.items() if sign else ():
                self.sums[key] = self.sums.get(key, 0) + sign * count
        self.since = since
        self.sums = {key: count for key, count in self.sums.items() if count}
        for old in [minute for minute in self.minutes if minute <= this - KEPT]:
            del self.minutes[old]


def ranked(sums: Mapping[Summed, int], what: str, most: int) -> list[tuple[str, int]]:
    """The ids with the largest sums, those first; equal ones by name."""
    found = [(name, count) for (kind, name), count in sums.items() if kind == what]
    return sorted(found, key=lambda it: (-it[1], it[0]))[:most]
