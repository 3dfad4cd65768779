"""Samples: which records teach something, and what."""

from typing import Any

import pytest

from gateway.base.request_kinds import EMBEDDINGS
from gateway.ipc import record
from metrics.learning.from_records import LARGEST, is_learnable, length_sample, speed_sample
from metrics.learning.samples import UNKNOWN, LengthSample, pack, unpack_lengths, unpack_speeds
from tests.metrics.learning.work import GPU, answered, answers
from tests.metrics.records import request


def test_a_sample_says_what_the_endpoint_did() -> None:
    work = {"pending_tokens": 30, "read_tokens": 70, "shared_us": 5_000_000, "was_idle": False}
    sample = speed_sample(answered(work=work))
    assert sample is not None
    assert (sample.duration_us, sample.read, sample.read_meanwhile, sample.output) == (2_000_000, 430, 70, 100)
    assert (sample.shared_us, sample.first_us, sample.expected_us) == (5_000_000, UNKNOWN, 1_500_000)


def test_reported_cached_tokens_need_not_be_read() -> None:
    sample = speed_sample(answered(cached_tokens=300, work={"prefix_tokens": 350, "prefix_age": 2}))
    assert sample is not None
    assert (sample.read, sample.prefix, sample.prefix_age, sample.cached) == (100, 350, 2, 300)


def test_an_expected_prefix_counts_where_nothing_is_reported() -> None:
    sample = speed_sample(answered(work={"prefix_tokens": 350}))
    assert sample is not None
    assert (sample.read, sample.cached) == (50, UNKNOWN)


def test_expected_prompt_tokens_count_where_none_are_reported() -> None:
    sample = speed_sample(answered(input_tokens=None))
    assert sample is not None
    assert sample.read == 500


def test_the_first_token_counts_from_the_start_of_the_attempt_at_an_idle_endpoint() -> None:
    sample = speed_sample(answered(first_token_us=300_000))
    assert sample is not None
    assert sample.first_us == 300_000
    busy = speed_sample(answered(first_token_us=300_000, work={"was_idle": False}))
    assert busy is not None
    assert busy.first_us == UNKNOWN


@pytest.mark.parametrize("outcome", [record.FAILED, record.CANCELLED, record.TRUNCATED, record.REFUSED])
def test_only_successes_are_learned_from(outcome: str) -> None:
    assert is_learnable(answered())
    assert not is_learnable(answered(outcome=outcome))


def test_other_policies_and_cold_loads_teach_nothing() -> None:
    assert not is_learnable(request(output_tokens=9))
    assert not is_learnable(request(record.QUEUE))
    assert not is_learnable(answered(work={"is_cold": True}))


def test_a_generated_text_of_unknown_length_teaches_no_speed() -> None:
    assert speed_sample(answered(output_tokens=None)) is None
    assert speed_sample(answered(duration_us=0)) is None


def test_embeddings_have_no_output() -> None:
    entry = answered(kind=EMBEDDINGS, output_tokens=None)
    sample = speed_sample(entry)
    assert sample is not None
    assert sample.output == 0
    assert length_sample(entry) == LengthSample(entry.completed_us, int(entry.id[-12:], 16), UNKNOWN, 400, 1600)


IMPOSSIBLE: list[dict[str, Any]] = [
    {"pending_tokens": -9999}, {"read_tokens": -5}, {"shared_us": LARGEST + 1}, {"prefix_age": 4}, {"prefix_age": -1},
    {"expected_us": 1 << 70},
]  # fmt: skip


@pytest.mark.parametrize("work", IMPOSSIBLE)
def test_impossible_values_teach_nothing(work: dict[str, Any]) -> None:
    assert speed_sample(answered(work=work)) is None


def test_lengths_need_no_more_than_one_of_them() -> None:
    assert length_sample(answered(input_tokens=None, body_bytes=0)) is not None
    assert length_sample(answered(output_tokens=None)) is not None
    assert length_sample(answered(output_tokens=None, body_bytes=0)) is None


def test_stored_samples_are_read_back() -> None:
    samples = answers(50, GPU)
    assert unpack_speeds(pack(samples)) == samples
    lengths = [LengthSample(1, 2, 3, 4, 5)]
    assert unpack_lengths(pack(lengths)) == lengths


def test_damaged_samples_are_none() -> None:
    assert unpack_speeds(b"\xc1") == []
    assert unpack_lengths(b"\xc1") == []


def test_a_prompt_that_was_only_expected_teaches_no_length() -> None:
    entry = answered(input_tokens=400, output_tokens=9, body_bytes=1600, estimated=True)
    sample = length_sample(entry)
    assert sample is not None
    assert (sample.output, sample.input) == (9, UNKNOWN)
