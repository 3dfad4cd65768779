"""Maxima of running and queued requests and the minimum of online endpoints, by minute, for the last 60 minutes.

Control samples them once a second. No record contains these values, so they start empty when control starts.
"""

from dataclasses import dataclass

MINUTES = 60
EVERY_SECONDS = 1.0


@dataclass(slots=True)
class Gauge:
    """Values of one minute: most requests in flight and waiting, fewest endpoints online."""

    in_flight: int
    waiting: int
    online: int


class Gauges:
    """Gauges of the last 60 minutes."""

    def __init__(self) -> None:
        self._minutes: dict[int, Gauge] = {}
        self._sampled_at = 0.0

    def due(self, now: float) -> bool:
        """Return True if a sample is due, also after the clock was set back."""
        return not 0 <= now - self._sampled_at < EVERY_SECONDS

    def note(self, now: float, in_flight: int, waiting: int, online: int) -> None:
        """Add a sample to its minute."""
        self._sampled_at = now
        minute = int(now // 60)
        gauge = self._minutes.get(minute)
        if gauge is not None:
            in_flight, waiting = max(gauge.in_flight, in_flight), max(gauge.waiting, waiting)
            online = min(gauge.online, online)
        self._minutes[minute] = Gauge(in_flight, waiting, online)
        for old in [kept_minute for kept_minute in self._minutes if not minute - MINUTES < kept_minute <= minute]:
            del self._minutes[old]

    def at(self, minute: int) -> Gauge | None:
        return self._minutes.get(minute)

    def reset(self) -> None:
        """Remove all samples; for tests."""
        self._minutes = {}
        self._sampled_at = 0.0


gauges = Gauges()
