"""Adaptive routing policy: choose the endpoint with the least expected time, the request's own and that of others.

The time is that of gateway.routing.expected_time. An endpoint that is full may still have the least: then the request
waits for it, for a bounded time. That takes longer where it will replace the prefix of another client (SLOT_CACHES). It
does not wait for one of a better tier: an endpoint of a worse tier gets it at once. Pure functions.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from random import random, sample
from typing import NamedTuple, Protocol, TypeVar

from gateway.registry.schema import EndpointFacts, Speeds
from gateway.routing.balancer import (
    FULL,
    MAX_RECORDED_SCORES,
    ONLY,
    OPEN,
    SPILLED,
    TIERS,
    TRIAL,
    CandidateTime,
    Decision,
    is_spilled,
)
from gateway.routing.expected_time import C, Demand, LoadedCandidate, Row, expected_time, parameters_of

NEAR = 1.03  # expected times within 3 % are drawn by chance, so that gateways do not all choose the same endpoint
SLOW_START = 16  # completions; before, an endpoint has at most 1 + 2 * completions requests if there are others
ALL_UP_TO, SAMPLED = 24, 12  # of more candidates, some are compared: those with the prefix, and others by chance
DRAWN = 14  # numbers for it, of which some may be equal
NO_LIMIT = 1 << 30
NEVER = float("inf")
UNKNOWN_OUTPUT, UNKNOWN_BYTES_PER_TOKEN = 200.0, 4.0
# Prompts that every endpoint reads within a millisecond need no prefix affinity: it would save less.
NEGLIGIBLE_READ = 0.001 * UNKNOWN_BYTES_PER_TOKEN  # seconds a prompt token, times the bytes of the body

# Before anything is measured: share / write and read / write of an engine, and the parameters of a slow GPU.
RATIOS = {"vllm": (0.01, 0.008), "llamacpp": (0.2, 0.03), "ollama": (0.2, 0.03), "lm_studio": (0.2, 0.03)}
UNKNOWN_RATIOS = (0.05, 0.03)
SLOT_CACHES = {"llamacpp", "ollama", "lm_studio"}  # engines whose slots each keep the prefix of their last request
# Prompts that are read again once a request has waited for such a slot: that of the client which had it and pauses, and
# its own, which others have replaced there. Both are taken to be as long as the last ones there.
REPLACED = 2.0
UNMEASURED = Speeds(setup=0.005, read=0.0003, write=0.02, share=0.002)
UNKNOWN_LOAD_SECONDS = 15.0

# Reasons for a choice, besides those of gateway.routing.balancer.
FASTEST = "fastest"  # the least expected time
KEPT_PREFIX = "kept_prefix"  # likewise, but only because it has the beginning of the prompt in its cache
LOADED = "loaded_there"  # likewise, but only because it has loaded the model
PROBE = "probe"  # it has few completions, so this request measures it
WAITED = "waited_for"  # the request waited for it although another endpoint was free


Counts = Callable[[C], tuple[int, int]]


def row(
    candidate: C,
    speeds: Speeds,
    kind: str,
    fleet: Iterable[Speeds] = (),
    *,
    weight: float = 1.0,
    load: float = 0.0,
    spill_after: float = NEVER,
) -> Row[C]:
    """Return the row of a candidate.

    `kind`: the engine. `fleet`: speeds of the same model at all candidates. `weight` multiplies the expected time.
    `spill_after`: expected wait in seconds beyond which a candidate without known slots counts as full; give it only
    if there are candidates of worse tiers. An endpoint that was never measured is expected to be as fast as the fastest
    one, so that it is tried soon. One that has just returned has no completions, and begins its slow start with the
    speeds that it had.
    """
    completions = speeds.completions
    if not speeds.write:
        share_ratio, read_ratio = RATIOS.get(kind, UNKNOWN_RATIOS)
        best = min((other for other in fleet if other.write), key=lambda other: other.write, default=UNMEASURED)
        speeds = Speeds(best.setup, best.write * read_ratio, best.write, best.write * share_ratio)
    return Row(
        candidate=candidate,
        id=candidate.id,
        parameters=parameters_of(speeds),
        slots=NO_LIMIT if candidate.slots is None else candidate.slots,
        few=NO_LIMIT if completions >= SLOW_START else 1 + 2 * completions,
        load=load,
        weight=weight,
        replaced=REPLACED if kind in SLOT_CACHES else 0.0,
        spill_after=spill_after if candidate.slots is None else NEVER,
    )


class PublishedCandidate(LoadedCandidate, Protocol):
    @property
    def facts(self) -> EndpointFacts: ...


P = TypeVar("P", bound=PublishedCandidate)


def rows_of(
    candidates: Sequence[P], speeds: Sequence[Speeds], spill_after: float, loads: Sequence[float] = ()
) -> list[Row[P]]:
    """Return the rows of all candidates for a model, each with its speeds.

    `spill_after` in seconds: see `row`. `loads`: seconds until each has loaded the model; empty: all have.
    """
    last = max((candidate.tier for candidate in candidates), default=1)
    return [
        row(
            candidate,
            own,
            candidate.facts.kind,
            speeds,
            weight=candidate.facts.cost_weight,
            load=load,
            spill_after=spill_after if candidate.tier < last else NEVER,
        )
        for candidate, own, load in zip(candidates, speeds, loads or [0.0] * len(candidates), strict=True)
    ]


def slowest_read(rows: Iterable[Row[C]]) -> float:
    """Return the most seconds of a prompt token, each times the weight of its endpoint; 0 of no rows."""
    return max([of.parameters.read * of.weight for of in rows], default=0.0)


def is_spilling(of: Row[C], output: float, in_flight: int, pending: int) -> bool:
    """Return True if the expected wait there is longer than it may be while an endpoint of a worse tier is free."""
    return of.spill_after < NEVER and of.parameters.lost_to_others(pending, output, in_flight) > of.spill_after


class _Occupied(NamedTuple):
    """A candidate that gets no more requests now: it is full, spilling, or has few completions."""

    rank: int
    seconds: float  # the expected time
    id: str
    is_full: bool
    is_spilling: bool
    without_factor: float  # the expected time without the factor of the slow start


_SECONDS = itemgetter(0)
Times = list[CandidateTime]


def _times(
    rows: Iterable[Row[C]], demand: Demand, counts: Counts[C] | None, tried: Collection[str], waiting: int
) -> tuple[int, Times, list[_Occupied]]:
    """Return the best rank with a free candidate, the times of those that are free, and those that are not."""
    best = OPEN
    free: Times = []
    occupied: list[_Occupied] = []
    for of in rows:
        candidate = of.candidate
        rank = candidate.rank
        if rank > best or of.id in tried:
            continue
        if counts is None:
            in_flight, pending = candidate.in_flight, candidate.pending
        else:
            in_flight, pending = counts(candidate)
        time = expected_time(of, demand, in_flight, pending, waiting)
        seconds, is_full = time.total, in_flight >= of.slots
        spilling = is_spilling(of, demand.output, in_flight, pending)
        if is_full or spilling or in_flight >= of.few:
            occupied.append(_Occupied(rank, seconds, of.id, is_full, spilling, seconds / time.factor))
            continue
        if rank < best:
            best = rank
            free.clear()
        free.append((seconds, of.id, of.few))
    return best, free, occupied


def pick(
    rows: Sequence[Row[C]],
    demand: Demand,
    counts: Counts[C] | None = None,
    tried: Collection[str] = (),
    waiting: int = 0,
    draw: Callable[[], float] = random,
    by_id: Mapping[str, Row[C]] | None = None,
) -> Decision | None:
    """Choose the endpoint with the least expected time among those of the best rank.

    `counts` returns the requests in flight and the pending prompt tokens of a candidate, over all processes; None:
    those of this process are all. `waiting`: requests in the queue. `by_id`: the rows by the ids of their
    candidates, if they are known. The result is FULL if it is better to wait for a full endpoint, and None if there is
    no endpoint: all are disabled, draining, offline or already tried.
    """
    some = rows if len(rows) <= ALL_UP_TO else _drawn(rows, demand, by_id)
    best, free, occupied = _best_times(rows, some, demand, counts, tried, waiting)
    if occupied:
        if _spills_nowhere(occupied, free, best):
            unlimited = [replace(of, spill_after=NEVER) for of in rows]
            return pick(unlimited, demand, counts, tried, waiting, draw)
        if not free or (best == OPEN and any(each.rank < OPEN and not each.is_full for each in occupied)):
            best, free = _despite_few(occupied, demand)
        if not free:
            return FULL if any(each.is_full for each in occupied) else None
        if _waits(occupied, best, min(free)[0], demand):
            return FULL
        best, free = _instead_of_a_load(occupied, best, free, rows)
    free.sort()
    if best == OPEN and free:
        return _trial(rows, free)
    if len(free) <= 1:
        return _only(rows, free, best)
    del free[MAX_RECORDED_SCORES:]
    name, few = _drawn_among(free, draw)
    reason = SPILLED if best and is_spilled(best, (of.candidate for of in rows)) else _reason(name, few, demand)
    return Decision(name, reason, (), free)


def _drawn_among(free: Times, draw: Callable[[], float]) -> tuple[str, int]:
    """Draw one of the sorted times that are near the least; return its id, and from when its slow start matters."""
    least, name, few = free[0]
    limit = least * NEAR
    if free[1][0] <= limit:
        _, name, few = free[int(draw() * bisect_right(free, limit, key=_SECONDS))]
    return name, few


def _spills_nowhere(occupied: Iterable[_Occupied], free: Times, best: int) -> bool:
    """Return True if candidates are spilling although no other one that is as healthy is free."""
    spilling = [each.rank for each in occupied if each.is_spilling]
    return bool(spilling) and (not free or best // TIERS > min(spilling) // TIERS)


def _reason(name: str, few: int, demand: Demand) -> str:
    """Return the reason for a choice among several that are free."""
    if demand.waited > 0:
        return WAITED
    if name in demand.kept:
        return KEPT_PREFIX
    return FASTEST if few == NO_LIMIT else PROBE


def _only(rows: Sequence[Row[C]], free: Times, best: int) -> Decision | None:
    if not free:
        return None
    reason = SPILLED if best and is_spilled(best, (of.candidate for of in rows)) else ONLY
    return Decision(free[0][1], reason, (), free)


def _waits(occupied: Iterable[_Occupied], best: int, least: float, demand: Demand) -> bool:
    """Return True if it is better to wait for a healthy endpoint, or for a faster one of the same rank."""
    full = [each for each in occupied if each.is_full and each.rank < OPEN]
    if best == OPEN:
        return bool(full)
    return demand.waited < least and any(each.rank == best and each.seconds < least for each in full)


def _despite_few(occupied: Iterable[_Occupied], demand: Demand) -> tuple[int, Times]:
    """Return the candidates with few completions, where there are no others as healthy to choose or to wait for.

    While another one is full, a request waits, as long as it may: each response allows two more requests here.
    """
    few = [each for each in occupied if not each.is_full]
    if not few:
        return OPEN, []
    first = min(few)
    if demand.waited < NEVER and any(each.is_full and each.rank <= first.rank for each in occupied):
        return OPEN, []
    return first.rank, [(each.seconds, each.id, 0) for each in few if each.rank == first.rank]


def _instead_of_a_load(
    occupied: Iterable[_Occupied], best: int, free: Times, rows: Sequence[Row[C]]
) -> tuple[int, Times]:
    """If the best of the free candidates must load the model, return those with few completions that take less.

    Else the slow start of an endpoint that has the model, or is loading it, would start more loads. Its factor
    does not count here: where the model must be loaded, it has few completions, too.
    """
    least, name, _ = min(free)
    few = [
        (each.seconds, each.id, 0)
        for each in occupied
        if not each.is_full and each.rank == best and each.without_factor < least
    ]
    if few and any(of.load and of.id == name for of in rows):
        return best, few
    return best, free


def _drawn(rows: Sequence[Row[C]], demand: Demand, by_id: Mapping[str, Row[C]] | None) -> set[Row[C]]:
    """Return some of many candidates, of any rank, without looking at all: by chance, and those with the prefix."""
    number = len(rows)
    drawn = {rows[int(random() * number)] for _ in range(DRAWN)}  # noqa: S311
    if demand.kept:
        known = {of.id: of for of in rows} if by_id is None else by_id
        drawn.update([known[name] for name in demand.kept if name in known])
    return drawn


def _best_times(
    rows: Sequence[Row[C]],
    drawn: Iterable[Row[C]],
    demand: Demand,
    counts: Counts[C] | None,
    tried: Collection[str],
    waiting: int,
) -> tuple[int, Times, list[_Occupied]]:
    """Return the times of the drawn candidates, or of other ones if these may have a better rank, or be free."""
    times = _times(drawn, demand, counts, tried, waiting)
    if drawn is not rows and (times[0] or not times[1]):
        times = _times(_some(rows, demand, tried), demand, counts, tried, waiting)
        if not times[1]:
            times = _times(rows, demand, counts, tried, waiting)
    return times


def _some(rows: Sequence[Row[C]], demand: Demand, tried: Collection[str]) -> list[Row[C]]:
    """Return some of many candidates: of the best rank those with the prefix, and others by chance."""
    usable = [of for of in rows if of.candidate.rank < OPEN and of.id not in tried]
    if not usable:
        return list(rows)
    best = min(of.candidate.rank for of in usable)
    usable = [of for of in usable if of.candidate.rank == best]
    if len(usable) <= ALL_UP_TO:
        return usable
    drawn = sample(usable, SAMPLED)
    if demand.kept:
        drawn += [of for of in usable if of.id in demand.kept and of not in drawn]
    return drawn


def _trial(rows: Sequence[Row[C]], free: Times) -> Decision:
    """Every circuit breaker is open: the endpoint whose trial is due first is tried."""
    names = {name for _, name, _ in free}
    first = min((of.candidate for of in rows if of.id in names), key=lambda candidate: candidate.trial_due)
    return Decision(first.id, TRIAL, (), free[:MAX_RECORDED_SCORES])
