"""Moving averages of tokens per second (exponential, ALPHA = 0.2), independent of the order in which journals are read.

A moving average depends on order by nature. Its state is therefore the last WINDOW samples, ordered by completion and
merged as a set. Any order, any grouping and any repetition give the same bits. A sample beyond the window would weigh
0.8 ** 128 = 4e-13 of its value.
"""

import logging
import time
from bisect import bisect_right
from operator import attrgetter, itemgetter
from typing import Any, TypeVar

import msgspec

from gateway.ipc.record import RequestRecord

log = logging.getLogger(__name__)

ALPHA = 0.2
CLOCK_SLACK_US = 60_000_000
WINDOW = 128

Sample = tuple[int, int, float]  # completed_us, tie-break from the id, tokens per second
SpeedKey = tuple[str, str, str]  # endpoint, model, kind
AnySample = TypeVar("AnySample", bound=tuple[Any, ...])  # begins with completed_us and a tie-break

_completed_us = attrgetter("completed_us")


def sample(entry: RequestRecord) -> Sample:
    """Return the sample of a successful request with output tokens and a duration."""
    attempt = entry.attempts[-1]
    assert entry.output_tokens is not None
    return entry.completed_us, int(entry.id[-12:], 16), entry.output_tokens / (attempt.duration_us / 1e6)


def latest(entries: list[RequestRecord], now: float) -> list[RequestRecord]:
    """Return the entries that can enter a window of samples, and a few more. Avoids computing all samples of many."""
    if len(entries) <= WINDOW:
        return entries
    entries = sorted(entries, key=_completed_us)
    past = bisect_right(entries, _horizon(now), key=_completed_us)
    first = max(0, past - WINDOW)
    while first and entries[first - 1].completed_us == entries[first].completed_us:
        first -= 1  # the tie-break of samples decides which of the simultaneous entries is the last one
    return entries[first:]


def merge_samples(stored: list[AnySample], new: list[AnySample], size: int = WINDOW) -> list[AnySample]:
    """Return the last `size` samples of both. `stored` is sorted, and so is the result.

    Samples from a clock that ran ahead are stored in addition, until their time has come. They displace no current
    sample, and the result never depends on the time of the merge.
    """
    new = sorted({*new})
    after = stored and new and new[0] > stored[-1]  # nearly always
    return window([*stored, *new] if after else sorted({*stored, *new}), time.time(), size)


def window(samples: list[AnySample], now: float, size: int = WINDOW) -> list[AnySample]:
    """Return the last `size` of sorted samples, and also the last `size` of those that are in the future."""
    if not runs_ahead(samples, now):
        return samples[-size:]
    past = _past(samples, now)
    return [*past[-size:], *samples[len(past) :][-size:]]


def current(samples: list[AnySample], now: float, size: int = WINDOW) -> list[AnySample]:
    """Return the last `size` of sorted samples up to now. Those in the future count only if there are no others."""
    return (_past(samples, now) or samples)[-size:]


def runs_ahead(samples: list[AnySample], now: float) -> bool:
    """Return True if the last sample is in the future: its clock ran ahead."""
    return bool(samples) and samples[-1][0] > _horizon(now)


def _past(samples: list[AnySample], now: float) -> list[AnySample]:
    return samples[: bisect_right(samples, _horizon(now), key=itemgetter(0))]


def _horizon(now: float) -> int:
    return round(now * 1e6) + CLOCK_SLACK_US


def current_speed(samples: list[Sample], now: float) -> float | None:
    """Return the moving average of all samples up to now. Samples in the future count only if there are no others."""
    return moving_average(current(samples, now))


def moving_average(samples: list[Sample]) -> float | None:
    """Return the exponential moving average in tokens per second (α = 0.2). It starts with the first sample."""
    if not samples:
        return None
    value, old = samples[0][2], 1 - ALPHA
    for _, _, speed in samples[1:]:
        value = ALPHA * speed + old * value
    return value


pack_samples = msgspec.msgpack.Encoder().encode
_decode_samples = msgspec.msgpack.Decoder(list[Sample]).decode


def unpack_samples(packed: bytes) -> list[Sample]:
    """Return stored samples, or none if they are damaged: the average starts again, and the batch is still written."""
    try:
        return _decode_samples(packed)
    except msgspec.DecodeError as error:
        log.error("the samples of a moving average in the database are damaged; the average starts again: %s", error)
        return []
