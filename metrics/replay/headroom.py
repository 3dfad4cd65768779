"""How many more users like those of the recording a fleet carries, and what fails first.

More users are copies of sessions, moved in time a little, so that busy hours stay busy. Copies are conversations of
their own; system prompts are the same.

How an endpoint serves more requests at once than in the recording is not known. The upper end of the range takes the
fit on trust; at the lower end, such requests wait.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from metrics.replay.backtest import REFUSED_SHARE, Recording
from metrics.replay.figures import quantile
from metrics.replay.prediction import MODEL_ERROR, Progress, careful, no_progress
from metrics.replay.run import ReplayRun, RunSetting
from metrics.replay.server import Played
from metrics.replay.traffic import PastSession

FIRST_TOKEN_SECONDS = 2.0  # p95 that must hold, by default
MOST_USERS = 16.0  # times today's
TRIES, STEPS = 2, 7  # times that either end is looked for, each with other copies; steps of each
BASE_REQUESTS = 3_000  # of the latest sessions: with more users, there are many times as many
MOVED = 900.0  # seconds

# What fails first.
QUEUE_FULL, SLOTS, PREFILL, DECODE = LIMITS = ("queue_full", "slots", "prefill", "decode")


@dataclass(frozen=True, slots=True)
class Headroom:
    """Times today's users that the fleet carries, as a range; with `low` below 1, perhaps not even those of today.

    `limit` is what fails first, at the endpoint with this id; both are empty if MOST_USERS did not suffice to fail.
    """

    low: float
    high: float
    seconds: float  # the p95 of the time to first token that must hold
    limit: str = ""
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class _Load:
    """A run with so many times today's users."""

    first: float  # p95 of the time to first token
    refused: float  # share of the requests
    limit: str
    endpoint: str

    def holds(self, seconds: float) -> bool:
        return self.first <= seconds and self.refused <= REFUSED_SHARE


class _Share(NamedTuple):
    """Progress of one of the tries."""

    progress: Progress
    tries: int  # that are done

    def show(self, step: int) -> None:
        self.progress((self.tries * STEPS + step) / (2 * TRIES * STEPS))


def headroom(
    recording: Recording, setting: RunSetting, seconds: float, error: float, progress: Progress = no_progress
) -> Headroom:
    """Look for the most users of a setting. `error`: of the back-test, by which the range is widened."""
    base = _latest(recording.parts)
    limited = replace(setting, nodes=careful(setting.nodes))
    lows: list[float] = []
    highs: list[float] = []
    failed: list[_Load] = []
    for number in range(TRIES):
        for estimates, of in ((lows, limited), (highs, setting)):
            most, load = _most(base, replace(of, seed=number), seconds, _Share(progress, len(lows) + len(highs)))
            estimates.append(most)
            if load is not None and of is setting:
                failed.append(load)
    width = 1.0 + max(MODEL_ERROR, abs(error))
    low = min(lows) / width
    if not failed:
        return Headroom(low, MOST_USERS, seconds)
    [((limit, endpoint), _)] = Counter((failure.limit, failure.endpoint) for failure in failed).most_common(1)
    return Headroom(low, min(MOST_USERS, max(highs) * width), seconds, limit, endpoint)


def _most(
    base: Sequence[PastSession], setting: RunSetting, seconds: float, share: _Share
) -> tuple[float, _Load | None]:
    """Return the most users for which the time holds, and the first load for which it does not."""
    low, high = 0.0, MOST_USERS
    failed = None
    for step in range(STEPS):
        share.show(step)
        users = _next(low, high, step)
        load = _run(base, setting, users, seconds)
        if load.holds(seconds):
            low = users
        else:
            high, failed = users, load
        if low >= MOST_USERS:
            break
    return low, failed


def _next(low: float, high: float, step: int) -> float:
    """Return how many times today's users to try next: today's, then twice as many, then between two that are known."""
    if step == 0:
        return 1.0
    if high == MOST_USERS:
        return min(MOST_USERS, 2.0 * low)
    return (low + high) / 2


def _latest(parts: Sequence[PastSession]) -> list[PastSession]:
    sessions: list[PastSession] = []
    count = 0
    for session in reversed(parts):
        count += len(session.turns)
        if sessions and count > BASE_REQUESTS:
            break
        sessions.append(session)
    return sessions[::-1]


def multiplied(parts: Sequence[PastSession], users: float, random: Random) -> list[PastSession]:
    """Return the sessions of so many times the users, by their start."""
    if users <= 1.0:
        return [past_session for past_session in parts if random.random() < users]
    begin, end = parts[0].start, parts[-1].start
    sessions = list(parts)
    for copy in range(1, int(users) + 1):
        share = min(1.0, users - copy)
        for session in parts:
            if random.random() < share:
                start = session.start + random.uniform(-MOVED, MOVED)
                if not begin <= start <= end:  # so that there are as many at the edges
                    start = random.uniform(max(begin, start - MOVED), min(end, start + MOVED))
                sessions.append(_copied(session, start, copy))
    sessions.sort(key=lambda past_session: past_session.start)
    return sessions


def _copied(session: PastSession, start: float, copy: int) -> PastSession:
    turns = tuple([turn._replace(conversation=f"{turn.conversation}/{copy}") for turn in session.turns])
    return PastSession(start, session.key, turns)


def _run(base: Sequence[PastSession], setting: RunSetting, users: float, seconds: float) -> _Load:
    run = ReplayRun(setting)
    played = run.run(multiplied(base, users, Random(setting.seed)))  # noqa: S311
    generating = [request for request in played if request.turn.output]
    firsts = sorted(request.first - request.arrived for request in generating)
    refused = run.refused / max(1, run.refused + len(played))
    limit, number = _limit([request for request in generating if request.first - request.arrived > seconds])
    if refused > REFUSED_SHARE:
        limit = QUEUE_FULL
    first = quantile(firsts, 0.95) if firsts else 0.0
    return _Load(first, refused, limit, setting.nodes[number].id if number >= 0 else "")


def _limit(late: Iterable[Played]) -> tuple[str, int]:
    """Return what late first tokens waited for the longest, and the number of the endpoint; -1 if there is none."""
    seconds: dict[str, dict[int, float]] = {limit: defaultdict(float) for limit in (SLOTS, PREFILL, DECODE)}
    for request in late:
        seconds[SLOTS][request.node] += request.begun - request.arrived
        seconds[PREFILL][request.node] += request.read - request.begun
        seconds[DECODE][request.node] += request.first - request.read
    limit, by_node = max(seconds.items(), key=lambda item: sum(item[1].values()))
    return (limit, max(by_node, key=lambda node: by_node[node])) if by_node else ("", -1)
