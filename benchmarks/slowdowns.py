"""How often slow-downs are found where there is none, and how soon where there is one: simulated years of requests.

Only samples are simulated (metrics.learning.past), with what makes a comparison with the past hard: requests whose
durations differ a lot, hours that differ for no visible reason, load that changes with the day and grows, clients that
come and go with other prompts and responses, and servers whose real curve is not the learned one. Each day is judged as
control judges it.
"""

import argparse
import math
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from metrics.learning import slowdown
from metrics.learning.past import HOUR_US, PER_SLOT, SLOT_US, PastSample
from metrics.learning.slowdown import DAY_US, Slowdown

SLOTS = 144  # a day
WARM_UP_DAYS = 21
WEEK_DAYS = 7
FACTORS = (1.5, 2.0, 3.0)
MOST_A_WEEK = 1.0  # false alarms of all endpoints together


@dataclass(frozen=True, slots=True)
class World:
    """An endpoint and its traffic. Durations in seconds."""

    name: str
    per_slot: float  # requests in ten minutes, on average
    noise: float = 0.3  # standard deviation of the logarithm of a duration
    tail: float = 0.02  # share of requests that take much longer
    hours: float = 0.05  # standard deviation of the logarithm of an hour's speed, which fades within hours
    bend: float = 1.0  # exponent of the requests in flight
    steps: int = 1  # requests in flight that are computed together
    growth: float = 0.0  # of the load in a week
    mix: float = 0.0  # share of days on which other clients are there
    strangers: float = 0.0  # share of time in which others make it half as slow again


WORLDS = (
    World("busy", 60.0),
    World("busy, noisy", 60.0, noise=0.6, tail=0.05),
    World("few requests", 1.0, noise=0.4),
    World("hours differ", 20.0, hours=0.15),
    World("convex curve", 20.0, bend=1.4),
    World("curve in steps", 20.0, steps=8),
    World("growing load", 20.0, growth=0.05, bend=1.2),
    World("other clients", 20.0, mix=0.3, bend=1.2),
    World("strangers", 20.0, strangers=0.1),
    World("rare requests", 0.15, noise=0.5),
)


class Traffic:
    """Samples of an endpoint, day after day."""

    def __init__(self, world: World, seed: str) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.hour = 0.0
        self.stranger = False

    def day(self, day: int, factor: float = 1.0, from_slot: int = 0) -> list[PastSample]:
        """Return the samples of a day; from a slot on, requests take `factor` times as long."""
        others = self.rng.random() < self.world.mix
        samples: list[PastSample] = []
        for slot in range(SLOTS):
            if slot % 6 == 0:
                self.hour = 0.7 * self.hour + self.world.hours * math.sqrt(1 - 0.7**2) * self.rng.gauss(0, 1)
            if self.rng.random() < 0.3:  # they stay for about half an hour
                self.stranger = self.rng.random() < self.world.strangers
            slow = (factor if slot >= from_slot else 1.0) * (1.5 if self.stranger else 1.0)
            samples += self._slot(day, slot, slow * math.exp(self.hour), others)
        return samples

    def _slot(self, day: int, slot: int, slow: float, others: bool) -> Iterator[PastSample]:
        world, rng = self.world, self.rng
        share = (1 + 0.8 * math.sin((slot / SLOTS - 0.3) * 2 * math.pi)) * (0.5 if day % WEEK_DAYS > 4 else 1.2)
        rate = world.per_slot * share * (1 + world.growth) ** (day / WEEK_DAYS) * (2 if others else 1)
        count = min(PER_SLOT, _poisson(rng, rate))
        start = day * DAY_US + slot * SLOT_US
        times = sorted(rng.randrange(SLOT_US) for _ in range(count))
        for moment in times:
            load = 1 + min(30.0, rate / 8) * rng.expovariate(1.0)
            read = int(rng.lognormvariate(7.5 if others else 5.5, 0.8))
            output = max(1, int(rng.lognormvariate(4.0 if others and rng.random() < 0.7 else 5.0, 0.8)))
            beside = math.ceil(load / world.steps) * world.steps
            seconds = 0.05 + 0.0003 * read + output * (0.01 + 0.002 * beside**world.bend)
            noise = rng.lognormvariate(0.0, world.noise)
            if rng.random() < world.tail:
                noise *= 1 + rng.paretovariate(1.2)
            duration = int(seconds * noise * slow * 1e6)
            yield PastSample(start + moment, rng.getrandbits(48), duration, read, output, int(duration * load))


def _poisson(rng: random.Random, mean: float) -> int:
    if mean > 30:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    count, left = 0, math.exp(-mean)
    chance = rng.random()
    while chance > left:
        count += 1
        chance *= rng.random()
    return count


