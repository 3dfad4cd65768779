"""How many requests each client sent in the present hour of the clock and in the one before, for whoever asks without
a database. Hours, not minutes: those of clients are what the database has, so a restart changes nothing.
"""

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.peer import client_of
from metrics.fold import ClientCell, ClientKey

KEPT = 5  # hours, the present one among them: further back the clock is not set without all figures being read again
MOST_CLIENTS = 20_000  # of an hour; any that come then are told by the database alone

Ranked = tuple[tuple[str, int], ...]


@dataclass(slots=True)
class ClientHours:
    """By hours since 1970."""

    hours: dict[int, Counter[str]] = field(default_factory=dict)
    _ranked: tuple[int, int, Ranked] | None = None  # of which hour, how many, and these

    def add_all(self, cells: Mapping[ClientKey, ClientCell]) -> None:
        for (hour, address, *_), cell in cells.items():
            self.add(hour, address, cell.requests_ok + cell.requests_failed + cell.requests_cancelled)

    def add(self, hour: int, address: str, requests: int) -> None:
        clients, client = self.hours.setdefault(hour, Counter()), client_of(address)
        if client in clients or len(clients) < MOST_CLIENTS:
            clients[client] += requests
            self._ranked = None

    def turn(self, this: int) -> None:
        """Let go of what lies too far before the present hour."""
        for old in [hour for hour in self.hours if hour <= this - KEPT]:
            del self.hours[old]

    def busiest(self, this: int, most: int) -> Ranked:
        """The clients with the most requests in this hour and the one before, those first; equal ones by name."""
        if self._ranked is None or self._ranked[:2] != (this, most):
            sums = self.hours.get(this - 1, Counter()) + self.hours.get(this, Counter())
            found = heapq.nsmallest(most, sums.items(), key=lambda it: (-it[1], it[0]))
            self._ranked = (this, most, tuple(found))
        return self._ranked[2]
