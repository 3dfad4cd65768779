"""Adaptive routing policy: choose the endpoint where a request costs the least time, its own and that of others.

The cost of a request at an endpoint is its expected duration, plus the time by which it delays those that run there
(the marginal cost of a shared resource, after Pigou), plus the time to load the model. With P prompt tokens, of which
`kept` are in the endpoint's prefix cache, O output tokens, n requests in flight there and Q pending prompt tokens:

    own  = setup + read * (Q + P - kept) + O * (write + share * (n + 1))
    harm = n * (HARM.decode * share * O + HARM.prefill * read * (P - kept))

A bulk request has greater weights of harm (BULK_HARM), so that it avoids endpoints where others run.
The four parameters are learned (gateway.registry.schema.Speeds). An endpoint that is full may still cost the least:
then the request waits for it, for a bounded time. That costs more where it will replace the prefix of another client
(SLOT_CACHES). It does not wait for one of a better tier: an endpoint of a worse tier gets it at once. Pure functions.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import floor
from operator import itemgetter
from random import random, sample
from typing import Generic, NamedTuple, Protocol, TypeVar

from gateway.registry.schema import EndpointFacts, Speeds
from gateway.routing.balancer import (
    FULL,
    MAX_RECORDED_SCORES,
    ONLY,
    OPEN,
    SPILLED,
    TIERS,
    TRIAL,
    Candidate,
    Cost,
    Decision,
    is_spilled,
)


class Harm(NamedTuple):
    """Weights of the harm to others. A class, because the compiled gateway makes plain tuples anew for each use."""

    decode: float
    prefill: float


HARM = Harm(0.5, 0.25)
BULK_HARM = Harm(1.0, 1.0)  # of bulk requests
NEAR = 1.03  # costs within 3 % are drawn by chance, so that gateways do not all choose the same endpoint
SLOW_START = 16  # completions; before, an endpoint has at most 1 + 2 * completions requests if there are others
ALL_UP_TO, SAMPLED = 24, 12  # of more candidates, some are compared: those with the prefix, and others by chance
DRAWN = 14  # numbers for it, of which some may be equal
NO_LIMIT = 1 << 30
COUNTED = 1 << 10  # requests in flight from which on a cost is not looked up, but calculated
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

    @property
    def recent_prompt(self) -> float:
        """Mean prompt tokens of the last requests there (gateway.routing.cost_parts.recent_mean); 0: unknown."""


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
    harm: Harm = HARM


@dataclass(frozen=True, slots=True, eq=False)
class Row(Generic[C]):
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
    weight: float  # factor that setup, read, write, share and load contain, and thereby every cost
    replaced: float  # prompts that are read again if the request waits for a slot
    spill: float  # expected wait, times the weight, beyond which it counts as full if a worse tier is free
    # Candidate, id, setup, read, write + share, share, edge, few: a plain tuple is unpacked in a fifth of the time.
    terms: tuple[C, str, float, float, float, float, int, int]
    # Load and setup, read, write, share: without the weight, as `expected_seconds` needs them.
    unweighted: tuple[float, float, float, float]


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

    `kind`: the engine. `fleet`: speeds of the same model at all candidates. `weight` multiplies every cost.
    `spill_after`: expected wait in seconds beyond which a candidate without known slots counts as full; give it only
    if there are candidates of worse tiers, because it makes the row dearer to compare. An endpoint
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
    edge = 0 if load else min(few, slots, COUNTED)
    spill = NEVER
    if candidate.slots is None and spill_after < NEVER:
        edge, spill = min(edge, 1), spill_after * weight
    unweighted = (speeds.setup + load, speeds.read, speeds.write, speeds.share)
    setup, read, write, share, load = (
        it * weight for it in (speeds.setup, speeds.read, speeds.write, speeds.share, load)
    )
    terms = (candidate, candidate.id, setup, read, write + share, share, edge, few)
    return Row(
        candidate, candidate.id, setup, read, write, share, edge, slots, few, load, weight,
        REPLACED if kind in SLOT_CACHES else 0.0, spill, terms, unweighted,
    )  # fmt: skip


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
    last = max((it.tier for it in candidates), default=1)
    return [
        row(
            it,
            own,
            it.facts.kind,
            speeds,
            weight=it.facts.cost_weight,
            load=load,
            spill_after=spill_after if it.tier < last else NEVER,
        )
        for it, own, load in zip(candidates, speeds, loads or [0.0] * len(candidates), strict=True)
    ]


def _edge_cost(of: Row[C], demand: Demand, unread: float, in_flight: int, pending: int, waiting: int) -> float:
    """Return the cost at an endpoint that is full, must load the model, or has few completions."""
    setup, read, write, share, slots = of.setup, of.read, of.write, of.share, of.slots
    _, output, _, _, typical, (decode, prefill) = demand
    n = in_flight
    total = 0.0
    if n >= slots:  # it begins when one of the running requests ends
        others = output if typical is None else typical
        total = (waiting + n - slots + 1) * (setup + read * unread + others * (write + share * slots)) / slots
        total += of.replaced * read * (of.candidate.recent_prompt or demand.prompt)
        n, pending = slots - 1, 0
    total += setup + read * (pending + unread) + output * (write + share * (n + 1))
    total += n * (decode * share * output + prefill * read * unread)
    if of.load:
        total += of.load + 0.5 * n * output * (write + share * n)
    if n >= of.few:
        total *= 2.0 * (n + 1) / of.few
    return total


def is_spilling(of: Row[C], output: float, in_flight: int, pending: int) -> bool:
    """Return True if the expected wait there is longer than it may be while an endpoint of a worse tier is free.

    The wait is the time that a request loses to those before it: until their prompts are read, and for each of its
    output tokens.
    """
    return of.spill < NEVER and of.read * pending + output * of.share * in_flight > of.spill


class _Edge(NamedTuple):
    """The cost of a candidate that gets no more requests now: it is full, spilling, or has few completions."""

    rank: int
    cost: float
    id: str
    is_full: bool
    is_spilling: bool
    plain: float  # the cost without the factor of the slow start


@lru_cache(maxsize=8)
def _factors(harm: Harm) -> tuple[list[float], list[float]]:
    """Return, by the requests in flight, the factor of `read` times the unread tokens, and that of `share` times the
    output tokens beyond those of the request itself: its delay by the others, and its harm to them.
    """
    decode, prefill = harm
    return [1.0 + n * prefill for n in range(COUNTED)], [n * (1.0 + decode) for n in range(COUNTED)]


HARM_FACTORS = _factors(HARM)

_COST = itemgetter(0)
Found = list[Cost]


def _costs(
    rows: Iterable[Row[C]], demand: Demand, counts: Counts[C] | None, tried: Collection[str], waiting: int
) -> tuple[int, Found, list[_Edge]]:
    """Return the best rank with a free candidate, the costs of those that are free, and of those that are not.

    This loop, that of `among_free` and `among_two` of gateway.routing.pairs have the formula without a call.
    """
    best = OPEN
    found: Found = []
    edges: list[_Edge] = []
    prompt, output, kept, _, _, harm = demand
    reads, writes = HARM_FACTORS if harm is HARM else _factors(harm)
    prompt = unread = prompt + 0.0  # a product of two floats is quicker than one with an integer
    for it in [it for it in rows if it.id not in tried] if tried else rows:
        candidate, name, setup, read, alone, share, edge, few = it.terms
        rank = candidate.rank
        if rank > best:
            continue
        if counts is None:
            n, pending = candidate.in_flight, candidate.pending
        else:
            n, pending = counts(candidate)
        if kept:
            unread = prompt - kept[name] if name in kept else prompt
        if n < edge:
            if n or pending:  # with its own delay by others, and its harm to them
                value = setup + read * (pending + unread * reads[n]) + output * (alone + share * writes[n])
            else:
                value = setup + read * unread + output * alone
        else:
            value = _edge_cost(it, demand, unread, n, pending, waiting)
            spilling = is_spilling(it, output, n, pending)
            if spilling or n >= it.slots or n >= few:
                plain = value * few / (2.0 * (n + 1)) if n >= few else value
                edges.append(_Edge(rank, value, name, n >= it.slots, spilling, plain))
                continue
        if rank < best:
            best = rank
            found.clear()
        found.append((value, name, few))
    return best, found, edges


def among_free(
    rows: Iterable[Row[C]], prompt: float, output: float, kept: Mapping[str, float], draw: Callable[[], float] = random
) -> Decision | None:
    """Choose as `pick` does for an interactive request that has not waited, if nothing but costs matters; else None.

    That is if several are compared, all are of rank 0, and none is full, must load the model or has few completions.
    """
    found: Found = []
    whole: tuple[tuple[str, int], ...] = ()
    reads, writes = HARM_FACTORS
    prompt = unread = prompt + 0.0
    for it in rows:
        candidate, name, setup, read, alone, share, edge, few = it.terms
        n, pending = candidate.in_flight, candidate.pending
        if n >= edge or candidate.rank:
            return None
        if kept:
            unread = prompt - kept[name] if name in kept else prompt
        if n or pending:
            value = setup + read * (pending + unread * reads[n]) + output * (alone + share * writes[n])
        else:
            value = setup + read * unread + output * alone
        found.append((value, name, few))
    if len(found) == 2:  # often; so sorting is spared
        first, second = found if found[0] <= found[1] else (found[1], found[0])
        least, name, few = first
        more, other, other_few = second
        whole = (name, floor(least * 1000.0)), (other, floor(more * 1000.0))
        if more <= least * NEAR and draw() >= 0.5:
            name, few = other, other_few
        found = [first, second]
    elif len(found) < 2:
        return None
    else:
        found.sort()
        del found[MAX_RECORDED_SCORES:]
        name, few = _drawn_among(found, draw)
    return Decision(name, KEPT_PREFIX if name in kept else FASTEST if few == NO_LIMIT else PROBE, (), found, whole)


def pick(
    rows: Sequence[Row[C]],
    demand: Demand,
    counts: Counts[C] | None = None,
    tried: Collection[str] = (),
    waiting: int = 0,
    draw: Callable[[], float] = random,
    by_id: Mapping[str, Row[C]] | None = None,
) -> Decision | None:
    """Choose the endpoint with the least cost among those of the best rank.

    `counts` returns the requests in flight and the pending prompt tokens of a candidate, over all processes; None:
    those of this process are all. `waiting`: requests in the queue. `by_id`: the rows by the ids of their
    candidates, which spares looking for them among many. The result is FULL if it is better to wait for a
    full endpoint, and None if there is no endpoint: all are disabled, draining, offline or already tried.
    """
    some = rows if len(rows) <= ALL_UP_TO else _drawn(rows, demand, by_id)
    prompt, output, kept, waited, _, harm = demand
    is_usual = counts is None and not tried and harm is HARM and waited <= 0.0
    if is_usual and (decision := among_free(some, prompt, output, kept, draw)) is not None:
        return decision
    best, found, edges = _best_costs(rows, some, demand, counts, tried, waiting)
    if edges:
        if _spills_nowhere(edges, found, best):
            unlimited = [replace(it, spill=NEVER) for it in rows]
            return pick(unlimited, demand, counts, tried, waiting, draw)
        if not found or (best == OPEN and any(it.rank < OPEN and not it.is_full for it in edges)):
            best, found = _despite_few(edges, demand)
        if not found:
            return FULL if any(it.is_full for it in edges) else None
        if _waits(edges, best, min(found)[0], demand):
            return FULL
        best, found = _instead_of_a_load(edges, best, found, rows)
    found.sort()
    if best == OPEN and found:
        return _trial(rows, found)
    if len(found) <= 1:
        return _only(rows, found, best)
    del found[MAX_RECORDED_SCORES:]
    name, few = _drawn_among(found, draw)
    reason = SPILLED if best and is_spilled(best, (it.candidate for it in rows)) else _reason(name, few, demand)
    return Decision(name, reason, (), found)


def _drawn_among(found: Found, draw: Callable[[], float]) -> tuple[str, int]:
    """Draw one of the sorted costs that are near the least; return its id, and from when its slow start matters."""
    least, name, few = found[0]
    limit = least * NEAR
    if found[1][0] <= limit:
        _, name, few = found[int(draw() * bisect_right(found, limit, key=_COST))]
    return name, few


def _spills_nowhere(edges: Iterable[_Edge], found: Found, best: int) -> bool:
    """Return True if candidates are spilling although no other one that is as healthy is free."""
    spilling = [it.rank for it in edges if it.is_spilling]
    return bool(spilling) and (not found or best // TIERS > min(spilling) // TIERS)


def _reason(name: str, few: int, demand: Demand) -> str:
    """Return the reason for a choice among several that are free."""
    if demand.waited > 0:
        return WAITED
    if name in demand.kept:
        return KEPT_PREFIX
    return FASTEST if few == NO_LIMIT else PROBE


def _only(rows: Sequence[Row[C]], found: Found, best: int) -> Decision | None:
    if not found:
        return None
    reason = SPILLED if best and is_spilled(best, (it.candidate for it in rows)) else ONLY
    return Decision(found[0][1], reason, (), found)


def _waits(edges: Iterable[_Edge], best: int, least: float, demand: Demand) -> bool:
    """Return True if it is better to wait for a healthy endpoint, or for a faster one of the same rank."""
    full = [it for it in edges if it.is_full and it.rank < OPEN]
    if best == OPEN:
        return bool(full)
    return demand.waited < least and any(it.rank == best and it.cost < least for it in full)


def _despite_few(edges: Iterable[_Edge], demand: Demand) -> tuple[int, Found]:
    """Return the candidates with few completions, where there are no others as healthy to choose or to wait for.

    While another one is full, a request waits, as long as it may: each response allows two more requests here.
    """
    few = [it for it in edges if not it.is_full]
    if not few:
        return OPEN, []
    first = min(few)
    if demand.waited < NEVER and any(it.is_full and it.rank <= first.rank for it in edges):
        return OPEN, []
    return first.rank, [(it.cost, it.id, 0) for it in few if it.rank == first.rank]


def _instead_of_a_load(edges: Iterable[_Edge], best: int, found: Found, rows: Sequence[Row[C]]) -> tuple[int, Found]:
    """If the best of the free candidates must load the model, return those with few completions that cost less.

    Else the slow start of an endpoint that has the model, or is loading it, would start more loads. Its factor
    does not count here: where the model must be loaded, it has few completions, too.
    """
    least, name, _ = min(found)
    few = [(it.cost, it.id, 0) for it in edges if not it.is_full and it.rank == best and it.plain < least]
    if few and any(it.load and it.id == name for it in rows):
        return best, few
    return best, found


def _drawn(rows: Sequence[Row[C]], demand: Demand, by_id: Mapping[str, Row[C]] | None) -> set[Row[C]]:
    """Return some of many candidates, of any rank, without looking at all: by chance, and those with the prefix."""
    number = len(rows)
    drawn = {rows[floor(random() * number)] for _ in range(DRAWN)}  # noqa: S311
    if demand.kept:
        known = {it.id: it for it in rows} if by_id is None else by_id
        drawn.update([known[name] for name in demand.kept if name in known])
    return drawn


def _best_costs(
    rows: Sequence[Row[C]],
    drawn: Iterable[Row[C]],
    demand: Demand,
    counts: Counts[C] | None,
    tried: Collection[str],
    waiting: int,
) -> tuple[int, Found, list[_Edge]]:
    """Return the costs of the drawn candidates, or of other ones if these may have a better rank, or be free."""
    costs = _costs(drawn, demand, counts, tried, waiting)
    if drawn is not rows and (costs[0] or not costs[1]):
        costs = _costs(_some(rows, demand, tried), demand, counts, tried, waiting)
        if not costs[1]:
            costs = _costs(rows, demand, counts, tried, waiting)
    return costs


def _some(rows: Sequence[Row[C]], demand: Demand, tried: Collection[str]) -> list[Row[C]]:
    """Return some of many candidates: of the best rank those with the prefix, and others by chance."""
    usable = [it for it in rows if it.candidate.rank < OPEN and it.id not in tried]
    if not usable:
        return list(rows)
    best = min(it.candidate.rank for it in usable)
    usable = [it for it in usable if it.candidate.rank == best]
    if len(usable) <= ALL_UP_TO:
        return usable
    drawn = sample(usable, SAMPLED)
    if demand.kept:
        drawn += [it for it in usable if it.id in demand.kept and it not in drawn]
    return drawn


def _trial(rows: Sequence[Row[C]], found: Found) -> Decision:
    """Every circuit breaker is open: the endpoint whose trial is due first is tried."""
    names = {name for _, name, _ in found}
    first = min((it.candidate for it in rows if it.id in names), key=lambda candidate: candidate.trial_due)
    return Decision(first.id, TRIAL, (), found[:MAX_RECORDED_SCORES])
