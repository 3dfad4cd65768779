"""Histograms: each value has one bucket, sums lose nothing, quantiles are close to the exact ones."""

import itertools
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.counting import histogram
from metrics.counting.histogram import add, bounds, bucket, merged, pack, quantiles, subtract, unpack

VALUES = st.integers(0, 2**60)


@given(VALUES)
def test_a_value_lies_within_its_bucket(value: int) -> None:
    low, high = bounds(bucket(value))
    assert low <= value < high


@given(VALUES)
def test_buckets_are_narrow(value: int) -> None:
    low, high = bounds(bucket(value))
    assert high - low <= max(1, low / 16)


def test_buckets_have_no_gaps() -> None:
    edges = [bounds(index) for index in range(500)]
    assert edges[0] == (0, 1)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(edges))


def test_the_buckets_do_not_change() -> None:
    """Stored histograms depend on them."""
    assert [bucket(value) for value in (0, 31, 32, 33, 1_000, 1_000_000, 60_000_000)] == [0, 31, 32, 32, 111, 270, 364]


def of(*values: int) -> histogram.Histogram:
    counts: histogram.Histogram = {}
    for value in values:
        add(counts, {bucket(value): 1})
    return counts


@given(st.lists(VALUES, max_size=20))
def test_each_value_counts_in_its_bucket(values: list[int]) -> None:
    counts = of(3, 90)
    for value in values:
        histogram.count(counts, value)
    assert counts == of(3, 90, *values)


def test_adding_and_subtracting_gives_an_empty_histogram() -> None:
    counts = of(5, 90, 90)
    add(counts, of(90, 7))
    subtract(counts, of(90, 7))
    assert counts == of(5, 90, 90)
    subtract(counts, of(5, 90, 90))
    assert counts == {}


def test_a_histogram_is_stored_as_a_json_object() -> None:
    assert pack({200: 1, 31: 2}) == '{"31":2,"200":1}'
    assert unpack(pack({200: 1, 31: 2})) == {200: 1, 31: 2}
    assert (pack({}), unpack(None)) == (None, {})


@pytest.mark.parametrize(
    ("stored", "new", "result"),
    [
        (None, {}, None),
        ('{"5":1}', {}, None),
        (None, {200: 1, 31: 2}, '{"31":2,"200":1}'),
        ('{"31":2,"200":1}', {200: 4}, '{"31":2,"200":5}'),
        ('{"31":2,"200":1}', {40: 1, 31: 1}, '{"31":3,"40":1,"200":1}'),
        ("nonsense", {40: 1}, '{"40":1}'),
    ],
)
def test_a_new_histogram_is_merged_into_a_stored_one(
    stored: str | None, new: histogram.Histogram, result: str | None
) -> None:
    before = dict(new)
    assert merged(stored, new) == result
    assert new == before


@pytest.mark.parametrize("damaged", ["", "[]", '{"a":1}', '{"1":"x"}', "{"])
def test_a_damaged_histogram_is_empty(damaged: str, caplog: pytest.LogCaptureFixture) -> None:
    assert unpack(damaged) == {}
    assert "damaged" in caplog.text


def test_no_values_have_no_quantiles() -> None:
    assert quantiles({}, (0.5,)) is None


def test_one_value_is_its_own_quantile() -> None:
    assert quantiles(of(17), (0, 0.5, 1)) == [17, 17.5, 18]


def test_quantiles_are_close_to_the_exact_ones() -> None:
    rng = random.Random(1)
    values = [int(rng.lognormvariate(12, 1.5)) for _ in range(20_000)]
    estimates = quantiles(of(*values), [share / 100 for share in range(1, 100)])
    assert estimates == pytest.approx(statistics.quantiles(values, n=100), rel=1 / 16)


@given(st.lists(VALUES, min_size=1), st.floats(0, 1))
def test_a_quantile_lies_within_the_values(values: list[int], share: float) -> None:
    estimates = quantiles(of(*values), (share,))
    assert estimates is not None
    assert bounds(bucket(min(values)))[0] <= estimates[0] <= bounds(bucket(max(values)))[1]
