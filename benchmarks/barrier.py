"""Count how often two processes miss each other's stores: `python -m benchmarks.barrier`.

Each stores into a word of its own, and then loads the other's. If stores and loads took effect in their order, at least
one of the two would see the other's store in each round. A limit that is taken first and checked then relies on that
(gateway.ipc.live_page.memory_barrier). Without a barrier, a processor may delay the store until after the load.

Rounds without a barrier show that this machine can notice the difference; with the barrier, the result must be 0.
"""

import argparse
import mmap
import os
import sys
from collections.abc import Callable

from gateway.ipc.live_page import memory_barrier

LINE = 16  # words between those of the two processes: more than a cache line


def run(me: int, words: memoryview, rounds: int, barrier: Callable[[], None] | None, missed: memoryview) -> None:
    """Note in `missed`, by round, where this process did not see the other one's store."""
    own, other = LINE * me, LINE * (1 - me)
    own_ready, other_ready = own + 2 * LINE, other + 2 * LINE
    for number in range(1, rounds + 1):
        words[own_ready] = number
        while words[other_ready] < number:
            pass
        words[own] = number
        if barrier is not None:
            barrier()
        missed[number] = words[other] < number


def count(rounds: int, barrier: Callable[[], None] | None) -> int:
    """Return the number of rounds in which neither process saw the other's store."""
    words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
    missed = [memoryview(mmap.mmap(-1, rounds + 1)) for _ in range(2)]
    child = os.fork()
    if child == 0:
        run(1, words, rounds, barrier, missed[1])
        os._exit(0)
    run(0, words, rounds, barrier, missed[0])
    os.waitpid(child, 0)
    return sum(first and second for first, second in zip(*missed, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200_000)
    options = parser.parse_args()
    without, with_barrier = count(options.rounds, None), count(options.rounds, memory_barrier)
    print(f"{options.rounds:,} rounds; missed without a barrier: {without}, with it: {with_barrier}")
    sys.exit(with_barrier > 0)


if __name__ == "__main__":
    main()
