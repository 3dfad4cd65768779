"""Which endpoint takes a request: a pure function of the candidates, their load and what was tried. No I/O, no lock."""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from gateway import snapshot

# The operator's word and being offline exclude; everything else only orders.
_RANKS = {snapshot.ONLINE: 0, snapshot.PENDING: 1, snapshot.ERROR: 2}
WORST = 2
EXCLUDED = 3


def rank(status: str, operator_state: str) -> int:
    """How willingly an endpoint is chosen: 0 before 1, EXCLUDED never."""
    return _RANKS.get(status, EXCLUDED) if operator_state == snapshot.ENABLED else EXCLUDED


class Candidate(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def rank(self) -> int: ...


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

    None when no candidate is left: disabled, draining, offline or already tried.
    """
    best, least = WORST, 0
    scores: dict[str, int] = {}
    ties: list[str] = []
    for candidate in candidates:
        if candidate.rank > best or candidate.id in tried:
            continue
        count = load(candidate)
        if candidate.rank < best:
            best = candidate.rank
            scores, ties = {}, []
        scores[candidate.id] = count
        if not ties or count < least:
            least, ties = count, [candidate.id]
        elif count == least:
            ties.append(candidate.id)
    if not ties:
        return None
    return Decision(ties[0] if len(ties) == 1 else choose(ties), scores)
