"""Which endpoint takes a request: a pure function of the candidates, their load and what was tried. No I/O, no lock."""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from gateway import snapshot

# The operator's word and being offline exclude; everything else only orders.
_RANKS = {snapshot.ONLINE: 0, snapshot.PENDING: 1, snapshot.ERROR: 2}
_WORST = max(_RANKS.values())


class Candidate(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def operator_state(self) -> str: ...


C = TypeVar("C", bound=Candidate)


class Decision(msgspec.Struct, frozen=True):
    """The choice and what it rests on: requests in flight for each candidate that was in question."""

    endpoint_id: str
    scores: Mapping[str, int]

    @property
    def reason(self) -> str:
        """In words."""
        if len(self.scores) == 1:
            return "only candidate"
        ties = list(self.scores.values()).count(self.scores[self.endpoint_id])
        return "least in flight" if ties == 1 else f"drawn among {ties} with the least in flight"


def pick(
    candidates: Sequence[C],
    load: Callable[[C], int],
    tried: Collection[str] = (),
    choose: Callable[[Sequence[str]], str] = random.choice,
) -> Decision | None:
    """The endpoint with the fewest requests in flight among the healthiest; ties are drawn by `choose`.

    None when no candidate is left: disabled, draining, offline or already tried.
    """
    best_rank = _WORST
    scores: dict[str, int] = {}
    for candidate in candidates:
        rank = _RANKS.get(candidate.status, _WORST + 1)
        if rank > best_rank or candidate.operator_state != snapshot.ENABLED or candidate.id in tried:
            continue
        if rank < best_rank:
            best_rank = rank
            scores = {}
        scores[candidate.id] = load(candidate)
    if not scores:
        return None
    if len(scores) == 1:
        return Decision(next(iter(scores)), scores)
    least = min(scores.values())
    ties = [endpoint for endpoint, count in scores.items() if count == least]
    return Decision(ties[0] if len(ties) == 1 else choose(ties), scores)
