"""Slow-downs: an endpoint that has become slower than its own past at equal load. They are shown to people.

The past of a model at an endpoint is a fair choice of its requests (metrics.learning.past). A reference is fitted to
its older part: the duration that the same request, beside as many others, would have had then. Of later requests only
the logarithm of actual over expected durations matters. Its sum is a sequential test (CUSUM, after Page, "Continuous
inspection schemes", 1954): it grows only while requests are slower than the reference's own hours differ, and a
slow-down began where the sum last was zero. It ends by the same test in the other direction.

Everything is a function of samples and the time, so that a restart finds the same slow-downs.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from statistics import fmean, median, quantiles
from typing import NamedTuple

from gateway.routing.expected_time import Parameters
from metrics.learning.fit import SHORTEST, fit
from metrics.learning.past import HOUR_US, MINUTE_US, PastSample, hour_of, speed_sample

DAY_US = 24 * HOUR_US
# What is judged are the last seven days; the reference are the 14 days before. So a slow-down becomes normal in time.
JUDGED_US, REFERENCE_US = 7 * DAY_US, 14 * DAY_US
SHORTEST_REFERENCE_US = 3 * DAY_US  # of an endpoint that is newer
LEAST_REFERENCE = 96  # samples
PER_HOUR = 8  # samples of the reference, so that nights count as much as days
JUDGED_HOURS, STORED_HOURS = 9 * 24, 22 * 24  # after them, samples are thinned and deleted
CURRENT_US = DAY_US  # a slow-down is over if nothing followed for so long
LEAST_US = 20 * MINUTE_US  # a slow-down is shown once it has lasted so long
LATEST = 8  # requests, of which most must be slow when it is first shown

CLIP = 0.7  # a request counts at most as if it had taken twice as long as the slack allows
LEAST_SLACK = math.log(1.2)  # nothing is shown that is slower by less
MOST_SLACK = math.log(1.8)  # what is slower by more is shown, however much the reference's hours differ
SPREADS = 4.0  # otherwise it must differ by this many standard deviations of those hours,
MARGIN = 1.5  # and by this many times as much as the slowest 2 % of them
TAIL = 2.054  # standard deviations that 2 % of a normal distribution exceed
LEAST_LIMIT, EXPONENT = 5.0, 20.0  # of the sum: false alarms become as rare as exp(-EXPONENT)
BLOCK = 4  # samples of the reference whose mean tells how hours differ
LEVELS = 4  # of load, each with its own error of the fit
REACH = 1.1  # times the load and the lengths of the reference; beyond, its fit tells nothing
MAD = 1.4826  # standard deviation of a normal distribution with a median absolute deviation of 1


class Slowdown(NamedTuple):
    """A slow-down that has not ended. Times in µs since 1970."""

    since_us: int
    factor: float  # by which requests take longer, in the median
    requests: int  # samples since then
    last_us: int


class _Range(NamedTuple):
    """What is compared with the reference: values like its own."""

    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "_Range":
        cuts = quantiles(values, n=50)
        return cls(cuts[0] / REACH, cuts[-1] * REACH)

    def has(self, value: float) -> bool:
        return self.least <= value <= self.most


class Reference(NamedTuple):
    """How long requests took in the past."""

    parameters: Parameters
    load: _Range  # requests in flight
    read: _Range  # tokens
    output: _Range
    edges: list[float]  # of the levels of load
    errors: list[float]  # mean logarithm of actual over expected durations, by level
    slack: float  # logarithm of the ratio that is not noticed
    limit: float  # of the sum

    def excess(self, sample: PastSample) -> float | None:
        """Return the logarithm of actual over usual durations; None if the reference has no such requests."""
        load = _load(sample)
        if not (self.load.has(load) and self.output.has(sample.output) and self.read.has(sample.read)):
            return None
        return log_ratio(self.parameters, sample, load) - self.errors[bisect_right(self.edges, load)]


def _load(sample: PastSample) -> float:
    return max(1.0, sample.shared_us / sample.duration_us)


def log_ratio(of: Parameters, sample: PastSample, load: float) -> float:
    """Return the logarithm of the actual over the expected duration, beside `load` requests on average."""
    expected = max(of.duration(sample.read, sample.output, load), SHORTEST)
    return math.log(sample.duration_us / 1e6 / expected)


def reference_start(now_us: int) -> int:
    """Return when the reference begins: at midnight (UTC), so that it changes once a day."""
    return now_us // DAY_US * DAY_US - JUDGED_US - REFERENCE_US


def reference_end(first_us: int, now_us: int) -> int:
    """Return when the reference ends, of which the first sample is from `first_us`."""
    return max(now_us // DAY_US * DAY_US - JUDGED_US, first_us + SHORTEST_REFERENCE_US)


def reference_samples(samples: Iterable[PastSample]) -> list[PastSample]:
    """Return those of sorted samples that a reference is fitted to: the first by chance of each hour."""
    chosen_samples: list[PastSample] = []
    for _, of_hour in groupby(samples, lambda sample: hour_of(sample.completed_us)):
        chosen_samples += sorted(sorted(of_hour, key=attrgetter("number", "completed_us"))[:PER_HOUR])
    return chosen_samples


def reference(samples: Sequence[PastSample], engine: str) -> Reference | None:
    """Return the reference of sorted samples; None of too few."""
    if len(samples) < LEAST_REFERENCE:
        return None
    parameters = fit([speed_sample(sample) for sample in samples], engine, weights=[1.0] * len(samples))
    loads = [_load(sample) for sample in samples]
    edges = quantiles(loads, n=LEVELS)
    ratios = [log_ratio(parameters, sample, load) for sample, load in zip(samples, loads, strict=True)]
    errors = _errors(ratios, [bisect_right(edges, load) for load in loads])
    rests = [ratio - errors[bisect_right(edges, load)] for ratio, load in zip(ratios, loads, strict=True)]
    slack, limit = _threshold([max(-CLIP, min(CLIP, rest)) for rest in rests])
    outputs, reads = [float(sample.output) for sample in samples], [float(sample.read) for sample in samples]
    return Reference(parameters, _Range.of(loads), _Range.of(reads), _Range.of(outputs), edges, errors, slack, limit)


def _errors(ratios: Sequence[float], levels: Sequence[int]) -> list[float]:
    """Return the mean error of the fit at each level of load, without the influence of outliers."""
    errors = []
    for level in range(LEVELS):
        of_level = [ratio for ratio, its in zip(ratios, levels, strict=True) if its == level] or list(ratios)
        middle = median(of_level)
        errors.append(middle + fmean(max(-CLIP, min(CLIP, ratio - middle)) for ratio in of_level))
    return errors


def _threshold(rests: Sequence[float]) -> tuple[float, float]:
    """Return slack and limit, so that neither the noise of single requests nor that of whole hours is an alarm."""
    noise = fmean(rest * rest for rest in rests)
    means = [fmean(rests[start : start + BLOCK]) for start in range(0, len(rests) - BLOCK + 1, BLOCK)]
    middle = median(means)
    spread = MAD * median(abs(mean - middle) for mean in means)
    hours = _without(noise / BLOCK, spread)
    slowest = MARGIN * _without(TAIL * TAIL * noise / BLOCK, quantiles(means, n=50)[-1] - middle)
    slack = min(MOST_SLACK, max(LEAST_SLACK, SPREADS * hours, slowest))
    return slack, max(LEAST_LIMIT, EXPONENT * noise / (2 * slack))


class _Test:
    """The sequential test of the requests after a reference, in their order."""

    def __init__(self, of: Reference) -> None:
        self._of = of
        self.is_slow = False
        self._up = self._down = self._total = 0.0
        self._since: list[tuple[int, float]] = []  # requests since the sum was zero: time and excess

    def add(self, sample: PastSample) -> bool:
        """Add a request. Return True if a slow-down has begun or ended."""
        of = self._of
        excess = of.excess(sample)
        if excess is None:
            return False
        if not self.is_slow:
            self._up = min(of.limit, self._up + max(-CLIP, min(CLIP, excess - of.slack)))
            if self._up <= 0.0:
                self._forget()
                return False
        self._since.append((sample.completed_us, excess))
        self._total += min(excess, CLIP + of.slack)
        if not self.is_slow:
            self.is_slow = self._up >= of.limit and self._lasts(sample.completed_us)
            return self.is_slow
        between = self._total / len(self._since) / 2
        self._down = max(0.0, self._down + max(-CLIP, min(CLIP, between - excess)))
        if self._down < of.limit:
            return False
        self._forget()
        return True

    def _lasts(self, now_us: int) -> bool:
        """Return True unless it is as short as a stall, or seems to be over."""
        latest = median(excess for _, excess in self._since[-LATEST:])
        return now_us - self._since[0][0] >= LEAST_US and latest > self._of.slack

    def _forget(self) -> None:
        self.is_slow = False
        self._up = self._down = self._total = 0.0
        self._since.clear()

    @property
    def slowdown(self) -> Slowdown:
        factor = math.exp(median(excess for _, excess in self._since))
        return Slowdown(self._since[0][0], factor, len(self._since), self._since[-1][0])


def _without(variance: float, spread: float) -> float:
    """Return the part of a spread that noise of this variance does not explain."""
    return math.sqrt(max(0.0, spread * abs(spread) - variance))


def find(of: Reference, samples: Iterable[PastSample]) -> Slowdown | None:
    """Return the slow-down that goes on at the last of sorted samples after the reference, or None."""
    test = _Test(of)
    for sample in samples:
        test.add(sample)
    return test.slowdown if test.is_slow else None


def beginnings(of: Reference, samples: Iterable[PastSample]) -> Iterator[Slowdown]:
    """Yield each slow-down as it was when it was found."""
    test = _Test(of)
    for sample in samples:
        if test.add(sample) and test.is_slow:
            yield test.slowdown
