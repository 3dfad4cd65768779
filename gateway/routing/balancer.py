"""Routing policy: choose the endpoint of a request from the candidates, their load and the endpoints already tried.

Pure functions: no I/O, no lock.
"""

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol, TypeVar

import msgspec

from gateway.registry import schema

# Administrative state and the status offline exclude an endpoint; all else only orders: health first, then tier.
TIERS = schema.LAST_TIER
_RANKS = {schema.ONLINE: 0, schema.PENDING: TIERS, schema.ERROR: 2 * TIERS}
OPEN = 3 * TIERS  # its circuit breaker is open, or a trial is under way: whose trial is due first, in any tier
EXCLUDED = OPEN + 1

# Reasons for a choice.
ONLY = "only"  # there was no other candidate
LEAST = "least"  # it had the fewest requests in flight
DRAWN = "drawn"  # chosen at random from the endpoints with the fewest
TRIAL = "trial"  # every circuit breaker is open, and its trial is due first
CREATOR = "made_it"  # it created the stored response of the request
PINNED = "pinned"  # the playground requested this endpoint
SEARCHED = "searched"  # the endpoint of a stored response is unknown: all are queried
SPILLED = "spilled"  # the endpoints of better tiers were excluded or full


def rank(status: str, operator_state: str, tier: int = 1) -> int:
    """Return the rank of an endpoint by its health and its tier: 0 is chosen before 1, EXCLUDED never."""
    if operator_state != schema.ENABLED or status not in _RANKS:
        return EXCLUDED
    return _RANKS[status] + tier - 1


class Candidate(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def tier(self) -> int:
        """1 to TIERS."""

    @property
    def slots(self) -> int | None:
        """Limit of concurrent requests; None is unlimited."""

    @property
    def trial_due(self) -> float:
        """Time at which an open circuit breaker admits a trial, comparable between candidates only."""


C = TypeVar("C", bound=Candidate)


MAX_RECORDED_SCORES = 8  # among hundreds of candidates all of them would make every record long
# Expected time in seconds, the id of the endpoint, and the requests in flight from which on its slow start matters.
CandidateTime = tuple[float, str, int]


class Decision(msgspec.Struct, frozen=True, gc=False):
    """A choice with its reason, its scores and its expected times.

    Scores are the requests in flight of each candidate of the best rank. Expected times (gateway.routing.expected_time)
    are those of up to MAX_RECORDED_SCORES candidates, the least first, and only of the adaptive policy.
    """

    endpoint_id: str
    reason: str
    scores: tuple[tuple[str, int], ...]
    expected_times: Sequence[CandidateTime] = ()


def recorded_times(decision: Decision) -> tuple[tuple[str, int], ...]:
    """Return the expected times for the record: id and whole ms of each endpoint."""
    return tuple([(name, int(seconds * 1000.0)) for seconds, name, _ in decision.expected_times])


def recorded_scores(decision: Decision) -> tuple[tuple[str, int], ...]:
    """Return the scores for the record: the chosen endpoint's and the lowest others, MAX_RECORDED_SCORES in all."""
    scores = decision.scores
    if len(scores) <= MAX_RECORDED_SCORES:
        return scores
    by_load = sorted(scores, key=lambda score: (score[0] != decision.endpoint_id, score[1]))
    return tuple(by_load[:MAX_RECORDED_SCORES])


FAR_TOO_MANY = 1 << 62  # larger than any number of requests in flight
FULL = Decision("", "full", ())  # every candidate has reached its concurrency limit
HELD = Decision("", "held", ())  # one is free, but the request waits for a limit of its own API key, user or of all
OVER = Decision("", "over", ())  # such a limit refuses the request
DECLINED = Decision("", "declined", ())  # one is free, but this request had better wait for another


def draw(names: Sequence[str]) -> str:
    """Return one name at random. random.choice takes three times as long."""
    return names[int(random.random() * len(names))]  # noqa: S311


def pick(
    candidates: Sequence[C],
    load: Callable[[C], int],
    tried: Collection[str] = (),
    choose: Callable[[Sequence[str]], str] = draw,
) -> Decision | None:
    """Choose an endpoint (load balancing): the one with the fewest requests in flight among those of the best rank.

    `choose` decides ties. An endpoint is full if its slots are taken; one of a worse tier is chosen then. An open
    circuit breaker ranks last, but never excludes: if all are open, the endpoint whose trial is due first is chosen.
    The result is FULL if every candidate is full, and None if there is none: all are disabled, draining, offline or
    already tried.
    """
    best, full = OPEN, EXCLUDED
    free: list[tuple[str, int]] = []
    ties: list[str] = []  # those with the fewest requests in flight
    fewest = FAR_TOO_MANY
    for candidate in candidates:
        rank = candidate.rank
        if rank > best or candidate.id in tried:
            continue
        count = load(candidate)
        if candidate.slots is not None and count >= candidate.slots:
            full = min(full, rank)
        elif rank < best:
            best, free, ties, fewest = rank, [(candidate.id, count)], [candidate.id], count
        else:
            free.append((candidate.id, count))
            if count < fewest:
                fewest, ties = count, [candidate.id]
            elif count == fewest:
                ties.append(candidate.id)
    if best == OPEN and full < (OPEN if free else EXCLUDED):
        return FULL  # waiting for a healthy endpoint is better than trying a failing one
    if not free:
        return None
    if best == OPEN:
        return Decision(_first_trial(candidates, free), TRIAL, tuple(free))
    chosen = ties[0] if len(ties) == 1 else choose(ties)
    reason = ONLY if len(free) == 1 else LEAST if len(ties) == 1 else DRAWN
    return Decision(chosen, SPILLED if best and is_spilled(best, candidates) else reason, tuple(free))


def is_spilled(rank: int, candidates: Iterable[Candidate]) -> bool:
    """Return True if a candidate, in any state, has a better tier than one of this rank, which is below OPEN."""
    tier = rank % TIERS + 1
    return tier > 1 and any(candidate.tier < tier for candidate in candidates)


def _first_trial(candidates: Sequence[C], free: list[tuple[str, int]]) -> str:
    names = {name for name, _ in free}
    return min(
        (candidate for candidate in candidates if candidate.id in names), key=lambda candidate: candidate.trial_due
    ).id
