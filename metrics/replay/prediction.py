"""What a change would gain, as an interval: another policy, or another fleet.

The change is compared with a replay of the recorded policy, never with the recording itself, so that errors of the
model cancel out. Both are run on sessions that are drawn again and again, which shows how much chance there is in it;
the interval is widened by the error of the back-test.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from metrics.replay import figures
from metrics.replay.backtest import NO_ENDPOINT, Backtest, Recording, ReplayRefusal
from metrics.replay.figures import RunFigures, Times, quantile
from metrics.replay.nodes import Node
from metrics.replay.run import RunSetting
from metrics.replay.traffic import PastSession

BOOTSTRAPS = 20
LEFT_OUT = 1  # of the bootstrap runs at either end of the interval
# So large an error of the model is assumed at least, even if the recorded policy is replayed without one: more if
# conversations were guessed, and more where a change leaves less capacity, as small errors matter near saturation.
MODEL_ERROR, GUESSED_ERROR, LESS_CAPACITY_ERROR = 0.1, 0.2, 0.3
HOUR = 3600.0

Progress = Callable[[float], None]  # share of the work that is done


def no_progress(share: float) -> None:
    """For a caller that does not show it."""


@dataclass(frozen=True, slots=True)
class Question:
    """A change: another policy, and a changed fleet. Endpoints by name."""

    policy: str
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()  # one more endpoint like each of these
    slower: tuple[tuple[str, float], ...] = ()  # an endpoint, and the factor on all its times


class NotReplayed(Exception):
    """A question names an endpoint of which no speed is known. The text is its name."""


@dataclass(frozen=True, slots=True)
class Gain:
    """How many times shorter a time would be; below 1 it would be longer."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a change would do."""

    figures: RunFigures
    gain: Gain | None  # of p95 of the time per output token
    first_gain: Gain | None  # of p95 of the time to first token; None without streams


def changed(nodes: Sequence[Node], question: Question) -> list[Node]:
    """Return the fleet after a change. Raises NotReplayed."""
    by_name = {node.name: node for node in nodes}
    for name in (*question.removed, *question.added, *(name for name, _ in question.slower)):
        if name not in by_name:
            raise NotReplayed(name)
    slower = dict(question.slower)
    fleet = [
        node.slower(slower[node.name]) if node.name in slower else node
        for node in nodes
        if node.name not in question.removed
    ]
    for number, name in enumerate(question.added, 1):
        fleet.append(replace(by_name[name], id=f"{by_name[name].id}+{number}", name=f"{name} +{number}"))
    return fleet


def fleet_refusal(parts: Iterable[PastSession], nodes: Iterable[Node]) -> ReplayRefusal | None:
    """Return a refusal if no endpoint of a fleet could take some of the requests."""
    groups = {group for node in nodes for group in node.behaviours}
    lacks = any(turn.group not in groups for session in parts for turn in session.turns)
    return ReplayRefusal(NO_ENDPOINT) if lacks else None


def predict(recording: Recording, tested: Backtest, other: RunSetting, progress: Progress = no_progress) -> Prediction:
    """Compare a setting with the recorded one.

    If the change leaves less capacity, endpoints have to serve more requests at once than they were ever seen to. At
    the lower end of the interval, such requests wait.
    """
    is_less = has_less_capacity(tested.setting.nodes, other.nodes)
    settings = [other, replace(other, nodes=careful(other.nodes))] if is_less else [other]
    tokens: list[list[float]] = [[] for _ in settings]
    firsts: list[list[float]] = [[] for _ in settings]
    for seed in range(BOOTSTRAPS):
        progress(seed / BOOTSTRAPS)
        drawn = resampled(recording.parts, Random(seed))  # noqa: S311
        before = recording.times(replace(tested.setting, seed=seed), drawn)
        for position, setting in enumerate(settings):
            after = recording.times(replace(setting, seed=seed), drawn)
            tokens[position].append(_ratio(figures.per_token(before), figures.per_token(after)))
            firsts[position].append(_ratio(_firsts(before), _firsts(after)))
    least = LESS_CAPACITY_ERROR if is_less else GUESSED_ERROR if recording.is_guessed else MODEL_ERROR
    width = 1.0 + max(abs(tested.error), least)
    return Prediction(recording.typical(other), _interval(tokens, width), _interval(firsts, width))


def careful(nodes: Iterable[Node]) -> list[Node]:
    """Return endpoints that serve no more requests at once than they were seen to."""
    return [replace(node, places=min(node.places, node.most)) for node in nodes]


def has_less_capacity(before: Sequence[Node], after: Sequence[Node]) -> bool:
    """Return True if an endpoint is gone or got slower, and none was added."""
    if len(after) > len(before):
        return False
    now = {node.id: node for node in after}
    return any(node.id not in now or _is_slower(now[node.id], node) for node in before)


def _is_slower(now: Node, before: Node) -> bool:
    return any(
        now.behaviours[group].parameters > behaviour.parameters for group, behaviour in before.behaviours.items()
    )


def resampled(parts: Sequence[PastSession], random: Random) -> list[PastSession]:
    """Return sessions that begin when these begin, each with the turns of one that the same key began in that hour."""
    strata: dict[tuple[str, int], list[PastSession]] = defaultdict(list)
    for session in parts:
        strata[session.key, int(session.start / HOUR)].append(session)
    drawn = []
    for session in parts:
        stratum = strata[session.key, int(session.start / HOUR)]
        drawn.append(session._replace(turns=stratum[int(random.random() * len(stratum))].turns))
    return drawn


def _firsts(times: Iterable[Times]) -> list[float]:
    return [request.first for request in times if request.first is not None]


def _ratio(before: Iterable[float], after: Iterable[float]) -> float:
    one, two = sorted(before), sorted(after)
    if not one or not two:
        return math.nan
    return quantile(one, 0.95) / max(1e-6, quantile(two, 0.95))


def _interval(gains: Sequence[Sequence[float]], width: float) -> Gain | None:
    """Return the interval of the gains of all settings, around the median of the first."""
    if any(math.isnan(gain) for of in gains for gain in of):
        return None
    ordered = sorted(gain for of in gains for gain in of)
    return Gain(ordered[LEFT_OUT] / width, quantile(sorted(gains[0]), 0.5), ordered[-1 - LEFT_OUT] * width)
