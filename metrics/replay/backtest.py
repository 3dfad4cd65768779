"""A recording, and the test that every answer rests on: a replay of its own policy, compared with what happened.

One factor on all times of the fit makes the replay agree with the recording in the middle. The error that remains at
p95 is that of the model; beyond TRUSTED_ERROR there is no answer.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.base.config import ADAPTIVE, LEAST_INFLIGHT
from metrics.replay import figures
from metrics.replay.figures import RunFigures, Times, quantile, run_figures
from metrics.replay.history import Past
from metrics.replay.nodes import KnownEndpoint, Node, fit_nodes
from metrics.replay.run import RunSetting, play
from metrics.replay.traffic import PastRequest, PastSession, means, sessions

LEAST_REQUESTS = 300
TRUSTED_ERROR = 0.25
SPEED_ROUNDS, SPEED_TOLERANCE = 6, 0.02
SPEED_BOUNDS = (0.4, 2.5)
SEEDS = 5  # runs that draw ties and residuals differently
OTHER_POLICY = 0.1  # share of the requests that another balancer may have decided
COLD_SHARE = 0.02
REFUSED_SHARE = 0.01
# What shows saturation: the median wait over the median duration, the median duration over that of the same request
# alone, and the growth of requests in progress and of their times over parts of the time.
QUEUED_SHARE, SLOWDOWN = 0.5, 8.0
PARTS, GROWTH, LONGER = 5, 2.0, 1.4

# Why there is no answer.
FEW, COARSE, SWITCHED, COLD, SATURATED, OFF, UNKNOWN_SPEED, NO_ENDPOINT = REFUSALS = (
    "too_few_requests", "history_too_coarse", "policy_switched", "models_loaded", "past_saturation", "backtest_off",
    "speed_unknown", "no_endpoint_left",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReplayRefusal:
    """Why there is no answer. `values` are the numbers and names of its sentence."""

    code: str  # one of REFUSALS
    values: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recording:
    """Recorded traffic, fitted: any number of questions can be answered from it."""

    past: Past
    policy: str
    parts: Sequence[PastSession]
    is_guessed: bool  # conversations are not recorded, so they were guessed
    nodes: Sequence[Node]
    lengths: Mapping[tuple[str, str], float]
    unknown: tuple[str, ...]  # names of endpoints whose speed is not known

    def replayed_requests(self) -> list[PastRequest]:
        """Return the recorded requests that are replayed."""
        numbers = sorted(turn.number for session in self.parts for turn in session.turns)
        return [self.past.requests[number] for number in numbers]

    def times(self, setting: RunSetting, parts: Sequence[PastSession]) -> list[Times]:
        """Play sessions, and return the times of their requests."""
        streamed = [request.first > 0 for request in self.past.requests]
        return figures.played_times(play(setting, parts), [node.id for node in setting.nodes], streamed)

    def typical(self, setting: RunSetting) -> RunFigures:
        """Return the figures of the run with the median p95 per token, of several that draw differently."""
        runs = [run_figures(self.times(replace(setting, seed=seed), self.parts)) for seed in range(SEEDS)]
        runs.sort(key=lambda run: run.per_token.p95 if run.per_token else 0.0)
        return runs[SEEDS // 2]


def record(past: Past, known: Sequence[KnownEndpoint]) -> Recording:
    """Find the sessions of recorded requests and fit their endpoints. `known`: those that there are now."""
    requests = past.requests
    parts, is_guessed = sessions(requests)
    nodes = fit_nodes(requests, parts, known)
    fitted = {node.id for node in nodes}
    unknown = tuple(endpoint.name for endpoint in known if endpoint.id not in fitted)
    adaptive = sum(request.balancer == ADAPTIVE for request in requests)
    least = sum(request.balancer == LEAST_INFLIGHT for request in requests)
    policy = LEAST_INFLIGHT if least > adaptive else ADAPTIVE
    return Recording(past, policy, _playable(parts, nodes), is_guessed, nodes, means(requests), unknown)


def _playable(parts: Iterable[PastSession], nodes: Iterable[Node]) -> list[PastSession]:
    """Return the sessions of which every turn has an endpoint that is known."""
    groups = {group for node in nodes for group in node.behaviours}
    return [session for session in parts if all(turn.group in groups for turn in session.turns)]


def refusal_of(recording: Recording, policy: str, *, successes: bool = True) -> ReplayRefusal | None:
    """Return why no answer is possible for a policy, before anything is replayed.

    `successes`: successful requests are in the history.
    """
    past = recording.past
    count = sum(request.output > 0 for request in recording.replayed_requests())
    if not successes:
        return ReplayRefusal(COARSE)
    if count < LEAST_REQUESTS:
        return ReplayRefusal(FEW, {"requests": count, "needed": LEAST_REQUESTS})
    if past.cold > COLD_SHARE * count:
        return ReplayRefusal(COLD, {"requests": past.cold})
    others = sum(request.balancer not in ("", recording.policy) for request in past.requests)
    if others > OTHER_POLICY * count:
        return ReplayRefusal(SWITCHED, {"requests": others})
    if past.queue_refused > REFUSED_SHARE * count or is_saturated(recording):
        return ReplayRefusal(SATURATED)
    if recording.unknown and policy == LEAST_INFLIGHT != recording.policy:
        return ReplayRefusal(UNKNOWN_SPEED, {"names": ", ".join(recording.unknown)})
    return None


def is_saturated(recording: Recording) -> bool:
    """Return True if more arrived than endpoints could serve.

    Then most waited in the queue, or most took many times as long as alone, or ever more were in progress, and ever
    longer. The last alone may also be a busy hour, in which nothing gets slower.
    """
    requests = recording.past.requests
    wholes, waits = (
        sorted(request.ended - request.arrived for request in requests),
        sorted(request.sent - request.arrived for request in requests),
    )
    if quantile(waits, 0.5) > QUEUED_SHARE * quantile(wholes, 0.5):
        return True
    begin, end = requests[0].arrived, requests[-1].arrived
    length = (end - begin) / PARTS or 1.0
    nodes = {node.id: node for node in recording.nodes}
    progress = [0.0] * PARTS  # mean requests in progress
    tokens: list[list[float]] = [[] for _ in range(PARTS)]
    slowdowns: list[list[float]] = [[] for _ in range(PARTS)]
    for request in requests:
        first_part = min(PARTS - 1, int((request.arrived - begin) / length))
        tokens[first_part].append((request.ended - request.arrived) / (request.output or 1))
        node = nodes.get(request.endpoint)
        if node is not None and request.group in node.behaviours:
            alone = node.behaviours[request.group].seconds_alone(
                request.prompt - max(0, request.cached), request.output
            )
            slowdowns[first_part].append((request.ended - request.arrived) / alone)
        for part in range(first_part, PARTS):
            since, until = begin + part * length, begin + (part + 1) * length
            if request.ended <= since:
                break
            progress[part] += (min(until, request.ended) - max(since, request.arrived)) / length
    if any(part and quantile(sorted(part), 0.5) > SLOWDOWN for part in slowdowns):
        return True
    if not all(tokens) or sorted(progress) != progress:
        return False
    longer = quantile(sorted(tokens[-1]), 0.5) / quantile(sorted(tokens[1]), 0.5)
    return progress[-1] > GROWTH * progress[1] and longer > LONGER


@dataclass(frozen=True, slots=True)
class Backtest:
    """The replay of the recorded policy beside what happened."""

    happened: RunFigures
    replayed: RunFigures
    setting: RunSetting  # of the recorded policy; its `speed` is the factor on all times of the fit
    error: float  # of the replayed p95 per token

    @property
    def refusal(self) -> ReplayRefusal | None:
        if abs(self.error) <= TRUSTED_ERROR:
            return None
        return ReplayRefusal(OFF, {"percent": round(100 * abs(self.error))})


def backtest(recording: Recording, setting: RunSetting) -> Backtest:
    """Replay the recorded policy. `setting` is that of its first run."""
    recorded = figures.recorded_times(recording.replayed_requests())
    happened = run_figures(recorded)
    setting = _calibrated(recording, setting, figures.usual(figures.per_token(recorded)))
    replayed = recording.typical(setting)
    assert happened.per_token is not None
    assert replayed.per_token is not None
    return Backtest(happened, replayed, setting, replayed.per_token.p95 / happened.per_token.p95 - 1.0)


def _calibrated(recording: Recording, setting: RunSetting, actual: float) -> RunSetting:
    """Return the setting in which the usual time per token is as it was.

    Near saturation a little more speed changes times a lot, so the factor is looked for between two that are known.
    """
    least, most = SPEED_BOUNDS
    best, best_off = setting, math.inf
    for _ in range(SPEED_ROUNDS):
        ratio = actual / figures.usual(figures.per_token(recording.times(setting, recording.parts)))
        if abs(math.log(ratio)) < best_off:
            best, best_off = setting, abs(math.log(ratio))
        if best_off < SPEED_TOLERANCE:
            break
        if ratio > 1.0:
            least = setting.speed
        else:
            most = setting.speed
        speed = setting.speed * ratio
        setting = replace(setting, speed=speed if least < speed < most else math.sqrt(least * most))
    return best
