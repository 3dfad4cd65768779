"""Fits: known parameters are found again, whatever disturbs them, and with the same bits."""

import random

import pytest

from gateway.registry.schema import Lengths
from gateway.routing.adaptive import UNMEASURED
from gateway.routing.expected_time import Parameters
from metrics.learning import fit
from metrics.learning.fit import DEFAULT_PRIOR
from metrics.learning.samples import UNKNOWN, LengthSample, LoadSample, SpeedSample
from tests.metrics.learning.work import CPU, DESKTOP, GPU, answers, seconds

SERVERS = [("vllm", GPU), ("ollama", DESKTOP), ("llamacpp", CPU), ("unheard-of", DESKTOP)]


def close(fitted: Parameters, real: Parameters, tolerance: float) -> bool:
    """Compare the seconds of typical requests."""
    typical = [(read, output, beside) for read in (50, 2000) for output in (20, 400) for beside in (1, 4)]
    return all(
        seconds(fitted, *request) == pytest.approx(seconds(real, *request), rel=tolerance) for request in typical
    )


@pytest.mark.parametrize(("engine", "real"), SERVERS)
def test_a_full_window_gives_the_parameters(engine: str, real: Parameters) -> None:
    fitted = fit.fit(answers(256, real), engine)
    assert fitted.read == pytest.approx(real.read, rel=0.1)
    assert fitted.write == pytest.approx(real.write, rel=0.1)
    assert fitted.share == pytest.approx(real.share, rel=0.1)
    assert fitted.setup == pytest.approx(real.setup, abs=0.02)  # little beside a duration of seconds


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("engine", "real"), SERVERS)
def test_noise_costs_little(engine: str, real: Parameters, seed: int) -> None:
    assert close(fit.fit(answers(256, real, noise=0.1, seed=seed), engine), real, 0.1)


@pytest.mark.parametrize(("engine", "real"), SERVERS)
def test_twelve_answers_are_enough_for_a_rough_picture(engine: str, real: Parameters) -> None:
    assert close(fit.fit(answers(12, real), engine), real, 0.5)


def test_outliers_have_little_effect() -> None:
    samples = answers(256, DESKTOP, noise=0.05)
    slow = [
        sample._replace(duration_us=sample.duration_us * 20, shared_us=sample.shared_us * 20)
        for sample in samples[::16]
    ]
    mixed = sorted([*slow, *(sample for number, sample in enumerate(samples) if number % 16)])
    assert close(fit.fit(mixed, "ollama"), DESKTOP, 0.15)


def test_a_throttled_endpoint_is_found_out() -> None:
    throttled = Parameters(*[2.5 * value for value in DESKTOP])
    samples = [*answers(156, DESKTOP), *answers(100, throttled, first=157, seed=2)]
    assert close(fit.fit(samples, "ollama"), throttled, 0.2)


def test_without_samples_the_prior_remains() -> None:
    fitted = fit.fit([], "ollama", DESKTOP)
    assert fitted.write == pytest.approx(DESKTOP.write)
    assert fitted.setup == pytest.approx(DESKTOP.setup)
    assert fitted.share == pytest.approx(0.2 * DESKTOP.write)
    assert fitted.read == pytest.approx(0.03 * DESKTOP.write)


def test_one_answer_moves_the_parameters_towards_it() -> None:
    assert fit.fit(answers(1, CPU), "llamacpp").write > 2 * DEFAULT_PRIOR.write


def test_no_parameter_is_negative() -> None:
    rng = random.Random(3)
    for seed in range(40):
        samples = [
            sample._replace(duration_us=rng.randint(1, 10**8)) for sample in answers(rng.randint(1, 60), GPU, seed=seed)
        ]
        fitted = fit.fit(samples, "vllm")
        assert min(fitted) >= 0
        assert fitted.write > 0


def test_embeddings_teach_setup_and_read() -> None:
    samples = [
        SpeedSample(number, number, round(1e6 * (0.02 + 0.001 * tokens)), tokens, 0, 0, 0, UNKNOWN, 0, 0, UNKNOWN, 0)
        for number, tokens in enumerate(range(10, 2560, 10))
    ]
    fitted = fit.fit(samples, "vllm")
    assert fitted.read == pytest.approx(0.001, rel=0.05)
    assert fitted.setup == pytest.approx(0.02, abs=0.005)


def test_only_the_last_samples_count() -> None:
    samples = answers(300, GPU)
    assert fit.fit(samples, "vllm") == fit.fit(samples[-256:], "vllm")


def test_the_largest_values_do_not_overflow() -> None:
    huge = 1 << 53
    sample = SpeedSample(1, 1, huge, huge, huge, huge, huge, huge, huge, 0, huge, huge)
    assert all(0 <= value < float("inf") for value in fit.fit([sample] * 3, "vllm"))


