"""All-time sums of the costs of own hardware, as the database has them: its counted hours, for the Prometheus text.

The thread of the database writer alone changes them, after it has committed.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping

Place = tuple[str, str, bool]  # endpoint, currency, whether it is the idle line
HardwareCosts = Counter[Place]  # in 10⁻⁹ of the currency


class HardwareTotals:
    """Sums of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._costs: HardwareCosts | None = None

    def read(self) -> HardwareCosts | None:
        """Return a copy of the sums; None until they are read, and if their table is damaged."""
        with self._lock:
            return None if self._costs is None else self._costs.copy()

    def install(self, costs: HardwareCosts | None) -> None:
        """Replace the sums by those of the database; None: they cannot be read."""
        with self._lock:
            self._costs = costs

    def add(self, changes: HardwareCosts) -> None:
        """Add what one transaction has changed. A change is negative where a late record took cost from a line."""
        with self._lock:
            if self._costs is not None:
                for place, cost in changes.items():
                    self._costs[place] += cost


def by_currency(costs: Mapping[Place, int]) -> Iterator[tuple[str, bool, int]]:
    """Yield the sums of all endpoints, deleted ones too: currency, whether they are of idle lines, and the sum."""
    sums: Counter[tuple[str, bool]] = Counter()
    for (_, currency, is_idle), cost in costs.items():
        sums[currency, is_idle] += cost
    for (currency, is_idle), cost in sorted(sums.items()):
        yield currency, is_idle, cost
