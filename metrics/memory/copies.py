"""Copies of the sums by endpoint and by model, which readers may keep while the originals are added to.

Only sums that were added to since the last copy are copied again: with 1,000 endpoints of 50 models each, figures are
read several times a second.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from metrics.counting.cells import Counters, Daily, EndpointUsage
from metrics.counting.speeds import SpeedKey
from metrics.memory.figures import EndpointSpeed
from metrics.memory.state import FiguresState, Today


@dataclass(frozen=True, slots=True)
class Copy:
    """The copies at one moment. See the fields of the same name in `Figures`."""

    endpoints: dict[str, Counters]
    usage: dict[str, EndpointUsage]
    speeds: dict[SpeedKey, float]
    today: dict[SpeedKey, Daily]
    average_today_ms: dict[SpeedKey, float]
    endpoint_speeds: dict[str, EndpointSpeed]


class Copies:
    """Copies of one state and one local date. The caller holds the lock of the trackers."""

    def __init__(self, state: FiguresState, date: str) -> None:
        self.state = state
        self.date = date
        self._copy = Copy({}, {}, {}, {}, {}, {})
        self._keys: dict[str, set[SpeedKey]] = {}  # with a speed or requests of this date, by endpoint
        self._ahead: set[SpeedKey] = set()  # their speeds change with time
        self._taken_at = 0.0
        self._touch_all()

    def take(self, now: float) -> Copy:
        """Return the present copies."""
        if now < self._taken_at:
            self._touch_all()  # the clock was set back, so any speed may have samples of the future
        self._taken_at = now
        touched = self.state.touched
        self._copy_endpoints(touched.endpoints)
        self._copy_models(touched.models | self._ahead, now)
        touched.clear()
        copy = self._copy
        return Copy(
            copy.endpoints.copy(),
            copy.usage.copy(),
            copy.speeds.copy(),
            copy.today.copy(),
            copy.average_today_ms.copy(),
            copy.endpoint_speeds.copy(),
        )

    def _touch_all(self) -> None:
        today, touched = self._today(), self.state.touched
        touched.endpoints.update(self.state.endpoints, self.state.usage)
        touched.models.update(self.state.speeds, today.attempts, today.answered)

    def _today(self) -> Today:
        return self.state.days.get(self.date) or Today()

    def _copy_endpoints(self, ids: Iterable[str]) -> None:
        for endpoint_id in ids:
            if (counters := self.state.endpoints.get(endpoint_id)) is not None:
                self._copy.endpoints[endpoint_id] = Counters(
                    counters.total, counters.successful, counters.failed, counters.cancelled
                )
            if (usage := self.state.usage.get(endpoint_id)) is not None:
                self._copy.usage[endpoint_id] = EndpointUsage(
                    usage.requests_ok, usage.duration_us, usage.input_tokens, usage.output_tokens
                )

    def _copy_models(self, keys: Iterable[SpeedKey], now: float) -> None:
        today, copy = self._today(), self._copy
        changed: set[str] = set()
        for key in keys:
            changed.add(key[0])
            daily, answered = today.attempts.get(key), today.answered.get(key)
            if daily is not None:
                copy.today[key] = Daily(
                    daily.total, daily.successful, daily.failed, daily.output_tokens, daily.duration_ms
                )
            if answered is not None and (average := answered.average_ms):
                copy.average_today_ms[key] = average
            if (speed := self._speed(key, daily, now)) is not None:
                copy.speeds[key] = speed
            if daily is not None or speed is not None:
                self._keys.setdefault(key[0], set()).add(key)
        for endpoint_id in changed:
            self._add_up(endpoint_id)

    def _speed(self, key: SpeedKey, daily: Daily | None, now: float) -> float | None:
        """Return the moving average; without one, today's tokens divided by today's time."""
        stored = self.state.speeds.get(key)
        if stored is not None:
            if stored.changes_with_time(now):
                self._ahead.add(key)
            else:
                self._ahead.discard(key)
            if (value := stored.value(now)) is not None:
                return value
        return daily.output_tokens / (daily.duration_ms / 1000) if daily is not None and daily.has_speed else None

    def _add_up(self, endpoint_id: str) -> None:
        keys = self._keys.get(endpoint_id)
        if not keys:
            return
        today, speeds = self._copy.today, self._copy.speeds
        measured = [today[key] for key in keys if key in today and today[key].has_speed]
        self._copy.endpoint_speeds[endpoint_id] = EndpointSpeed(
            keys=tuple(sorted(keys)),
            models=len({key[1] for key in keys if key in speeds}),
            output_tokens=sum(daily.output_tokens for daily in measured),
            duration_ms=sum(daily.duration_ms for daily in measured),
            successful=sum(daily.successful for daily in measured),
        )
