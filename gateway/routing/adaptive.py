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
DRAWN = 14  # numbers for it, of which some may be equal
NO_LIMIT = 1 << 30
UNKNOWN_OUTPUT, UNKNOWN_BYTES_PER_TOKEN = 200.0, 4.0

# Before anything is measured: share / write and read / write of an engine, and the parameters of a slow GPU.
RATIOS = {"vllm": (0.01, 0.008), "llamacpp": (0.2, 0.03), "ollama": (0.2, 0.03), "lm_studio": (0.2, 0.03)}
UNKNOWN_RATIOS = (0.05, 0.03)
UNMEASURED = Speeds(setup=0.005, read=0.0003, write=0.02, share=0.002)
UNKNOWN_LOAD_SECONDS = 15.0
# Where another model is in memory, loading costs so many times as much, because that one must be loaded again. With 3,
# half as many loads (1.5 instead of 3 % of the requests of a fleet at half load), but a busy fleet was 40 % slower.
EVICTION = 1.5

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
    _, name, setup, read, write, share, _, _, _, load = of
    prompt, output, kept, _, _ = demand  # unpacking is quicker than names
    unread = prompt - kept[name] if name in kept else prompt
    return load + setup + read * (pending + unread) + output * (write + share * (in_flight + 1))


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


class _Edge(NamedTuple):
    """The cost of a candidate that gets no more requests now: it is full, or has few completions."""

    rank: int
    cost: float
    id: str
    is_full: bool


Found = list[tuple[float, str, int]]  # cost, id, and the requests from which on the slow start makes it dearer


def _costs(
    rows: Iterable[Row[C]], demand: Demand, counts: Counts[C] | None, tried: Collection[str], waiting: int
) -> tuple[int, Found, list[_Edge]]:
    """Return the best rank with a free candidate, the costs of those that are free, and of those that are not.

    This is the only loop over candidates, so it has the formula without a call.
    """
    best = OPEN
    found: Found = []
    edges: list[_Edge] = []
    append = found.append
    prompt, output, kept, _, typical = demand
    decode, prefill = 1.0 + HARM_DECODE, HARM_PREFILL / (1.0 + HARM_DECODE)
    unread = prompt
    for it in rows:
        candidate, name, setup, read, write, share, edge, slots, few, _load = it
        rank = candidate.rank
        if rank > best or name in tried:
            continue
        if kept:
            unread = prompt - kept[name] if name in kept else prompt
        if counts is None:
            n, pending = candidate.in_flight, candidate.pending
        else:
            n, pending = counts(candidate)
        if n < edge:
            others = decode * n  # a float times an integer takes longer than two floats, so there is one such product
            value = setup + output * (write + share * (1.0 + others))
            value += read * (unread * (1.0 + prefill * others) + pending)
        else:
            value = _edge_cost(it, output, unread, n, pending, waiting, output if typical is None else typical)
            if n >= slots or n >= few:
                edges.append(_Edge(rank, value, name, n >= slots))
                continue
        if rank < best:
            best = rank
            found.clear()
        append((value, name, few))
    return best, found, edges


def pick(
    rows: Sequence[Row[C]],
    demand: Demand,
    counts: Counts[C] | None = None,
    tried: Collection[str] = (),
    waiting: int = 0,
    draw: Callable[[], float] = random.random,
    by_id: Mapping[str, Row[C]] | None = None,
) -> Decision | None:
    """Choose the endpoint with the least cost among those of the best rank.

    `counts` returns the requests in flight and the pending prompt tokens of a candidate, over all processes; None:
    those of this process are all. `waiting`: requests in the queue. `by_id`: the rows by the ids of their
    candidates, which spares looking for them among many. The result is FULL if it is better to wait for a
    full endpoint, and None if there is no endpoint: all are disabled, draining, offline or already tried.
    """
    some = rows if len(rows) <= ALL_UP_TO else _drawn(rows, demand, by_id)
    best, found, edges = _costs(some, demand, counts, tried, waiting)
    if some is not rows and (best or not found):  # others may have a better rank, or be free
        best, found, edges = _costs(_some(rows, demand, tried), demand, counts, tried, waiting)
    if edges:
        if not found:
            best, found = _despite_few(edges, demand)
        if not found:
            return _none_free(edges)
        if _waits(edges, best, min(found)[0], demand):
            return FULL
    if len(found) <= 1:
        return _only(rows, found, best)
    found.sort()
    if best == OPEN:
        return _trial(rows, found)
    least, name, few = found[0]
    limit = least * NEAR
    if found[1][0] <= limit:
        near = [one for one in found[:MAX_RECORDED_SCORES] if one[0] <= limit]
        _, name, few = near[int(draw() * len(near))]
    return Decision(name, _reason(name, few, demand), (), _recorded(found))


def _reason(name: str, few: int, demand: Demand) -> str:
    """Return the reason for a choice among several that are free."""
    if demand.waited > 0:
        return WAITED
    if name in demand.kept:
        return KEPT_PREFIX
    return FASTEST if few == NO_LIMIT else PROBE


def _none_free(edges: Iterable[_Edge]) -> Decision | None:
    return FULL if any(it.is_full for it in edges) else None


def _only(rows: Sequence[Row[C]], found: Found, best: int) -> Decision | None:
    if not found:
        return None
    return _trial(rows, found) if best == OPEN else Decision(found[0][1], ONLY, (), _recorded(found))


def _waits(edges: Iterable[_Edge], best: int, least: float, demand: Demand) -> bool:
    """Return True if it is better to wait for a healthy endpoint, or for a faster one."""
    full = [it for it in edges if it.is_full]
    if not full:
        return False
    first = min(full)
    if first.rank == OPEN:
        return False
    return best == OPEN or (first.rank == best and first.cost < least and demand.waited < least)


def _despite_few(edges: Iterable[_Edge], demand: Demand) -> tuple[int, Found]:
    """Return the candidates with few completions, where there are no others to choose or to wait for."""
    few = [it for it in edges if not it.is_full]
    if not few:
        return OPEN, []
    first = min(few)
    if demand.waited < first.cost and any(it.is_full and it.rank <= first.rank for it in edges):
        return OPEN, []
    return first.rank, [(it.cost, it.id, 0) for it in few if it.rank == first.rank]


def _drawn(rows: Sequence[Row[C]], demand: Demand, by_id: Mapping[str, Row[C]] | None) -> list[Row[C]]:
    """Return some of many candidates, of any rank, without looking at all: by chance, and those with the prefix."""
    number = len(rows)
    drawn = {int(random.random() * number) for _ in range(DRAWN)}  # noqa: S311
    some = [rows[at] for at in drawn]
    if demand.kept:
        known = {it.id: it for it in rows} if by_id is None else by_id
        some += [known[name] for name in demand.kept if name in known and known[name] not in some]
    return some


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


def _trial(rows: Sequence[Row[C]], found: Found) -> Decision:
    """Every circuit breaker is open: the endpoint whose trial is due first is tried."""
    names = {name for _, name, _ in found}
    first = min((it.candidate for it in rows if it.id in names), key=lambda candidate: candidate.trial_due)
    return Decision(first.id, TRIAL, (), _recorded(found))


def _recorded(found: Found) -> tuple[tuple[str, int], ...]:
    """Return the least costs, in ms."""
    return tuple([(name, int(value * 1000)) for value, name, _ in found[:MAX_RECORDED_SCORES]])
