"""Distributions: each value has one bucket, sums lose nothing, quantiles are near the true ones."""

import itertools
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics import histogram
from metrics.histogram import add, bounds, bucket, pack, quantiles, subtract, unpack

VALUES = st.integers(0, 2**60)


@given(VALUES)
def test_a_value_lies_within_its_bucket(value: int) -> None:
    low, high = bounds(bucket(value))
    assert low <= value < high


@given(VALUES)
def test_buckets_are_narrow(value: int) -> None:
    low, high = bounds(bucket(value))
    assert high - low <= max(1, low / 16)


def test_buckets_follow_each_other_without_a_gap() -> None:
    edges = [bounds(index) for index in range(500)]
    assert edges[0] == (0, 1)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(edges))


def test_the_buckets_stay_what_they_are() -> None:
    """Stored histograms depend on them."""
    assert [bucket(value) for value in (0, 31, 32, 33, 1_000, 1_000_000, 60_000_000)] == [0, 31, 32, 32, 111, 270, 364]


def of(*values: int) -> histogram.Histogram:
    counts: histogram.Histogram = {}
    for value in values:
        add(counts, {bucket(value): 1})
    return counts


def test_adding_and_taking_away_leaves_nothing() -> None:
    counts = of(5, 90, 90)
    add(counts, of(90, 7))
    subtract(counts, of(90, 7))
    assert counts == of(5, 90, 90)
    subtract(counts, of(5, 90, 90))
    assert counts == {}


def test_it_is_stored_as_a_json_object() -> None:
    assert pack({200: 1, 31: 2}) == '{"31":2,"200":1}'
    assert unpack(pack({200: 1, 31: 2})) == {200: 1, 31: 2}
    assert (pack({}), unpack(None)) == (None, {})


@pytest.mark.parametrize("damaged", ["", "[]", '{"a":1}', '{"1":"x"}', "{"])
def test_a_damaged_one_is_none(damaged: str, caplog: pytest.LogCaptureFixture) -> None:
    assert unpack(damaged) == {}
    assert "damaged" in caplog.text


def test_no_values_have_no_quantiles() -> None:
    assert quantiles({}, (0.5,)) is None


def test_one_value_is_its_own_quantile() -> None:
    assert quantiles(of(17), (0, 0.5, 1)) == [17, 17.5, 18]


def test_quantiles_are_near_the_true_ones() -> None:
    rng = random.Random(1)
    values = [int(rng.lognormvariate(12, 1.5)) for _ in range(20_000)]
    found = quantiles(of(*values), [share / 100 for share in range(1, 100)])
    assert found == pytest.approx(statistics.quantiles(values, n=100), rel=1 / 16)


@given(st.lists(VALUES, min_size=1), st.floats(0, 1))
def test_a_quantile_lies_within_the_values(values: list[int], share: float) -> None:
    found = quantiles(of(*values), (share,))
    assert found is not None
    assert bounds(bucket(min(values)))[0] <= found[0] <= bounds(bucket(max(values)))[1]
