"""Fits of all endpoints of a model: each endpoint with few samples begins from what the others have shown.

The result is a function of the samples, the endpoints and their slow starts alone. It does not depend on the order in
which they were put here, nor on what was fitted before.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.registry.schema import Model, Speeds, names
from gateway.routing.expected_time import Parameters
from metrics.learning import fit
from metrics.learning.doubling import doubling_load, telling_load
from metrics.learning.fit import DEFAULT_PRIOR
from metrics.learning.prefixes import PrefixShares
from metrics.learning.samples import WINDOW, SpeedSample

Target = tuple[str, str, str]  # endpoint, the endpoint's own id of the model, kind
GroupKey = tuple[str, str]  # model, by any endpoint; kind

FEW_SAMPLES = 64  # with more, the prior does not matter, and the other endpoints are not looked at
TELLING_SAMPLES = 3  # with fewer, an endpoint says nothing to others
SMALLEST = 1e-9  # in a geometric mean


class Offer(NamedTuple):
    """What an endpoint offers, as far as learning needs it."""

    engine: str
    exact: Mapping[str, Model]  # its models by name
    folded: Mapping[str, Model]
    since_us: int = 0  # when its slow start began

    def model(self, name: str) -> Model | None:
        """Return the model that a request with this name gets, as gateways find it."""
        return self.exact.get(name) or self.folded.get(name.casefold())


def offer(engine: str, models: Iterable[Model], since_us: int = 0) -> Offer:
    return Offer(engine, *names(models), since_us)


def group_of(model: Model, kind: str) -> GroupKey:
    """Return what the same model has in common at different endpoints."""
    return (model.canonical or model.id).casefold(), kind


def merged(windows: Sequence[Sequence[SpeedSample]]) -> list[SpeedSample]:
    """Return the last samples of the windows of all names of one model."""
    return sorted({sample for window in windows for sample in window})[-WINDOW:]


@dataclass(frozen=True, slots=True)
class _Fitted:
    engine: str
    first: Parameters  # from the default prior
    speeds: Speeds
    count: int
    few: tuple[SpeedSample, ...]  # if they are so few that the others matter
    telling_load: float  # see metrics.learning.doubling


@dataclass(slots=True)
class Fleet:
    """First fits of all targets. `take` returns what is to be published."""

    _groups: dict[GroupKey, dict[Target, _Fitted]] = field(default_factory=dict)
    _group_of: dict[Target, GroupKey] = field(default_factory=dict)
    _news: dict[GroupKey, set[Target]] = field(default_factory=dict)
    prefixes: PrefixShares = field(default_factory=PrefixShares)

    def put(self, target: Target, group: GroupKey, engine: str, since_us: int, samples: Sequence[SpeedSample]) -> None:
        """Replace the samples of a target. They are sorted; there is at least one."""
        if self._group_of.get(target, group) != group:
            self.drop(target)
        first = fit.fit(samples, engine)
        few = tuple(samples) if len(samples) < FEW_SAMPLES else ()
        speeds = fit.speeds(samples, first, since_us)
        load = telling_load(samples)
        self._groups.setdefault(group, {})[target] = _Fitted(engine, first, speeds, len(samples), few, load)
        self._group_of[target] = group
        self._news.setdefault(group, set()).add(target)
        self.prefixes.put(target, samples)

    def drop(self, target: Target) -> None:
        """Forget a target."""
        group = self._group_of.pop(target, None)
        if group is not None:
            del self._groups[group][target]
            self._news.setdefault(group, set()).discard(target)
            self.prefixes.drop(target)

    def doubling_load(self, target: Target) -> int | None:
        """Return the load at which a token of a target takes twice as long as alone; None: it has not been seen yet."""
        fitted = self._groups[self._group_of[target]][target]
        load = doubling_load(fitted.speeds)
        return load if load is not None and load <= fitted.telling_load else None

    def __contains__(self, target: Target) -> bool:
        return target in self._group_of

    def targets(self) -> list[Target]:
        return list(self._group_of)

    def take(self) -> dict[Target, Speeds]:
        """Return the speeds of all targets that may have changed since the last call."""
        speeds: dict[Target, Speeds] = {}
        for group, news in self._news.items():
            fits = self._groups[group]
            prior = _Priors(target_fit.first for target_fit in fits.values() if target_fit.count >= TELLING_SAMPLES)
            for target, target_fit in fits.items():
                if target_fit.few:
                    parameters = fit.fit(target_fit.few, target_fit.engine, prior.without(target_fit))
                    speeds[target] = Speeds(*parameters, target_fit.speeds.completions, target_fit.speeds.kept)
                elif target in news:
                    speeds[target] = target_fit.speeds
            if not fits:
                del self._groups[group]
        self._news = {}
        return speeds


class _Priors:
    """Geometric means of the first fits of a group, and of the default prior."""

    def __init__(self, firsts: Iterable[Parameters]) -> None:
        logs = [_logs(first) for first in firsts]
        self._count = len(logs)
        # fsum rounds once, so the order of the endpoints has no effect.
        self._sums = [math.fsum(column) for column in zip(_logs(DEFAULT_PRIOR), *logs, strict=True)]

    def without(self, one: _Fitted) -> Parameters:
        """Return the mean of all others."""
        sums, count = self._sums, self._count + 1
        if one.count >= TELLING_SAMPLES:
            sums = [total - own for total, own in zip(sums, _logs(one.first), strict=True)]
            count -= 1
        return Parameters(*[math.exp(total / count) for total in sums])


def _logs(parameters: Parameters) -> list[float]:
    return [math.log(max(value, SMALLEST)) for value in parameters]
