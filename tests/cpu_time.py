"""CPU time as a multiple of a known piece of work, measured in the same run: a slow machine slows down both."""

import gc
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from itertools import pairwise
from math import inf
from typing import Any

from gateway.base.errors import Refusal

Work = Generator[object, None, object]

LEAST_SECONDS = 0.001  # of a measurement; a quicker call is repeated
UNIT_MS = 10.0  # of `_unit` on the 2-core machine of benchmarks/MEASUREMENTS.md
_TEXT = json.dumps([{"name": "a\n", "value": number} for number in range(40_000)])


def longest_slice_ms(work: Work) -> float:
    """Run `work` to its end; return the CPU time of its longest slice in ms of the machine in UNIT_MS."""
    unit = _unit()
    return UNIT_MS * max(_slices(work)) / unit


def call_ms(function: Callable[..., object], *arguments: object) -> float:
    """Call a function; return its CPU time in ms of the machine in UNIT_MS."""
    unit = _unit()
    return UNIT_MS * _timed(partial(function, *arguments)) / unit


def slowness() -> float:
    """Return how many times as much CPU time this machine needs as the one of UNIT_MS; 1 for a faster one."""
    return max(1.0, 1000 * _unit() / UNIT_MS)


def growth(function: Callable[[Any], object], smaller: Any, larger: Any) -> float:
    """Return the CPU time of `function(larger)` as a multiple of that of `function(smaller)`. Each is the shortest of
    three in turn, because other processes on the machine lengthen single calls.
    """
    pairs = [(_timed(partial(function, smaller)), _timed(partial(function, larger))) for _ in range(3)]
    return min(longer for _, longer in pairs) / min(shorter for shorter, _ in pairs)


def doublings(function: Callable[[Any], object], inputs: Sequence[Any], most: float) -> Iterator[float]:
    """Yield by how much more CPU time `function` takes with each input than with the one before it.

    A factor of more than `most` is measured up to five times, and the least one counts: noise does not repeat.
    """
    for smaller, larger in pairwise(inputs):
        factor = inf
        for _ in range(5):
            factor = min(factor, _seconds_of(partial(function, larger)) / _seconds_of(partial(function, smaller)))
            if factor <= most:
                break
        yield factor


def _seconds_of(call: Callable[[], object]) -> float:
    """Return the CPU time of a call in seconds: the least of three measurements of many calls."""
    calls = 1
    while (seconds := _timed(partial(_repeat, call, calls))) < LEAST_SECONDS:
        calls *= 2
    return min(seconds, *(_timed(partial(_repeat, call, calls)) for _ in range(2))) / calls


def _repeat(call: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        call()


def _unit() -> float:
    return min(_timed(partial(json.loads, _TEXT)) for _ in range(3))


def _timed(call: Callable[[], object]) -> float:
    """Return the CPU time of a call in seconds, without that of collecting the garbage of other tests."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        started = time.thread_time()
        call()
        return time.thread_time() - started
    finally:
        if was_enabled:
            gc.enable()


def _slices(work: Work) -> Iterator[float]:
    """Yield the CPU time of each slice in seconds, that of a refusal included."""
    ended = False

    def slice_() -> None:
        nonlocal ended
        try:
            next(work)
        except (StopIteration, Refusal):
            ended = True

    while not ended:
        yield _timed(slice_)
