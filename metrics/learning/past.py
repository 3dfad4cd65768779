"""Samples of an endpoint's past, to which its present is compared (metrics.learning.slowdown).

Of each ten minutes, they are the PER_SLOT samples with the smallest random numbers of their ids: a fair choice, which
is the same for any order of journals, any batches and any repetition.
"""

import logging
from collections.abc import Iterable
from operator import itemgetter
from typing import NamedTuple

import msgspec

from metrics.learning.samples import UNKNOWN, SpeedSample

log = logging.getLogger(__name__)

MINUTE_US = 60_000_000
SLOT_US, HOUR_US = 10 * MINUTE_US, 60 * MINUTE_US
PER_SLOT = 8


class PastSample(NamedTuple):
    """A successful last attempt, as metrics.learning.samples.SpeedSample has it. Times in µs."""

    completed_us: int
    number: int
    duration_us: int
    read: int  # prompt tokens that had to be read before its first token, or were sent there while it ran
    output: int
    shared_us: int


def past_sample(of: SpeedSample) -> PastSample:
    read = of.read + of.read_meanwhile
    return PastSample(of.completed_us, of.number, of.duration_us, read, of.output, of.shared_us)


def speed_sample(of: PastSample) -> SpeedSample:
    """Return a sample for a fit, without the time to the first token, and without prefixes."""
    return SpeedSample(
        of.completed_us, of.number, of.duration_us, of.read, 0, of.output, of.shared_us, UNKNOWN, 0, 0, UNKNOWN, 0
    )


def slot_of(completed_us: int) -> int:
    return completed_us // SLOT_US


def hour_of(completed_us: int) -> int:
    """Return the number of the hour since 1970."""
    return completed_us // HOUR_US


def thinned(samples: Iterable[PastSample]) -> list[PastSample]:
    """Return the samples that are kept of these, in the order of their completion."""
    return with_new([], samples)


def kept_of(kept: list[PastSample], new: Iterable[SpeedSample]) -> list[PastSample]:
    """Return those of new samples that may be kept beside others: not many, once ten minutes have their samples."""
    numbers: dict[int, list[int]] = {}
    for sample in kept:
        numbers.setdefault(slot_of(sample.completed_us), []).append(sample.number)
    highest = {slot: max(of_slot) for slot, of_slot in numbers.items() if len(of_slot) >= PER_SLOT}
    return [
        past_sample(new_sample)
        for new_sample in new
        if new_sample.number <= highest.get(slot_of(new_sample.completed_us), new_sample.number)
    ]


def with_new(kept: list[PastSample], new: Iterable[PastSample]) -> list[PastSample]:
    """Return what `thinned` would keep of samples that it has kept and of new ones. Only slots of new ones are made."""
    by_slot: dict[int, set[PastSample]] = {}
    for sample in new:
        by_slot.setdefault(slot_of(sample.completed_us), set()).add(sample)
    samples: list[PastSample] = []
    for sample in kept:
        if (of_slot := by_slot.get(slot_of(sample.completed_us))) is None:
            samples.append(sample)
        else:
            of_slot.add(sample)
    for of_slot in by_slot.values():
        samples += sorted(of_slot, key=_chance)[:PER_SLOT]
    return sorted(samples)


_chance = itemgetter(1, 0)  # number, then completion

pack = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[PastSample]).decode


def unpack(packed: bytes) -> list[PastSample]:
    """Return stored samples, or none if they are damaged: their hour is forgotten, and the batch is still written."""
    try:
        return _decode(packed)
    except msgspec.DecodeError as error:
        log.error("samples of an endpoint's past in the database are damaged; their hour is forgotten: %s", error)
        return []
