"""Adaptive routing policy: choose the endpoint where a request costs the least time, its own and that of others.

The cost of a request at an endpoint is its expected duration, plus the time by which it delays those that run there
(the marginal cost of a shared resource, after Pigou), plus the time to load the model. With P prompt tokens, of which
`kept` are in the endpoint's prefix cache, O output tokens, n requests in flight there and Q pending prompt tokens:

    own  = setup + read * (Q + P - kept) + O * (write + share * (n + 1))
    harm = n * (HARM_DECODE * share * O + HARM_PREFILL * read * (P - kept))

The four parameters are learned (gateway.registry.schema.Speeds). An endpoint that is full may still cost the least:
then the request waits for it, for a bounded time. Pure functions: no I/O, no lock.
"""

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from gateway.registry.schema import Speeds
from gateway.routing.balancer import (
    FULL,
    MAX_RECORDED_SCORES,
    ONLY,
    OPEN,
    TRIAL,
    Candidate,
    Decision,
)

HARM_DECODE, HARM_PREFILL = 0.5, 0.25
NEAR = 1.03  # costs within 3 % are drawn by chance, so that gateways do not all choose the same endpoint
SLOW_START = 16  # completions; before, an endpoint has at most 1 + 2 * completions requests if there are others
ALL_UP_TO, SAMPLED = 24, 12  # of more candidates, some are compared: those with the prefix, and others by chance
NO_LIMIT = 1 << 30
UNKNOWN_OUTPUT, UNKNOWN_BYTES_PER_TOKEN = 200.0, 4.0

# Before anything is measured: share / write and read / write of an engine, and the parameters of a slow GPU.
RATIOS = {"vllm": (0.01, 0.008), "llamacpp": (0.2, 0.03), "ollama": (0.2, 0.03), "lm_studio": (0.2, 0.03)}
UNKNOWN_RATIOS = (0.05, 0.03)
UNMEASURED = Speeds(setup=0.005, read=0.0003, write=0.02, share=0.002)
UNKNOWN_LOAD_SECONDS = 15.0

# Reasons for a choice, besides those of gateway.routing.balancer.
FASTEST = "fastest"  # the least cost
KEPT_PREFIX = "kept_prefix"  # the least cost, and only because it has the beginning of the prompt in its cache
LOADED = "loaded_there"  # the least cost, and only because it has loaded the model
PROBE = "probe"  # it has few completions, so this request measures it
WAITED = "waited_for"  # the request waited for it although another endpoint was free


class LoadedCandidate(Candidate, Protocol):
    @property
    def in_flight(self) -> int:
        """Requests of this process that run there."""

    @property
    def pending(self) -> int:
        """Prompt tokens of requests of this process whose responses have not begun."""


C = TypeVar("C", bound=LoadedCandidate)
Counts = Callable[[C], tuple[int, int]]


class Demand(NamedTuple):
    """What a request is expected to need."""

    prompt: float  # tokens
    output: float  # tokens
    kept: Mapping[str, float] = {}  # tokens of the prompt in the prefix cache, by id of the endpoint
    waited: float = 0.0  # seconds in the queue
    # Output tokens of an average request for the model: a slot is free when such a one ends. None: as many as this one.
    typical: float | None = None


class Row(NamedTuple, Generic[C]):
    """A candidate with what was learned about it. Made anew when that changes, not for each request."""

    candidate: C
    id: str
    setup: float
    read: float
    write: float
    share: float
    edge: int  # requests in flight from which on `_edge_cost` applies instead of the formula
    slots: int  # NO_LIMIT if unknown
    few: int  # requests in flight from which on a cost counts more, during the slow start; else NO_LIMIT
    load: float  # seconds until the model is loaded there; 0 if it is


