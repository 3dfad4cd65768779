"""Trackers: the state of all figures in memory behind a lock, and consistent copies of it.

Control has one instance. Readers hold the lock while they copy, the journal follower while it adds a batch.
"""

import threading
import time
from zoneinfo import ZoneInfo

from metrics.counting.cells import Cell, local_date
from metrics.counting.fold import Fold
from metrics.memory import last_hour
from metrics.memory.copies import Copies
from metrics.memory.figures import TIMELINE_MINUTES, Figures, Point, Slot
from metrics.memory.state import CLOCK_SLACK_SECONDS, FiguresState


class Trackers:
    """State, lock and version of the figures in memory."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.lock = threading.RLock()
        self.zone = zone
        self.state = FiguresState(zone)
        self.seeded = False
        self.clock_went_back = False  # removed sums are then needed again, from the database
        self.version = 0
        self._read_at = 0.0
        self._copies: Copies | None = None

    def install(self, state: FiguresState) -> None:
        """Replace the whole state with one that was read from the database."""
        with self.lock:
            self.state = state
            self.seeded = True
            self.clock_went_back = False
            self._read_at = state.read_at
            self.version += 1

    def add(self, fold: Fold) -> None:
        with self.lock:
            self.state.add(fold)
            self.version += 1

    def figures(self, now: float | None = None) -> Figures:
        """Return a copy of all figures. Averages and percentiles cover the last 24 hours.

        If no request succeeded in 24 hours, they cover the last day with a successful request.
        """
        now = time.time() if now is None else now
        with self.lock:
            state = self.state
            if now < self._read_at - CLOCK_SLACK_SECONDS:
                self.clock_went_back = True
            self._read_at = max(self._read_at, now)
            state.advance(now)
            date = local_date(int(now // 60), self.zone)
            today = state.days.get(date)
            if self._copies is None or self._copies.state is not state or self._copies.date != date:
                self._copies = Copies(state, date)
            copy = self._copies.take(now)
            return Figures(
                version=self.version,
                at=now,
                endpoints=copy.endpoints,
                usage=copy.usage,
                totals=dict(state.totals),
                timeline=_timeline(state, now),
                points=_points(state, now),
                hour=dict(state.hour.sums),
                clients=state.clients.busiest(int(now // 3600), last_hour.BUSIEST),
                answered=_answered(state).copy(),
                speeds=copy.speeds,
                today=copy.today,
                average_today_ms=copy.average_today_ms,
                endpoint_speeds=copy.endpoint_speeds,
                totals_today=dict(today.totals) if today is not None else {},
                date=date,
                seeded=self.seeded and not state.missing,
            )


_EMPTY = Cell()


def _timeline(state: FiguresState, now: float) -> tuple[Slot, ...]:
    last = int(now // 60)
    minutes = range(last - TIMELINE_MINUTES + 1, last + 1)
    cells = (state.minutes.get(minute, _EMPTY) for minute in minutes)
    return tuple(
        Slot(minute, cell.requests_ok, cell.requests_failed) for minute, cell in zip(minutes, cells, strict=True)
    )


def _points(state: FiguresState, now: float) -> tuple[Point, ...]:
    """Return the points of the timeline. Percentiles are expensive, so unchanged minutes come from a cache."""
    last = int(now // 60)
    points: dict[int, Point] = {}
    for minute in range(last - TIMELINE_MINUTES + 1, last + 1):
        cell, cached = state.minutes.get(minute, _EMPTY), state.points.get(minute)
        points[minute] = cached if cached is not None and cached.describes(cell) else Point.from_cell(minute, cell)
    state.points = points
    return tuple(points.values())


def _answered(state: FiguresState) -> Cell:
    if state.recent.requests_ok or state.latest_day is None:
        return state.recent
    return state.latest_day[1]
