"""The load at which a token takes twice as long as alone, and when it counts as seen."""

import pytest

from gateway.registry.schema import Speeds
from metrics.learning.doubling import LEAST_OUTPUT, LEAST_SAMPLES, TELLING_SAMPLES, doubling_load, telling_load
from metrics.learning.samples import SpeedSample
from tests.metrics.learning.work import DESKTOP, answers


def speeds(write: float, share: float) -> Speeds:
    return Speeds(0.0, 0.0, write, share)


@pytest.mark.parametrize(("write", "share", "load"), [(0.01, 0.01, 3), (0.01, 0.0005, 22), (0.001, 0.02, 2)])
def test_a_token_takes_twice_as_long(write: float, share: float, load: int) -> None:
    assert doubling_load(speeds(write, share)) == load
    alone = write + share
    assert write + share * load <= 2 * alone + 1e-9
    assert write + share * (load + 1) > 2 * alone


@pytest.mark.parametrize(("write", "share"), [(0.0, 0.0), (0.0, 0.1), (0.01, 0.0), (0.01, 1e-9)])
def test_a_server_that_others_do_not_slow_down_has_none(write: float, share: float) -> None:
    assert doubling_load(speeds(write, share)) is None


def beside(count: int, load: float, output: int = 100) -> list[SpeedSample]:
    """Samples with this mean of requests in flight."""
    made = answers(count, DESKTOP)
    return [sample._replace(output=output, shared_us=round(sample.duration_us * load)) for sample in made]


def test_enough_samples_at_a_load_make_it_a_seen_one() -> None:
    few = beside(TELLING_SAMPLES - 1, 9.0)
    assert telling_load([*beside(LEAST_SAMPLES, 2.0), *few]) == pytest.approx(2.0, rel=1e-3)
    assert telling_load([*beside(LEAST_SAMPLES, 2.0), *few, few[0]]) == pytest.approx(9.0, rel=1e-3)


def test_few_samples_and_short_responses_say_nothing() -> None:
    assert telling_load(beside(LEAST_SAMPLES - 1, 9.0)) == 0
    assert telling_load(beside(LEAST_SAMPLES, 9.0, output=LEAST_OUTPUT - 1)) == 0
    assert telling_load([]) == 0
