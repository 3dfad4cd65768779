"""Quotas that refill at a steady rate, and the formats of the times in rate-limit headers. No I/O."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass
class Bucket:
    """Room for `limit` units that refills within `period` seconds."""

    limit: int
    period: float
    level: float
    filled_at: float

    def refill(self, now: float) -> None:
        self.level = min(float(self.limit), self.level + (now - self.filled_at) * self.limit / self.period)
        self.filled_at = now

    @property
    def remaining(self) -> int:
        return int(self.level + 1e-9)

    @property
    def full_in(self) -> float:
        """Seconds until it is full."""
        return (self.limit - self.level) * self.period / self.limit

    def seconds_until(self, units: float) -> float:
        return max(0.0, (min(units, self.limit) - self.level) * self.period / self.limit)


class Quota:
    """Quotas of one cloud, by name: `requests`, `tokens`."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}

    def configure(self, limits: dict[str, int], period: float, now: float) -> None:
        """Set the limits per period. A bucket whose limit is as before keeps its level; a limit of 0 removes it."""
        for name, limit in limits.items():
            known = self.buckets.get(name)
            if not limit:
                self.buckets.pop(name, None)
            elif known is None or known.limit != limit:
                self.buckets[name] = Bucket(limit, period, limit, now)

    def take(self, units: dict[str, int], now: float) -> float:
        """Take units of all buckets and return 0, or take nothing and return the seconds until there is room."""
        for bucket in self.buckets.values():
            bucket.refill(now)
        wait = max((bucket.seconds_until(units[name]) for name, bucket in self.buckets.items()), default=0.0)
        wait = 0.0 if wait < 1e-6 else wait  # times are not exact
        if not wait:
            for name, bucket in self.buckets.items():
                bucket.level -= units[name]
        return wait


def go_duration(seconds: float) -> str:
    """Return a duration as OpenAI and Groq write it: `12ms`, `7.66s`, `6m0s`, `1h2m3s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    rounded = math.ceil(seconds * 100) / 100
    hours, rest = divmod(rounded, 3600)
    minutes, rest = divmod(rest, 60)
    text = f"{rest:.2f}".rstrip("0").rstrip(".")
    if hours:
        return f"{int(hours)}h{int(minutes)}m{text}s"
    return f"{int(minutes)}m{text}s" if minutes else f"{text}s"


def rfc3339(moment: float) -> str:
    """Return a moment in whole seconds of UTC as Anthropic writes it."""
    return datetime.fromtimestamp(math.ceil(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
