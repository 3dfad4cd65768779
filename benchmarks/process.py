"""Helpers for starting programs: a clean environment and a free port."""

import fcntl
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from itertools import count
from pathlib import Path

CPU_CLOCK = 2  # CPUCLOCK_SCHED of Linux: user and system time of a process and all its threads
ROOT = Path(__file__).resolve().parent.parent


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment without settings of RouterDash and Django, plus `extra`."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ROUTERDASH_") and name not in ("DATABASE_URL", "DJANGO_SETTINGS_MODULE")
    }
    return {**ours, "PYTHONPATH": str(ROOT), **extra}


# These ports are outside of the ephemeral range, which connections and other tests use, and each process begins at
# another one. So a port stays free until its program listens on it, and while that program is restarted.
PORTS = range(20_000, 32_768)
_numbers = count(os.getpid() * 61)


def free_port() -> int:
    """Return a free port of 127.0.0.1 that no other process gets as long as this one lives."""
    return next(filter(_take, (PORTS[number % len(PORTS)] for number in _numbers)))


@cache
def _locks() -> int:
    """Open the file in which each process locks the byte of each port that it has reserved."""
    path = Path(tempfile.gettempdir()) / f"routerdash-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _take(port: int) -> bool:
    try:
        fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def stop(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Send SIGTERM, and SIGKILL if the process does not exit in time."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def build_switch(path: Path) -> None:
    """Compile the library by which a program under callgrind says what is counted. Needs gcc and valgrind's headers."""
    source = Path(__file__).with_name("callgrind_switch.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", path, source], check=True)  # noqa: S603, S607


def cpu_ms(process: int) -> float:
    """CPU time of a process in ms, by the kernel's CPU clock with microseconds instead of the ticks of /proc."""
    return time.clock_gettime((~process << 3) | CPU_CLOCK) * 1000
