"""Settings of the operating system for a process of RouterDash: descriptors, memory, and the supervisor's end."""

import contextlib
import ctypes
import os
import resource
import signal
import threading

MAX_DESCRIPTORS = 65536
# Parameters of glibc's mallopt, and the freed memory that glibc may keep instead of returning it with each large body.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
TRIM_BYTES, MMAP_BYTES = 32 << 20, 1 << 20


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files: each stream takes two descriptors, and 1024 is usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def watch_parent(alive: int, stop: signal.Signals = signal.SIGTERM) -> None:
    """Stop this process when its supervisor exits: the other end of the pipe `alive` closes with it."""

    def wait() -> None:
        os.read(alive, 1)
        os.kill(os.getpid(), stop)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def keep_freed_memory() -> None:
    """Have glibc keep the memory of bodies of some hundred KB; any other C library is left as it is.

    Otherwise a third of the time of such a body goes into mapping and clearing the same pages again. A body of many MB
    is mapped alone, so that it grows without being copied: a copy of 31 MiB takes 14 ms of an iteration of the event
    loop, and 60 ms more where the pages are new to the host of a virtual machine.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
