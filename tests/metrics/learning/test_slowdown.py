"""Slow-downs: found where requests take longer than their own past explains, and only there."""

import random

import pytest

from benchmarks.slowdowns import WARM_UP_DAYS, Judge, Traffic, World, detection, false_alarms
from metrics.learning import slowdown
from metrics.learning.past import HOUR_US, MINUTE_US, PER_SLOT, SLOT_US, PastSample, past_sample, thinned
from metrics.learning.samples import UNKNOWN, SpeedSample
from metrics.learning.slowdown import DAY_US, JUDGED_US, LEAST_REFERENCE, Reference, find, reference

CALM = World("calm", 6.0)
TODAY = WARM_UP_DAYS * DAY_US


def samples(first: int, last: int, *, factor: float = 1.0, world: World = CALM) -> list[PastSample]:
    """Return the samples of some days."""
    traffic = Traffic(world, f"{first}")
    return [sample for day in range(first, last) for sample in traffic.day(day, factor)]


@pytest.fixture(scope="module")
def past() -> Reference:
    past_reference = reference(slowdown.reference_samples(samples(0, 14)), "vllm")
    assert past_reference is not None
    return past_reference


def test_nothing_is_found_while_nothing_changes(past: Reference) -> None:
    assert find(past, samples(14, 22)) is None


@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0])
def test_a_slow_down_is_found_with_its_beginning_and_factor(past: Reference, factor: float) -> None:
    slow_down = find(past, [*samples(14, 16), *samples(16, 17, factor=factor)])
    assert slow_down is not None
    assert slow_down.factor == pytest.approx(factor, rel=0.1)
    assert abs(slow_down.since_us - 16 * DAY_US) < 2 * HOUR_US


def test_a_slow_down_ends(past: Reference) -> None:
    slow = [*samples(14, 15), *samples(15, 16, factor=2.0)]
    after = samples(16, 17)
    ends = next(number for number in range(len(after)) if find(past, [*slow, *after[:number]]) is None)
    assert 5 < ends < 60


def test_a_faster_endpoint_is_none(past: Reference) -> None:
    assert find(past, samples(14, 18, factor=0.5)) is None


def test_a_few_slow_requests_are_none(past: Reference) -> None:
    """A model that is loaded, a stall: ten minutes at noon."""
    noon = 14 * DAY_US + DAY_US // 2
    day = [
        sample._replace(duration_us=20 * sample.duration_us)
        if 0 <= sample.completed_us - noon < 10 * MINUTE_US
        else sample
        for sample in samples(14, 15)
    ]
    assert sum(sample.duration_us > 60_000_000 for sample in day) >= 7
    assert list(slowdown.beginnings(past, day)) == []


def test_load_and_lengths_that_the_past_had_not_are_not_compared(past: Reference) -> None:
    usual = samples(14, 15)
    busier = [
        sample._replace(shared_us=200 * sample.duration_us, duration_us=9 * sample.duration_us) for sample in usual
    ]
    longer = [sample._replace(output=100 * sample.output, duration_us=500 * sample.duration_us) for sample in usual]
    assert find(past, busier) is find(past, longer) is None
    assert find(past, [sample._replace(duration_us=9 * sample.duration_us) for sample in usual]) is not None


def test_other_prompts_and_responses_are_none() -> None:
    """Other clients, whose prompts are longer and whose responses are shorter, come on some days."""
    assert false_alarms(World("other clients", 6.0, mix=0.3), 28, 1) == 0


def test_requests_without_output_are_compared_too() -> None:
    """Embeddings: short texts, and some of no known length."""
    rng = random.Random(1)
    usual = [
        PastSample(number * HOUR_US // 8, rng.getrandbits(48), rng.randint(900, 1100) * read + 1, read, 0, 9000)
        for number in range(8 * 24 * 7)
        for read in [rng.choice((0, 1, 50, 200))]
    ]
    past = reference(usual, "")
    assert past is not None
    assert find(past, usual) is None
    slow = find(past, [sample._replace(duration_us=3 * sample.duration_us) for sample in usual])
    assert slow is not None
    assert slow.factor == pytest.approx(3.0, rel=0.2)


def test_few_samples_are_no_reference() -> None:
    few = samples(0, 3)[: LEAST_REFERENCE - 1]
    assert reference(few, "vllm") is None


def test_an_endpoint_whose_hours_differ_needs_more() -> None:
    calm = reference(slowdown.reference_samples(samples(0, 14)), "")
    wild = reference(slowdown.reference_samples(samples(0, 14, world=World("wild", 6.0, hours=0.15))), "")
    assert calm is not None
    assert wild is not None
    assert wild.slack > calm.slack + 0.1


def test_the_reference_moves_once_a_day() -> None:
    noon = 30 * DAY_US + DAY_US // 2
    assert slowdown.reference_end(0, noon) == slowdown.reference_end(0, 30 * DAY_US) == 30 * DAY_US - JUDGED_US
    assert slowdown.reference_start(noon) == 9 * DAY_US
    assert slowdown.reference_end(29 * DAY_US, noon) == 32 * DAY_US  # a new endpoint


def test_a_slow_down_becomes_normal() -> None:
    """After three weeks at the new speed, it is the past."""
    traffic, judge = Traffic(CALM, "normal"), Judge()
    for day in range(30):
        judge.add(traffic.day(day, 2.0 if day >= 8 else 1.0))
    assert judge.begun() == []


def test_false_alarms_are_rare() -> None:
    """Half a year of four endpoints, of which one has noise, one hours that differ, and one a load that grows."""
    worlds = (CALM, World("noisy", 2.0, noise=0.6), World("hours", 2.0, hours=0.1), World("grows", 2.0, growth=0.05))
    assert sum(false_alarms(world, 45, 1) for world in worlds) <= 1


@pytest.mark.parametrize(("factor", "requests"), [(1.5, 90), (2.0, 40), (3.0, 30)])
def test_it_takes_few_requests(factor: float, requests: int) -> None:
    detected = detection(World("one", 3.0), factor, 2)
    assert detected is not None
    assert detected.requests <= requests
    assert abs(detected.began) < 1.0


def test_samples_are_thinned_by_chance_alone() -> None:
    many = [PastSample(moment, moment * 7919 % 1009, 1, 1, 1, 1) for moment in range(0, 2 * SLOT_US, SLOT_US // 50)]
    kept = thinned(many)
    assert len(kept) == 2 * PER_SLOT
    assert kept == sorted(kept)
    assert thinned({*thinned(many[::2]), *thinned(many[1::2])}) == kept
    assert max(sample.number for sample in kept) < 400


def test_a_sample_of_the_past() -> None:
    of = SpeedSample(5, 6, 7000, 10, 3, 20, 9000, UNKNOWN, 0, 0, UNKNOWN, 0)
    assert past_sample(of) == (5, 6, 7000, 13, 20, 9000)
