"""Moving averages of speeds do not depend on the order of samples."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.counting.speeds import WINDOW, Sample, merge_samples, moving_average, pack_samples, unpack_samples
from tests.metrics.records import split


def samples_of(speeds: list[float], start: int = 0) -> list[Sample]:
    return [(start + number, number, speed) for number, speed in enumerate(speeds)]


def plain(speeds: list[float]) -> float:
    """The recursive definition of the average, over all samples."""
    value = speeds[0]
    for speed in speeds[1:]:
        value = 0.2 * speed + 0.8 * value
    return value


SPEEDS = st.floats(1, 1000)


def test_the_average_of_nothing_is_none() -> None:
    assert moving_average([]) is None


def test_the_first_sample_is_the_average() -> None:
    assert moving_average(samples_of([50.0])) == 50


def test_a_new_sample_weighs_a_fifth() -> None:
    assert moving_average(samples_of([50.0, 100.0])) == pytest.approx(60)


@given(st.lists(SPEEDS, min_size=1, max_size=500))
def test_the_average_of_the_window_equals_that_of_all_samples(speeds: list[float]) -> None:
    kept: list[Sample] = []
    for sample in samples_of(speeds):
        kept = merge_samples(kept, [sample])
    assert len(kept) <= WINDOW
    assert moving_average(kept) == pytest.approx(plain(speeds), rel=1e-9)


SAMPLES = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 3), SPEEDS), max_size=300, unique_by=lambda sample: sample[:2]
)


@given(SAMPLES, st.randoms(use_true_random=False))
def test_samples_merge_to_the_same_bits_in_any_order(samples: list[Sample], rng: Any) -> None:
    shuffled = list(samples)
    rng.shuffle(shuffled)
    kept: list[Sample] = []
    for part in split(shuffled, rng):
        kept = merge_samples(kept, part)
    assert kept == sorted(samples)[-WINDOW:] == merge_samples([], samples)
    assert moving_average(kept) == moving_average(merge_samples([], samples))


@given(SAMPLES, SAMPLES)
def test_samples_merged_twice_count_once(one: list[Sample], other: list[Sample]) -> None:
    kept = merge_samples(merge_samples([], one), other)
    assert merge_samples(kept, other) == kept
    assert merge_samples(kept, kept) == kept


def test_a_late_sample_is_sorted_by_time() -> None:
    early, late, middle = (1, 0, 10.0), (3, 0, 30.0), (2, 0, 20.0)
    assert merge_samples([early, late], [middle]) == [early, middle, late]


def test_samples_survive_packing_bit_by_bit() -> None:
    samples = samples_of([0.1, 1 / 3, 12345.678])
    assert unpack_samples(pack_samples(samples)) == samples
