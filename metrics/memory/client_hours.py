"""Requests of each client in the current hour of the clock and the previous one, without the database.

The database has sums of clients by hour, not by minute, so a restart does not change these figures.
"""

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.base.addresses import client_of
from metrics.counting.cells import ClientCell, ClientKey

RETAINED_HOURS = 5  # the current hour included; if the clock is set back further, all figures are read again
MAX_CLIENTS = 20_000  # clients of one hour; only the database has those that come after them

Ranked = tuple[tuple[str, int], ...]


@dataclass(slots=True)
class RecentClients:
    """Requests by hour since 1970 (UTC) and client."""

    hours: dict[int, Counter[str]] = field(default_factory=dict)
    _ranked: tuple[int, int, Ranked] | None = None  # cached result of `busiest`, with its arguments

    def add_all(self, cells: Mapping[ClientKey, ClientCell]) -> None:
        for (hour, address, *_), cell in cells.items():
            self.add(hour, address, cell.requests_ok + cell.requests_failed + cell.requests_cancelled)

    def add(self, hour: int, address: str, requests: int) -> None:
        clients, client = self.hours.setdefault(hour, Counter()), client_of(address)
        if client in clients or len(clients) < MAX_CLIENTS:
            clients[client] += requests
            self._ranked = None

    def advance(self, hour: int) -> None:
        """Remove hours that are too long before `hour`, the current one."""
        for old in [kept_hour for kept_hour in self.hours if kept_hour <= hour - RETAINED_HOURS]:
            del self.hours[old]

    def busiest(self, hour: int, limit: int) -> Ranked:
        """Return the clients with the most requests in `hour` and the hour before, busiest first, then by name."""
        if self._ranked is None or self._ranked[:2] != (hour, limit):
            sums = self.hours.get(hour - 1, Counter()) + self.hours.get(hour, Counter())
            ranked = heapq.nsmallest(limit, sums.items(), key=lambda client: (-client[1], client[0]))
            self._ranked = (hour, limit, tuple(ranked))
        return self._ranked[2]
