"""Samples for learning: what one answered request tells about its endpoint, and about the lengths of a model's answers.

Like those of metrics.counting.speeds, samples are merged as sets and ordered by completion, so that any order, grouping
and repetition of records gives the same windows. A sample is a tuple of integers: it is stored in a few bytes.
"""

import logging
from typing import NamedTuple

import msgspec

log = logging.getLogger(__name__)

WINDOW = 256
UNKNOWN = -1


class SpeedSample(NamedTuple):
    """A successful last attempt. Times in µs; UNKNOWN where nothing was reported."""

    completed_us: int
    number: int  # the last twelve digits of the id
    duration_us: int
    read: int  # prompt tokens that had to be read before its first token: its own, and those that waited there
    read_meanwhile: int  # prompt tokens of others that were sent there while it ran
    output: int  # tokens
    shared_us: int  # integral of the requests in flight there over its duration, itself included
    first_us: int  # from the start of the attempt to the first token, of a stream that met an idle endpoint
    prefix: int  # tokens that were expected in the prefix cache
    prefix_age: int  # 0 to 3
    cached: int  # tokens that were read from the prefix cache
    expected_us: int  # the duration that routing expected


class LengthSample(NamedTuple):
    """Lengths of an answered request; UNKNOWN where nothing was reported."""

    completed_us: int
    number: int  # as above
    output: int  # tokens
    input: int  # tokens
    body_bytes: int


class LoadSample(NamedTuple):
    """A load of a model that a request has caused."""

    completed_us: int
    number: int  # as above
    load_us: int


pack = msgspec.msgpack.Encoder().encode
_decode_any = msgspec.msgpack.Decoder(list[tuple[int, ...]]).decode
_decode_speeds = msgspec.msgpack.Decoder(list[SpeedSample]).decode
_decode_lengths = msgspec.msgpack.Decoder(list[LengthSample]).decode
_decode_loads = msgspec.msgpack.Decoder(list[LoadSample]).decode


def unpack_any(packed: bytes) -> list[tuple[int, ...]]:
    """Return stored samples of either kind as plain tuples, in half the time; none if they are damaged, as below."""
    try:
        return _decode_any(packed)
    except msgspec.DecodeError as error:
        log.error("samples for learning in the database are damaged; learning starts again: %s", error)
        return []


def unpack_speeds(packed: bytes) -> list[SpeedSample]:
    """Return stored samples, or none if they are damaged: learning starts again, and the batch is still written."""
    try:
        return _decode_speeds(packed)
    except msgspec.DecodeError as error:
        log.error("the samples of an endpoint's speed in the database are damaged; learning starts again: %s", error)
        return []


def unpack_lengths(packed: bytes) -> list[LengthSample]:
    """Return stored samples, or none if they are damaged, as above."""
    try:
        return _decode_lengths(packed)
    except msgspec.DecodeError as error:
        log.error("the samples of a model's lengths in the database are damaged; learning starts again: %s", error)
        return []


def unpack_loads(packed: bytes) -> list[LoadSample]:
    """Return stored samples, or none if they are damaged, as above."""
    try:
        return _decode_loads(packed)
    except msgspec.DecodeError as error:
        log.error("the samples of a model's loads in the database are damaged; learning starts again: %s", error)
        return []