def row(
    candidate: C, speeds: Speeds, kind: str, fleet: Iterable[Speeds] = (), *, weight: float = 1.0, load: float = 0.0
) -> Row[C]:
    """Return the row of a candidate.

    `kind`: the engine. `fleet`: speeds of the same model at all candidates. `weight` multiplies every cost. An endpoint
    that was never measured is expected to be as fast as the fastest one, so that it is tried soon. One that has just
    returned has no completions, and begins its slow start with the speeds that it had.
    """
    completions = speeds.completions
    if not speeds.write:
        share_ratio, read_ratio = RATIOS.get(kind, UNKNOWN_RATIOS)
        best = min((it for it in fleet if it.write), key=lambda it: it.write, default=UNMEASURED)
        speeds = Speeds(best.setup, best.write * read_ratio, best.write, best.write * share_ratio)
    few = NO_LIMIT if completions >= SLOW_START else 1 + 2 * completions
    slots = NO_LIMIT if candidate.slots is None else candidate.slots
    edge = 0 if load else min(few, slots)
    parameters = (speeds.setup * weight, speeds.read * weight, speeds.write * weight, speeds.share * weight)
    return Row(candidate, candidate.id, *parameters, edge, slots, few, load * weight)


def _edge_cost(
    of: Row[C], output: float, unread: float, in_flight: int, pending: int, waiting: int, typical: float
) -> float:
    """Return the cost at an endpoint that is full, must load the model, or has few completions."""
    _, _, setup, read, write, share, _, slots, few, load = of
    n = in_flight
    total = 0.0
    if n >= slots:  # it begins when one of the running requests ends
        total = (waiting + n - slots + 1) * (setup + read * unread + typical * (write + share * slots)) / slots
        n, pending = slots - 1, 0
    total += setup + read * (pending + unread) + output * (write + share * (n + 1))
    total += n * (HARM_DECODE * share * output + HARM_PREFILL * read * unread)
    if load:
        total += load + 0.5 * n * output * (write + share * n)
    if n >= few:
        total *= 2.0 * (n + 1) / few
    return total


def expected_seconds(of: Row[C], demand: Demand, in_flight: int, pending: int) -> float:
    """Return the expected duration of a request there, beside those in flight, without its harm to them."""
    unread = demand.prompt - demand.kept.get(of.id, 0.0)
    writing = demand.output * (of.write + of.share * (in_flight + 1))
    return of.load + of.setup + of.read * (pending + unread) + writing


def has_free(rows: Iterable[Row[C]], counts: Counts[C] | None, tried: Collection[str] = ()) -> bool:
    """Return True if an endpoint with a closed circuit breaker has a free slot.

    After FULL, the request waits for a better endpoint then; others may want the free one.
    """
    for it in rows:
        candidate = it.candidate
        if candidate.rank < OPEN and it.id not in tried:
            in_flight = candidate.in_flight if counts is None else counts(candidate)[0]
            if in_flight < it.slots:
                return True
    return False


class _Costs:
    """Costs of the candidates of the best rank that are free, and of those that get no more requests now."""

    __slots__ = ("few", "found", "full", "rank")

    def __init__(self) -> None:
        self.rank = OPEN
        self.found: list[tuple[float, str]] = []
        self.full: list[tuple[int, float]] = []  # rank and cost
        self.few: list[tuple[int, float, str]] = []  # rank, cost and id; they have too few completions for more


def _costs(
    rows: Iterable[Row[C]], demand: Demand, counts: Counts[C] | None, tried: Collection[str], waiting: int
) -> _Costs:
    """Compute the costs. This is the only loop over candidates, so it has the formula without a call."""
    result = _Costs()
    best, found = OPEN, result.found
    prompt, output, kept, _, typical = demand
    if typical is None:
        typical = output
    for it in rows:
        candidate, name, setup, read, write, share, edge, slots, few, _load = it
        rank = candidate.rank
        if rank > best or name in tried:
            continue
        unread = prompt - kept[name] if name in kept else prompt
        if counts is None:
            n, pending = candidate.in_flight, candidate.pending
        else:
            n, pending = counts(candidate)
        if n < edge:
            value = (
                setup
                + output * (write + share * (1.0 + (1.0 + HARM_DECODE) * n))
                + read * (pending + unread * (1.0 + HARM_PREFILL * n))
            )
        else:
            value = _edge_cost(it, output, unread, n, pending, waiting, typical)
            if n >= slots:
                result.full.append((rank, value))
                continue
            if n >= few:
                result.few.append((rank, value, name))
                continue
        if rank < best:
            best = rank
            found.clear()
        found.append((value, name))
    result.rank = best
    return result


