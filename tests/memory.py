"""Memory that Python allocates during a call."""

import tracemalloc
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def with_peak(call: Callable[[], T]) -> tuple[T, int]:
    """Call a function; return its result, and the most bytes that were allocated at once during the call."""
    tracemalloc.start()
    try:
        result = call()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
