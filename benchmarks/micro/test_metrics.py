"""The processing of records in control: fold, histograms."""

import random
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from benchmarks.micro.test_gateway import usual_record
from gateway.ipc.record import RequestRecord
from metrics.counting import histogram
from metrics.counting.fold import Fold

Benchmark = Callable[..., Any]  # pytest-benchmark's fixture
UTC = ZoneInfo("UTC")


@pytest.fixture
def records() -> list[RequestRecord]:
    return [usual_record() for _ in range(1000)]


@pytest.fixture
def durations() -> histogram.Histogram:
    chance = random.Random(1)
    counts: histogram.Histogram = {}
    for _ in range(10_000):
        histogram.add(counts, {histogram.bucket(int(chance.lognormvariate(13, 1))): 1})
    return counts


def test_fold_1000_records(benchmark: Benchmark, records: list[RequestRecord]) -> None:
    assert benchmark(lambda: Fold(UTC).add_all(records)).totals


def test_bucket(benchmark: Benchmark) -> None:
    assert benchmark(histogram.bucket, 12_345) > 0


def test_quantiles(benchmark: Benchmark, durations: histogram.Histogram) -> None:
    assert len(benchmark(histogram.quantiles, durations, (0.5, 0.95, 0.99))) == 3


def test_store_and_restore_a_histogram(benchmark: Benchmark, durations: histogram.Histogram) -> None:
    assert benchmark(lambda: histogram.unpack(histogram.pack(durations))) == durations
