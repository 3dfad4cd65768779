"""The choice between two endpoints: that of `among_free` in gateway.routing.adaptive, with fewer instructions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor
from random import random

from gateway.routing.adaptive import FASTEST, HARM_FACTORS, NEAR, NO_LIMIT, LoadedCandidate, Row
from gateway.routing.balancer import Decision
from gateway.routing.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Pair:
    """Two endpoints that are past their slow start, in the order of their ids."""

    first: str  # id
    second: str
    first_share: float  # Row.share
    second_share: float
    # Both endpoints; setup, read and write + share of the first, and of the second; the requests in flight from which
    # on one of them must be compared with care. A plain tuple, as Row.terms.
    terms: tuple[LoadedCandidate, LoadedCandidate, float, float, float, float, float, float, int]


def pair_of(rows: Sequence[Row[Endpoint]]) -> Pair | None:
    """Return the pair that two rows are; None if they are not two, or one of them is of a slow start."""
    if len(rows) != 2 or any(it.few != NO_LIMIT for it in rows):
        return None
    first, second = sorted(rows, key=lambda it: it.id)
    one, name, setup, read, alone, share, edge, _ = first.terms
    two, other, second_setup, second_read, second_alone, second_share, second_edge, _ = second.terms
    terms = (one, two, setup, read, alone, second_setup, second_read, second_alone, min(edge, second_edge))
    return Pair(name, other, share, second_share, terms)


def among_two(pair: Pair, prompt: float, output: float, draw: Callable[[], float] = random) -> Decision | None:
    """Choose as `among_free` does for a prompt of which nothing is in a prefix cache. None: this needs more care."""
    one, two, setup, read, alone, second_setup, second_read, second_alone, edge = pair.terms
    n, others = one.in_flight, two.in_flight
    if n >= edge or others >= edge or one.rank or two.rank:
        return None
    prompt = prompt + 0.0  # a product of two floats is quicker
    if n or others or one.pending or two.pending:
        reads, writes = HARM_FACTORS
        least = setup + read * (one.pending + prompt * reads[n]) + output * (alone + pair.first_share * writes[n])
        more = (
            second_setup
            + second_read * (two.pending + prompt * reads[others])
            + output * (second_alone + pair.second_share * writes[others])
        )
    else:
        least = setup + read * prompt + output * alone
        more = second_setup + second_read * prompt + output * second_alone
    name, other = pair.first, pair.second
    if more < least:
        least, more = more, least
        name, other = other, name
    chosen = other if more <= least * NEAR and draw() >= 0.5 else name
    costs = ((name, floor(least * 1000.0)), (other, floor(more * 1000.0)))
    return Decision(chosen, FASTEST, (), (), costs)
