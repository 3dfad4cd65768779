"""Which records teach something, and what: samples of metrics.learning.samples are made from them."""

from gateway.base.request_kinds import GENERATING
from gateway.ipc import record
from gateway.ipc.record import RequestRecord
from gateway.prices.counts import plausible
from metrics.learning.samples import UNKNOWN, LengthSample, LoadSample, SpeedSample

LARGEST = 1 << 53  # larger values are exact neither as a float nor in JSON


def is_learnable(entry: RequestRecord) -> bool:
    """Return True if the request succeeded, and adaptive routing chose the endpoint of its last attempt.

    An attempt for which the endpoint loaded the model tells nothing about its speed.
    """
    if entry.outcome != record.OK or not entry.attempts:
        return False
    attempt = entry.attempts[-1]
    return attempt.outcome == record.OK and attempt.work is not None and not attempt.work.is_cold


def speed_sample(entry: RequestRecord) -> SpeedSample | None:
    """Return the sample of a learnable request; None if its length is unknown or a value is impossible.

    Counted tokens of streams without a usage are as good as reported ones: they differ by a factor that is the same in
    all requests of a model, and so are the lengths that routing multiplies by these speeds.
    """
    attempt = entry.attempts[-1]
    work = attempt.work
    assert work is not None
    output = plausible(entry.output_tokens) or 0
    if not attempt.duration_us or (not output and entry.kind in GENERATING):
        return None
    cached = plausible(entry.cached_tokens)
    prompt = plausible(entry.input_tokens)
    if prompt is None:
        prompt = work.prompt_tokens
    own = max(0, prompt - (work.prefix_tokens if cached is None else cached))
    first_us = UNKNOWN
    if work.was_idle and entry.first_token_us is not None and entry.first_token_us > attempt.at_us:
        first_us = entry.first_token_us - attempt.at_us
    values = (
        attempt.duration_us, work.pending_tokens + own, work.read_tokens, output, work.shared_us, first_us,
        work.prefix_tokens, work.prefix_age, UNKNOWN if cached is None else cached, work.expected_us,
    )  # fmt: skip
    if max(values) > LARGEST or min(values) < UNKNOWN or not 0 <= work.prefix_age <= 3:
        return None
    return SpeedSample(entry.completed_us, int(entry.id[-12:], 16), *values)


def length_sample(entry: RequestRecord) -> LengthSample | None:
    """Return the sample of a learnable request; None if it tells no length."""
    output = (plausible(entry.output_tokens) if entry.kind in GENERATING else None) or UNKNOWN
    tokens = UNKNOWN if entry.estimated else plausible(entry.input_tokens) or UNKNOWN  # what is expected is no news
    body_bytes = entry.body_bytes if 0 < entry.body_bytes <= LARGEST else UNKNOWN
    if output == UNKNOWN and UNKNOWN in (tokens, body_bytes):
        return None
    return LengthSample(entry.completed_us, int(entry.id[-12:], 16), output, tokens, body_bytes)


def has_loaded(entry: RequestRecord) -> bool:
    """Return True if the request succeeded after it caused a load of the model, whose time is known."""
    if entry.outcome != record.OK or not entry.attempts:
        return False
    work = entry.attempts[-1].work
    return work is not None and 0 < work.load_us <= LARGEST


def load_sample(entry: RequestRecord) -> LoadSample:
    """Return the sample of a request that has loaded its model."""
    work = entry.attempts[-1].work
    assert work is not None
    return LoadSample(entry.completed_us, int(entry.id[-12:], 16), work.load_us)
