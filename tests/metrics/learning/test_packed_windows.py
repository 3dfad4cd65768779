"""Packed windows that are extended have the bits of windows that are unpacked, merged and packed."""

import random
import time

import pytest

from metrics.counting.speeds import merge_samples
from metrics.learning import packed_windows
from metrics.learning.packed_windows import PackedWindows
from metrics.learning.samples import WINDOW, pack, unpack_any

NOW = time.time()
Samples = list[tuple[int, ...]]


def made(rng: random.Random, first: int, count: int) -> Samples:
    """Return samples of some milliseconds, the latest of them `first` milliseconds ago or later."""
    start_us = round(NOW * 1e6) - 1000 * first
    return [
        (start_us + 1000 * number + rng.randrange(900), rng.getrandbits(48), rng.choice((-1, 5, 300, 70_000, 1 << 40)))
        for number in range(count)
    ]


def expected(stored: bytes, new: Samples) -> bytes:
    return pack(merge_samples(unpack_any(stored) if stored else [], new, WINDOW))


@pytest.mark.parametrize("most", [1, 3, 7, 15, 16, 40, WINDOW - 1, WINDOW, 600])
def test_extended_windows_have_the_same_bits(most: int) -> None:
    rng, windows, stored = random.Random(most), PackedWindows(), b""
    first = 50_000
    for _ in range(30):
        new = made(rng, first, rng.randint(1, most))
        first -= len(new)
        stored, wanted = windows.merged("k", stored, [*new, new[0]], NOW), expected(stored, new)
        assert stored == wanted


def test_samples_in_any_order_have_the_same_bits() -> None:
    rng, windows, stored = random.Random(1), PackedWindows(), b""
    for _ in range(60):
        new = made(rng, rng.randint(1, 3000), rng.randint(1, 30))
        stored, wanted = windows.merged("k", stored, new, NOW), expected(stored, new)
        assert stored == wanted


def test_samples_of_a_clock_that_ran_ahead_have_the_same_bits() -> None:
    rng, windows, stored = random.Random(2), PackedWindows(), b""
    for first in (3000, -40_000_000, 2000, -50_000_000, 1000):  # hours ahead: the tests may run long
        new = made(rng, first, 300)
        stored, wanted = windows.merged("k", stored, new, NOW), expected(stored, new)
        assert stored == wanted
    assert len(unpack_any(stored)) == 2 * WINDOW


def test_another_stored_window_is_read_again() -> None:
    """A transaction was rolled back, or a backup was restored."""
    rng, windows = random.Random(3), PackedWindows()
    before = windows.merged("k", b"", made(rng, 9000, 20), NOW)
    windows.merged("k", before, made(rng, 8000, 20), NOW)
    later = made(rng, 7000, 20)
    assert windows.merged("k", before, later, NOW) == expected(before, later)
    assert windows.merged("k", b"", later, NOW) == pack(later)


def test_damaged_windows_begin_again() -> None:
    new = made(random.Random(4), 10, 2)
    assert PackedWindows().merged("k", b"\xc1", new, NOW) == pack(new)


def test_few_shapes_are_kept() -> None:
    rng, windows = random.Random(5), PackedWindows(most_kept=2)
    for key in "abca":
        windows.merged(key, b"", made(rng, 10, 1), NOW)
    assert list(windows._shapes) == ["c", "a"]


def test_later_samples_do_not_unpack_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, windows = random.Random(6), PackedWindows()
    stored = windows.merged("k", b"", made(rng, 9000, 300), NOW)

    def fails(packed: bytes) -> Samples:
        raise AssertionError("unpacked")

    monkeypatch.setattr(packed_windows, "unpack_any", fails)
    assert len(windows.merged("k", stored, made(rng, 8000, 10), NOW)) > 1000
