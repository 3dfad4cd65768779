"""Distributions of durations: counts in fixed buckets, so that any two can be added, in any order, without loss.

The buckets are HdrHistogram's: whole numbers up to 31 each have their own, and from there on every power of two is cut
into 16. A bucket is never wider than 1/16 of what it holds, and which one a value belongs to is exact.

Stored as a JSON object, `{"<bucket>": <count>}`: readable by people, by SQL, and in any language.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

import msgspec

log = logging.getLogger(__name__)

Histogram = dict[int, int]  # bucket -> count

_BITS = 4  # of a value that decide its bucket, after the first one

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Histogram).decode


def bucket(value: int) -> int:
    """The bucket of a whole number from 0 on."""
    shift = value.bit_length() - _BITS - 1
    return (shift << _BITS) + (value >> shift) if shift > 0 else value


def bounds(index: int) -> tuple[int, int]:
    """The values that a bucket holds, from the first to below the second."""
    shift = max(0, (index >> _BITS) - 1)
    first = index - (shift << _BITS)
    return first << shift, (first + 1) << shift


def pack(counts: Histogram) -> str | None:
    return _encode(dict(sorted(counts.items()))).decode() if counts else None


def unpack(packed: str | None) -> Histogram:
    """What was stored; nothing for null, nor for what is damaged: it must not hold up what follows."""
    try:
        return {} if packed is None else _decode(packed)
    except msgspec.DecodeError as error:
        log.error("a histogram in the database is damaged and begins anew: %s", error)
        return {}


def add(total: Histogram, counts: Mapping[int, int]) -> None:
    for index, count in counts.items():
        total[index] = total.get(index, 0) + count


def count(counts: Histogram, values: Iterable[int]) -> None:
    """More whole numbers, each in its `bucket`: without a call, as this is done for every request."""
    for value in values:
        shift = value.bit_length() - _BITS - 1
        index = (shift << _BITS) + (value >> shift) if shift > 0 else value
        counts[index] = counts.get(index, 0) + 1


def subtract(total: Histogram, counts: Mapping[int, int]) -> None:
    """Take away what was added before."""
    for index, count in counts.items():
        total[index] -= count
        if not total[index]:
            del total[index]


def quantiles(counts: Mapping[int, int], shares: Sequence[float]) -> list[float] | None:
    """The values that these shares of all values stay below, smallest share first; None where there are none.

    Linear within a bucket, hence off by less than 1/16 of itself.
    """
    total = sum(counts.values())
    if not total:
        return None
    found: list[float] = []
    passed = 0
    for index in sorted(counts):
        count = counts[index]
        while len(found) < len(shares) and shares[len(found)] * total <= passed + count:
            low, high = bounds(index)
            found.append(low + (high - low) * (shares[len(found)] * total - passed) / count)
        passed += count
    return found
