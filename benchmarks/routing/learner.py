"""Speeds of simulated endpoints, learned as the product learns them."""

from collections import deque
from math import exp
from typing import NamedTuple

from gateway.registry.schema import Speeds
from gateway.routing.adaptive import RATIOS, UNKNOWN_RATIOS, UNMEASURED

WINDOW = 256
_RECENT, _OUTLIER, _ROUNDS = 45.0, 0.3, 3


class Sample(NamedTuple):
    """A duration, and what it was spent on."""

    seconds: float
    read: float  # prompt tokens read at the endpoint from its start to its end
    written: float
    shared: float  # tokens written, times the mean number of requests in flight


def fit(samples: "deque[Sample]", kind: str, completions: int) -> Speeds:
    """Fit the four parameters by weighted least squares with weak priors."""
    share_ratio, read_ratio = RATIOS.get(kind, UNKNOWN_RATIOS)
    theta = [UNMEASURED.setup, UNMEASURED.write * read_ratio, UNMEASURED.write, UNMEASURED.write * share_ratio]
    first = True
    for _ in range(_ROUNDS + 1):
        theta = _round(samples, theta, share_ratio, read_ratio, first=first)
        first = False
    setup, read, write, share = theta
    return Speeds(setup, read, write, share, completions)


def _round(
    samples: "deque[Sample]", theta: list[float], share_ratio: float, read_ratio: float, *, first: bool
) -> list[float]:
    write = theta[2]
    rows: list[tuple[float, tuple[float, float, float, float], float]] = [
        (0.1 / UNMEASURED.setup**2, (1, 0, 0, 0), UNMEASURED.setup),
        (0.05 / UNMEASURED.write**2, (0, 0, 1, 0), UNMEASURED.write),
        (0.1 / (share_ratio * write) ** 2, (0, 0, -share_ratio, 1), 0.0),
        (0.03 / (read_ratio * write) ** 2, (0, 1, -read_ratio, 0), 0.0),
    ]
    for rank, (seconds, read, written, shared) in enumerate(reversed(samples)):
        x = (1.0, read, written, shared)
        expected = sum(p * v for p, v in zip(theta, x, strict=True))
        scale = max(1e-3, seconds if first else expected)
        weight = exp(-rank / _RECENT) / scale**2
        off = abs(expected - seconds) / scale
        if not first and off > _OUTLIER:
            weight *= _OUTLIER / off
        rows.append((weight, x, seconds))
    matrix = [[0.0] * 5 for _ in range(4)]
    for weight, x, y in rows:
        for line, value in zip(matrix, x, strict=True):
            if value:
                k = weight * value
                line[0] += k * x[0]
                line[1] += k * x[1]
                line[2] += k * x[2]
                line[3] += k * x[3]
                line[4] += k * y
    found = _solve(matrix)
    floors = (1e-4, 1e-7, 1e-5, 0.0)
    return [max(floor, value) for floor, value in zip(floors, found, strict=True)]


def _solve(matrix: list[list[float]]) -> list[float]:
    size = len(matrix)
    for at in range(size):
        pivot = max(range(at, size), key=lambda row: abs(matrix[row][at]))
        matrix[at], matrix[pivot] = matrix[pivot], matrix[at]
        for row in range(size):
            if row != at:
                factor = matrix[row][at] / matrix[at][at]
                matrix[row] = [x - factor * y for x, y in zip(matrix[row], matrix[at], strict=True)]
    return [matrix[at][size] / matrix[at][at] for at in range(size)]
