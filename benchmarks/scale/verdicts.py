"""Measured values beside their bounds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """A measured value, and the largest allowed one; None if the value is only information."""

    name: str
    value: float
    unit: str
    bound: float | None = None

    @property
    def ok(self) -> bool:
        return self.bound is None or self.value <= self.bound

    @property
    def word(self) -> str:
        return "" if self.bound is None else "OK" if self.ok else "over"


def percentile(values: Iterable[float], share: float) -> float:
    """Return the nearest-rank percentile; NaN without values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] if ordered else math.nan


def table(verdicts: Sequence[Verdict]) -> str:
    """Return a Markdown table."""
    rows = [("measurement", "value", "bound", "")]
    for verdict in verdicts:
        bound = "" if verdict.bound is None else f"{_number(verdict.bound)} {verdict.unit}".strip()
        rows.append((verdict.name, f"{_number(verdict.value)} {verdict.unit}".strip(), bound, verdict.word))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"| {row[0]:<{widths[0]}} | {row[1]:>{widths[1]}} | {row[2]:>{widths[2]}} | {row[3]:<{widths[3]}} |"
        for row in rows
    ]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])


def _number(value: float) -> str:
    if math.isnan(value):
        return "none"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def over(verdicts: Iterable[Verdict]) -> bool:
    """Return True if a value exceeds its bound. NaN, a value that could not be measured, does."""
    return any(not verdict.ok for verdict in verdicts)
