"""Histograms of durations: counts in fixed buckets, so that any two can be added without loss, in any order.

The bucket bounds are those of HdrHistogram. Each whole number up to 31 has its own bucket; above, every power of two is
divided into 16 buckets. A bucket is never wider than 1/16 of its values, and the bucket of a value is exact.

A histogram is stored as a JSON object, `{"<bucket>": <count>}`, which SQL and any language can read.
"""

import logging
from collections.abc import Mapping, Sequence

import msgspec

log = logging.getLogger(__name__)

Histogram = dict[int, int]  # bucket -> count

_BITS = 4  # the bits after the leading one decide the bucket of a value

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Histogram).decode


def bucket(value: int) -> int:
    """Return the bucket of a whole number that is not negative."""
    shift = value.bit_length() - _BITS - 1
    return (shift << _BITS) + (value >> shift) if shift > 0 else value


def bounds(index: int) -> tuple[int, int]:
    """Return the bounds of a bucket: its first value, and the first value of the next bucket."""
    shift = max(0, (index >> _BITS) - 1)
    first = index - (shift << _BITS)
    return first << shift, (first + 1) << shift


def pack(counts: Histogram) -> str | None:
    return _encode({index: counts[index] for index in sorted(counts)}).decode() if counts else None


def unpack(packed: str | None) -> Histogram:
    """Return a stored histogram. Null is empty, and so is damaged text: it must not stop the rest of a batch."""
    try:
        return {} if packed is None else _decode(packed)
    except msgspec.DecodeError as error:
        log.error("a histogram in the database is damaged and starts again empty: %s", error)
        return {}


def add(total: Histogram, counts: Mapping[int, int]) -> None:
    for index, count in counts.items():
        total[index] = total.get(index, 0) + count


def merged(stored: str | None, new: Mapping[int, int]) -> str | None:
    """Return the sum of a stored histogram and a new one, as `pack` returns it; None if the new one is empty."""
    if not new:
        return None
    if stored is None:
        return pack(dict(new))
    counts = unpack(stored)
    known = len(counts)
    for index, number in new.items():
        counts[index] = counts.get(index, 0) + number
    # Sorting takes longer than all the rest. Without a new bucket, the order is that of the stored text.
    return pack(counts) if len(counts) > known else _encode(counts).decode()


def count(counts: Histogram, value: int) -> None:
    """Count a whole number in its bucket."""
    index = bucket(value)
    counts[index] = counts.get(index, 0) + 1


def subtract(total: Histogram, counts: Mapping[int, int]) -> None:
    """Remove counts that were added before."""
    for index, count in counts.items():
        total[index] -= count
        if not total[index]:
            del total[index]


def quantiles(counts: Mapping[int, int], shares: Sequence[float]) -> list[float] | None:
    """Return the quantiles for these shares (0 to 1, in ascending order), or None for an empty histogram.

    Values are interpolated linearly within a bucket, so the error is less than 1/16 of the value.
    """
    total = sum(counts.values())
    if not total:
        return None
    values: list[float] = []
    passed = 0
    for index in sorted(counts):
        count = counts[index]
        while len(values) < len(shares) and shares[len(values)] * total <= passed + count:
            low, high = bounds(index)
            values.append(low + (high - low) * (shares[len(values)] * total - passed) / count)
        passed += count
    return values
