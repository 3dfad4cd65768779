"""All-time sums of costs, as the database has them: what its writer has committed, for the Prometheus text.

The thread of the database writer alone changes them. It remembers the journal positions at which they are true, so it
notices when another process has written.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.ipc.journal import Position
from metrics.costs.sums import Place, PlaceSums
from metrics.counting.cells import Cell


@dataclass(slots=True)
class CostTotalsNow:
    """The sums at one moment."""

    costs: Counter[Place] = field(default_factory=Counter)  # in 10⁻⁹ of the currency
    requests: Counter[str] = field(default_factory=Counter)  # finished ones by endpoint
    priced: Counter[str] = field(default_factory=Counter)  # those of them with a cost

    def unpriced(self, endpoint_id: str) -> int:
        """Return the finished requests at an endpoint without a cost."""
        return self.requests[endpoint_id] - self.priced[endpoint_id]

    def by_currency(self) -> Counter[str]:
        """Return the costs of all endpoints, deleted ones too."""
        sums: Counter[str] = Counter()
        for (_, _, currency), cost in self.costs.items():
            sums[currency] += cost
        return sums


class CostTotals:
    """Sums of one process, and the positions in the journals up to which they count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: CostTotalsNow | None = None
        self._positions: dict[str, Position] | None = None  # None: not read yet

    def read(self) -> CostTotalsNow | None:
        """Return a copy of the sums; None until they are read, and if their tables are damaged."""
        with self._lock:
            now = self._now
            return now and CostTotalsNow(now.costs.copy(), now.requests.copy(), now.priced.copy())

    def are_at(self, positions: Mapping[str, Position]) -> bool:
        """Return True if the sums were read, and count up to these positions."""
        known = self._positions
        return known is not None and all(known.get(writer) == position for writer, position in positions.items())

    def install(self, now: CostTotalsNow | None, positions: Mapping[str, Position]) -> None:
        """Replace the sums by those of the database at these positions; None: they cannot be read."""
        with self._lock:
            self._now, self._positions = now, dict(positions)

    def add(
        self,
        places: Mapping[Place, PlaceSums],
        endpoint_cells: Mapping[str, Cell],
        moves: Iterable[tuple[str, Position, Position]],
    ) -> None:
        """Add what one transaction has written: sums of costs, and all requests by endpoint."""
        with self._lock:
            if self._positions is not None:
                self._positions |= {writer: new for writer, _, new in moves}
            if self._now is None:
                return
            costs, priced = self._now.costs, self._now.priced
            for place, each in places.items():
                costs[place] += each.cost
                priced[place[0]] += each.requests
            for endpoint_id, cell in endpoint_cells.items():
                self._now.requests[endpoint_id] += cell.requests_ok + cell.requests_failed + cell.requests_cancelled