# What was kept in the prefix cache


def kept_sample(prefix: int, cached: int, age: int = 0) -> SpeedSample:
    return SpeedSample(1, 1, 1, 1, 0, 1, 1, UNKNOWN, prefix, age, cached, 0)


def test_a_prefix_counts_as_kept_at_first() -> None:
    assert fit.kept([]) == (1.0,) * 4


def test_the_kept_share_is_learned_by_age() -> None:
    shares = fit.kept([kept_sample(100, 50, 2)] * 99)
    assert shares[2] == pytest.approx(0.505)
    assert (shares[0], shares[1], shares[3]) == (1.0, 1.0, 1.0)


def test_servers_that_report_nothing_teach_no_kept_share() -> None:
    assert fit.kept([kept_sample(100, UNKNOWN)] * 9) == (1.0,) * 4


def test_more_than_the_expected_prefix_counts_as_all_of_it() -> None:
    assert fit.kept([kept_sample(100, 700)] * 9) == (1.0,) * 4


# What is published


def test_answers_since_the_slow_start_are_completions() -> None:
    samples = answers(10, GPU)
    assert fit.speeds(samples, GPU).completions == 10
    assert fit.speeds(samples, GPU, samples[6].completed_us).completions == 3


def test_tokens_per_second_give_a_first_guess() -> None:
    speeds = fit.speeds_of_average(50.0, "ollama")
    assert (speeds.setup, speeds.write, speeds.completions) == (UNMEASURED.setup, 0.02, 0)
    assert speeds.share == pytest.approx(0.004)
    assert speeds.read == pytest.approx(0.0006)


# Lengths


def length(output: int = UNKNOWN, tokens: int = UNKNOWN, body_bytes: int = UNKNOWN) -> LengthSample:
    return LengthSample(1, 1, output, tokens, body_bytes)


def test_few_lengths_have_their_plain_mean() -> None:
    assert fit.lengths([length(10, 100, 500), length(30, 300, 1100)]) == Lengths(20.0, 4.0)


def test_a_mean_length_follows_a_change() -> None:
    lengths = fit.lengths([length(10)] * 100 + [length(1000)] * 100)
    assert lengths.output == pytest.approx(1000 - 990 * 0.98**100)


def test_lengths_that_nobody_reported_stay_unknown() -> None:
    assert fit.lengths([length(output=7)]) == Lengths(7.0, None)
    assert fit.lengths([length(tokens=10, body_bytes=50)]) == Lengths(None, 5.0)
    assert fit.lengths([]) == Lengths(None, None)


def test_an_early_first_token_does_not_hide_the_time_of_the_others() -> None:
    """A server that sends its first token at once, and then 60 a second."""
    samples = [
        SpeedSample(number, number, 335_000 + number * 50, 5, 0, 20, 335_000 + number * 50, 1000, 0, 0, -1, 0)
        for number in range(6)
    ]
    fitted = fit.fit(samples, "openai_compatible")
    assert fitted.write + fitted.share == pytest.approx(0.335 / 20, rel=0.1)
    assert fitted.setup + fitted.read * 5 < 0.02


def test_long_responses_do_not_make_a_slow_endpoint_look_fast() -> None:
    """The time to first token is never divided by the number of tokens (litellm#40202)."""
    slow, fast = Parameters(1.0, 0.004, 0.05, 0.0), Parameters(0.1, 0.0004, 0.05, 0.0)

    def streams(of: Parameters, output: int) -> list[SpeedSample]:
        samples = []
        for number in range(40):
            read = 500 + 20 * number
            first_us, duration_us = (round(1e6 * seconds(of, read, tokens, 1)) for tokens in (1, output))
            samples.append(
                SpeedSample(number, number, duration_us, read, 0, output, duration_us, first_us, 0, 0, UNKNOWN, 0)
            )
        return samples

    long, short = fit.fit(streams(slow, 2000), "vllm"), fit.fit(streams(fast, 20), "vllm")
    first = [of.setup + 1000 * of.read for of in (long, short)]  # seconds; really 5.0 and 0.5
    assert first == pytest.approx([5.0, 0.5], rel=0.25)


# Loads of models


def test_a_load_takes_as_long_as_the_quicker_of_the_last_ones() -> None:
    """Others begin late, because running requests must end first."""
    samples = [LoadSample(number, number, 1_000_000 * number) for number in range(1, 30)]
    assert fit.load_seconds([]) == 0.0
    assert fit.load_seconds(samples[:2]) == 1.0
    assert fit.load_seconds(reversed(samples)) == fit.load_seconds(samples) == 23.0