class Judge:
    """Days of samples of one endpoint, each judged as control judges it at its end."""

    def __init__(self) -> None:
        self._days: list[list[PastSample]] = []
        self._thinned: list[list[PastSample]] = []

    def add(self, samples: list[PastSample]) -> None:
        """Add the next day."""
        self._days.append(samples)
        self._thinned.append(slowdown.reference_samples(samples))

    def begun(self) -> list[Slowdown]:
        """Return the slow-downs that were found on the last day, as they were then."""
        today = (len(self._days) - 1) * DAY_US
        start = max(0, slowdown.reference_start(today) // DAY_US)
        first = next((of[0].completed_us for of in self._days[start:] if of), today)
        end = slowdown.reference_end(first, today)
        whole = end // DAY_US  # the day in which the reference ends
        past = [sample for of in self._thinned[start : whole + 1] for sample in of if sample.completed_us < end]
        reference = slowdown.reference(past, "")
        if reference is None:
            return []
        later = (sample for of in self._days[whole:] for sample in of if sample.completed_us >= end)
        return [beginning for beginning in slowdown.beginnings(reference, later) if beginning.last_us >= today]


def false_alarms(world: World, days: int, seed: int) -> int:
    """Return how often a slow-down is found in so many days, of which the first are those of a new endpoint."""
    traffic, judge = Traffic(world, f"{world.name} {seed}"), Judge()
    alarms = 0
    for day in range(days):
        judge.add(traffic.day(day))
        alarms += len(judge.begun())
    return alarms


@dataclass(frozen=True, slots=True)
class Detection:
    """How a slow-down was found. Hours are since it really began."""

    requests: int  # that the endpoint had had by then
    after: float  # hours
    began: float  # hours: when it is said to have begun
    factor: float


def detection(world: World, factor: float, seed: int) -> Detection | None:
    """Let an endpoint become slower, and return how that is found; None if it is not within four days."""
    traffic, judge = Traffic(world, f"{world.name} {factor} {seed}"), Judge()
    slot = traffic.rng.randrange(SLOTS)
    began = WARM_UP_DAYS * DAY_US + slot * SLOT_US
    requests = 0
    for day in range(WARM_UP_DAYS + 4):
        is_first = day == WARM_UP_DAYS
        samples = traffic.day(day, factor if day >= WARM_UP_DAYS else 1.0, slot if is_first else 0)
        judge.add(samples)
        if day < WARM_UP_DAYS:
            continue
        beginning = next((beginning for beginning in judge.begun() if beginning.last_us >= began), None)
        last = (
            samples[-1].completed_us
            if beginning is None and samples
            else beginning.last_us
            if beginning is not None
            else 0
        )
        requests += sum(began <= sample.completed_us <= last for sample in samples)
        if beginning is not None:
            return Detection(
                requests,
                (beginning.last_us - began) / HOUR_US,
                (beginning.since_us - began) / HOUR_US,
                beginning.factor,
            )
    return None


def _middle(values: Iterable[float]) -> float:
    return median(list(values))


def report(worlds: Sequence[World], days: int, cases: int) -> float:
    """Print a line for each world, and return the false alarms of all together in a week."""
    print(f"{days} days of each; false alarms a week, then median requests and hours until a slow-down is found,")
    print("how many of the cases were found, and the error of its beginning in hours")
    total = 0.0
    for world in worlds:
        weekly = false_alarms(world, days, 1) / days * WEEK_DAYS
        total += weekly
        cells = []
        for factor in FACTORS:
            detections = [detected for seed in range(cases) if (detected := detection(world, factor, seed)) is not None]
            text = f"{len(detections)}/{cases}"
            if detections:
                requests, hours = (
                    _middle(detected.requests for detected in detections),
                    _middle(detected.after for detected in detections),
                )
                text += f" {requests:.0f} {hours:.1f} h {_middle(detected.began for detected in detections):+.1f}"
            cells.append(f"× {factor}: {text:22}")
        print(f"{world.name:16} {weekly:.3f}  {'  '.join(cells)}", flush=True)
    print(f"all together     {total:.3f} a week")
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slowdowns", description=__doc__)
    parser.add_argument("--days", type=int, default=365, help="simulated days of each endpoint (%(default)s)")
    parser.add_argument("--cases", type=int, default=9, help="slow-downs of each factor and endpoint (%(default)s)")
    parser.add_argument("--only", default="", help="endpoints whose name begins with this text")
    options = parser.parse_args(arguments)
    worlds = [world for world in WORLDS if world.name.startswith(options.only)]
    return int(report(worlds, options.days, options.cases) > MOST_A_WEEK)


if __name__ == "__main__":
    sys.exit(main())