def pick(
    rows: Sequence[Row[C]],
    demand: Demand,
    counts: Counts[C] | None = None,
    tried: Collection[str] = (),
    waiting: int = 0,
    draw: Callable[[], float] = random.random,
) -> Decision | None:
    """Choose the endpoint with the least cost among those of the best rank.

    `counts` returns the requests in flight and the pending prompt tokens of a candidate, over all processes; None:
    those of this process are all. `waiting`: requests in the queue. The result is FULL if it is better to wait for a
    full endpoint, and None if there is no endpoint: all are disabled, draining, offline or already tried.
    """
    if len(rows) > ALL_UP_TO:
        rows = _some(rows, demand, tried)
    costs = _costs(rows, demand, counts, tried, waiting)
    found = costs.found or _despite_few(costs, demand)
    if not found:
        return FULL if costs.full else None
    found.sort()
    least, name = found[0]
    if costs.full:
        rank, value = min(costs.full)
        if rank < OPEN and (costs.rank == OPEN or (rank == costs.rank and value < least and demand.waited < least)):
            return FULL  # it is better to wait for a healthy endpoint, or for a faster one
    if costs.rank == OPEN:
        return _trial(rows, found)
    if len(found) == 1:
        return Decision(name, ONLY, (), _recorded(found))
    limit = least * NEAR
    if found[1][0] <= limit:
        near = [one for one in found[:MAX_RECORDED_SCORES] if one[0] <= limit]
        _, name = near[int(draw() * len(near))]
    return Decision(name, _reason(rows, name, demand), (), _recorded(found))


def _despite_few(costs: _Costs, demand: Demand) -> list[tuple[float, str]]:
    """Return the candidates with few completions, where there are no others to choose or to wait for."""
    if not costs.few:
        return []
    costs.rank, least, _ = min(costs.few)
    if demand.waited < least and any(rank <= costs.rank for rank, _ in costs.full):
        return []
    return [(value, name) for rank, value, name in costs.few if rank == costs.rank]


def _some(rows: Sequence[Row[C]], demand: Demand, tried: Collection[str]) -> list[Row[C]]:
    """Return some of many candidates: of the best rank those with the prefix, and others by chance."""
    usable = [it for it in rows if it.candidate.rank < OPEN and it.id not in tried]
    if not usable:
        return list(rows)
    best = min(it.candidate.rank for it in usable)
    usable = [it for it in usable if it.candidate.rank == best]
    if len(usable) <= ALL_UP_TO:
        return usable
    drawn = random.sample(usable, SAMPLED)
    if demand.kept:
        drawn += [it for it in usable if it.id in demand.kept and it not in drawn]
    return drawn


def _trial(rows: Sequence[Row[C]], found: Sequence[tuple[float, str]]) -> Decision:
    """Every circuit breaker is open: the endpoint whose trial is due first is tried."""
    names = {name for _, name in found}
    first = min((it.candidate for it in rows if it.id in names), key=lambda candidate: candidate.trial_due)
    return Decision(first.id, TRIAL, (), _recorded(found))


def _reason(rows: Sequence[Row[C]], chosen: str, demand: Demand) -> str:
    """Return the reason for a choice among several that are free."""
    if demand.waited > 0:
        return WAITED
    if demand.kept.get(chosen):
        return KEPT_PREFIX
    for it in rows:
        if it.id == chosen:
            return FASTEST if it.few == NO_LIMIT else PROBE
    return FASTEST


def _recorded(found: Sequence[tuple[float, str]]) -> tuple[tuple[str, int], ...]:
    """Return the least costs, in ms."""
    found = found[:MAX_RECORDED_SCORES]
    return tuple([(name, int(value * 1000)) for value, name in found])
