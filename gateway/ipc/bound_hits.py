"""Counts of how often each bound was hit, in the live page: they survive restarts and add up over all processes."""

import threading
import time

from gateway.base.bounds import BOUNDS, Bound
from gateway.ipc.live_page import MAX_ROWS, LivePage

CONTROL = MAX_ROWS  # control's row, behind those of the gateways
RECENT_SECONDS = 60  # after its last hit a bound raises an attention item for this long


class Hits:
    """Counts hits in the live page, in the row of one process. Safe for use by several threads."""

    def __init__(self, page: LivePage | None = None, writer: int = CONTROL) -> None:
        """`writer`: the number of a gateway's row, or CONTROL. Without a page nothing is counted."""
        self._page = page
        self._writer = writer
        self._lock = threading.Lock()

    def hit(self, bound: Bound) -> None:
        """Count one request, connection or response that exceeds the bound."""
        if self._page is not None:
            with self._lock:
                self._page.count_hit(self._writer, bound.number, int(time.time()), RECENT_SECONDS)

    def totals(self) -> dict[str, int]:
        """Return the hits of every bound that was ever hit, by name, over all processes."""
        if self._page is None:
            return {}
        counts = ((bound.name, self._page.hits(bound.number)) for bound in BOUNDS)
        return {name: count for name, count in counts if count}

    def recent(self, now: float) -> dict[str, int]:
        """Return the bounds hit within the last minute, each with the second (since 1970) of the first hit."""
        if self._page is None:
            return {}
        spans = ((bound.name, self._page.hit_between(bound.number, int(now) - RECENT_SECONDS)) for bound in BOUNDS)
        return {name: since for name, (since, last) in spans if last}
