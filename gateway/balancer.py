"""Which endpoint takes a request: a pure function of the candidates, their load and what was tried. No I/O, no lock."""

import random
from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeVar

import msgspec

from gateway import snapshot

# The operator's word and being offline exclude; everything else only orders.
_RANKS = {snapshot.ONLINE: 0, snapshot.PENDING: 1, snapshot.ERROR: 2}
OPEN = 3  # its circuit breaker is open, or a trial is under way
EXCLUDED = 4

# Why an endpoint was chosen.
ONLY = "only"  # no other could be
LEAST = "least"  # it had the fewest requests in flight
DRAWN = "drawn"  # by chance, of those that had the fewest
TRIAL = "trial"  # every circuit breaker is open, and its trial is due first
MADE_IT = "made_it"  # it made the response that the request is about
PINNED = "pinned"  # the playground asked for this very endpoint
SEARCHED = "searched"  # nobody remembers which endpoint made the response: each is asked


def rank(status: str, operator_state: str) -> int:
    """How willingly an endpoint is chosen: 0 before 1, EXCLUDED never."""
    return _RANKS.get(status, EXCLUDED) if operator_state == snapshot.ENABLED else EXCLUDED


class Candidate(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def slots(self) -> int | None:
        """Requests that it takes at a time; None: any number."""

    @property
    def trial_due(self) -> float:
        """When an open circuit breaker lets a request through. Compared with each other alone."""


C = TypeVar("C", bound=Candidate)


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The choice and what it rests on: requests in flight for each candidate that was in question."""

    endpoint_id: str
    reason: str
    scores: tuple[tuple[str, int], ...]


MOST_NOTED = 8  # candidates that a record tells of: among hundreds, each would be a line of every record


def noted(decision: Decision) -> tuple[tuple[str, int], ...]:
    """The scores that a record tells of; of many, the chosen one's and the least of the others."""
    scores = decision.scores
    if len(scores) <= MOST_NOTED:
        return scores
    by_load = sorted(scores, key=lambda score: (score[0] != decision.endpoint_id, score[1]))
    return tuple(by_load[:MOST_NOTED])


FAR_TOO_MANY = 1 << 62  # requests in flight, for anything to be fewer
FULL = Decision("", "full", ())  # there are candidates, each with as many requests as it takes


def draw(names: Sequence[str]) -> str:
    """One of them, by chance. As random.choice, which takes three times as long."""
    return names[int(random.random() * len(names))]  # noqa: S311


def pick(
    candidates: Sequence[C],
    load: Callable[[C], int],
    tried: Collection[str] = (),
    choose: Callable[[Sequence[str]], str] = draw,
) -> Decision | None:
    """The endpoint with the fewest requests in flight among the healthiest; ties are drawn by `choose`.

    An open circuit breaker orders last, it never empties: where all are open, the one whose trial is due first is
    taken. FULL when every candidate is; None when there is none: disabled, draining, offline or already tried.
    """
    best, full = OPEN, EXCLUDED
    free: list[tuple[str, int]] = []
    ties: list[str] = []  # of those, the ones with the fewest
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
        return FULL  # better to wait for one that works than to try one that does not
    if not free:
        return None
    if best == OPEN:
        return Decision(_first_trial(candidates, free), TRIAL, tuple(free))
    chosen = ties[0] if len(ties) == 1 else choose(ties)
    return Decision(chosen, ONLY if len(free) == 1 else LEAST if len(ties) == 1 else DRAWN, tuple(free))


def _first_trial(candidates: Sequence[C], free: list[tuple[str, int]]) -> str:
    names = {name for name, _ in free}
    return min((it for it in candidates if it.id in names), key=lambda it: it.trial_due).id
