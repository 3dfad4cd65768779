"""Windows of samples as they are stored, extended without unpacking them.

A packed window is the MessagePack of a list of tuples of integers, oldest first: a head, and a part for each sample.
New samples are nearly always later than all stored ones. Then the first parts are cut off, and new ones are added
behind. The result has the bits of unpacking, `merge_samples` and packing.
"""

from collections.abc import Hashable, Iterable
from typing import NamedTuple

from metrics.counting.speeds import merge_samples, runs_ahead
from metrics.learning.samples import WINDOW, pack, unpack_any

MOST_KEPT = 4096  # windows whose shape is known, of about 500 bytes each


class _Shape(NamedTuple):
    """What suffices to extend a packed window, if it still is the stored one."""

    digest: int
    lengths: bytes  # of the part of each sample
    last: tuple[int, ...]  # sample


class PackedWindows:
    """Shapes of the windows that were written last. The stored bytes decide whether a shape is still valid."""

    def __init__(self, most_kept: int = MOST_KEPT) -> None:
        self._most_kept = most_kept
        self._shapes: dict[Hashable, _Shape] = {}

    def merged(self, key: Hashable, stored: bytes, new: Iterable[tuple[int, ...]], now: float) -> bytes:
        """Return the packed window of the stored samples and at least one new one.

        `stored`: empty if there are none. `now`: seconds since 1970.
        """
        shape = self._shapes.pop(key, None)
        samples = sorted({*new})
        is_later = shape is not None and samples[0] > shape.last and not runs_ahead(samples, now)
        if shape is not None and is_later and hash(stored) == shape.digest:
            samples = samples[-WINDOW:]
            left = len(shape.lengths) + len(samples) - WINDOW
            lengths = shape.lengths[max(0, left) :]
            kept = stored[len(stored) - sum(lengths) :]
        else:
            before = unpack_any(stored) if stored else []
            samples, lengths, kept = merge_samples(before, samples, WINDOW), b"", b""
        parts = [pack(sample) for sample in samples]
        lengths += bytes(map(len, parts))
        packed = b"".join((_head(len(lengths)), kept, *parts))
        self._shapes[key] = _Shape(hash(packed), lengths, samples[-1])
        if len(self._shapes) > self._most_kept:
            del self._shapes[next(iter(self._shapes))]
        return packed


def _head(count: int) -> bytes:
    """Return the beginning of a list of so many elements, at least one, in MessagePack."""
    return bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
