"""Sums of the last 60 minutes by endpoint, model and API key: what is busy now, and what fails."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from metrics.fold import NO_ENDPOINT, Cell

MINUTES = 60
KEPT = 4 * 60  # minutes: further back the clock is not set without all figures being read again

# What is summed, each with an id: of an endpoint, a model's name, of an API key (empty: none).
ATTEMPTS, FAILED, MODEL, KEY = "attempts", "failed", "model", "key"

Summed = tuple[str, str]


@dataclass(slots=True)
class Hour:
    minutes: dict[int, Counter[Summed]] = field(default_factory=dict)
    sums: Counter[Summed] = field(default_factory=Counter)  # of those after `since`; none of them zero
    since: int = 0

    def add(self, minute: int, endpoint_id: str, model: str, api_key_id: str, cell: Cell) -> None:
        """The models and keys have requests that were answered or failed, the endpoints attempts."""
        found: Counter[Summed] = Counter()
        if endpoint_id != NO_ENDPOINT:
            found[ATTEMPTS, endpoint_id] = cell.attempts_ok + cell.attempts_failed
            found[FAILED, endpoint_id] = cell.attempts_failed
        if requests := cell.requests_ok + cell.requests_failed:
            found[MODEL, model] = requests
            found[KEY, api_key_id] = requests
        found = Counter({key: count for key, count in found.items() if count})
        if not found:
            return
        self.minutes.setdefault(minute, Counter()).update(found)
        if minute > self.since:
            self.sums.update(found)

    def turn(self, this: int) -> None:
        """`this` is the present minute, the last of the 60. Only what changes sides is added or taken away."""
        since = this - MINUTES
        if since == self.since:
            return
        for minute, counts in self.minutes.items():
            if self.since < minute <= since:
                self.sums.subtract(counts)
            elif since < minute <= self.since:
                self.sums.update(counts)
        self.since = since
        self.sums = Counter({key: count for key, count in self.sums.items() if count})
        for old in [minute for minute in self.minutes if minute <= this - KEPT]:
            del self.minutes[old]


def ranked(sums: Mapping[Summed, int], what: str, most: int) -> list[tuple[str, int]]:
    """The ids with the largest sums, those first; equal ones by name."""
    found = [(name, count) for (kind, name), count in sums.items() if kind == what]
    return sorted(found, key=lambda it: (-it[1], it[0]))[:most]
