"""Shares of responses that found their prefix: the total is always that of the present samples."""

from hypothesis import given
from hypothesis import strategies as st

from metrics.learning.prefixes import PrefixShare, PrefixShares, prefix_share
from metrics.learning.samples import UNKNOWN, SpeedSample


def samples(cached: list[int]) -> list[SpeedSample]:
    return [SpeedSample(1, 1, 1, 1, 0, 1, 1, UNKNOWN, 0, 0, tokens, 0) for tokens in cached]


CACHED = st.lists(st.sampled_from((UNKNOWN, 0, 9)), max_size=5)
TARGETS = st.sampled_from((("a", "tiny", "chat"), ("b", "tiny", "chat")))


def test_only_responses_that_tell_it_count() -> None:
    assert prefix_share(samples([UNKNOWN, 0, 9, 9])) == PrefixShare(2, 3)


@given(st.lists(st.tuples(TARGETS, st.none() | CACHED)))
def test_the_total_is_that_of_the_last_samples(steps: list[tuple[tuple[str, str, str], list[int] | None]]) -> None:
    shares, present = PrefixShares(), {}
    for target, cached in steps:
        if cached is None:
            shares.drop(target)
        else:
            shares.put(target, samples(cached))
        present[target] = cached or []
    assert shares.total == prefix_share(samples([tokens for cached in present.values() for tokens in cached]))
