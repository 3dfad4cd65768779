"""What is so now and in no record: requests in flight and waiting, endpoints online. By minute, for an hour.

Looked at once a second, in control alone. They begin anew when it does: nothing is restored that nobody wrote down.
"""

from dataclasses import dataclass

MINUTES = 60
EVERY_SECONDS = 1.0


@dataclass(slots=True)
class Gauge:
    """Of one minute: the most in flight and waiting, the fewest online."""

    in_flight: int
    waiting: int
    online: int


class Gauges:
    def __init__(self) -> None:
        self._minutes: dict[int, Gauge] = {}
        self._looked_at = 0.0

    def due(self, now: float) -> bool:
        """Also when the clock was set back."""
        return not 0 <= now - self._looked_at < EVERY_SECONDS

    def note(self, now: float, in_flight: int, waiting: int, online: int) -> None:
        self._looked_at = now
        minute = int(now // 60)
        known = self._minutes.get(minute)
        if known is not None:
            in_flight, waiting = max(known.in_flight, in_flight), max(known.waiting, waiting)
            online = min(known.online, online)
        self._minutes[minute] = Gauge(in_flight, waiting, online)
        for old in [at for at in self._minutes if not minute - MINUTES < at <= minute]:
            del self._minutes[old]

    def at(self, minute: int) -> Gauge | None:
        return self._minutes.get(minute)

    def forget(self) -> None:
        """As if just started; for tests."""
        self._minutes = {}
        self._looked_at = 0.0


gauges = Gauges()
