"""How many requests each client sent in the present hour of the clock and in the one before, for whoever asks without
a database. Hours, not minutes: those of clients are what the database has, so a restart changes nothing.

A client is an IPv4 address, or an IPv6 /64: within one, a machine changes its address as it likes.
"""

import heapq
import ipaddress
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from metrics.fold import ClientCell, ClientKey

KEPT = 5  # hours, the present one among them: further back the clock is not set without all figures being read again
MOST_CLIENTS = 20_000  # of an hour; any that come then are told by the database alone

Ranked = tuple[tuple[str, int], ...]


@lru_cache(maxsize=8192)
def client_of(address: str) -> str:
    """The client that an address belongs to."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address  # of a journal that was made by hand
    if isinstance(found, ipaddress.IPv4Address) or found.is_loopback:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))


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
