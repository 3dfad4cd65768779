"""What starting our programs from a program needs: an environment without leftovers, and a free port."""

import fcntl
import os
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from itertools import count
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Ours without any setting of RouterDash or Django, then `extra`."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ROUTERDASH_") and name not in ("DATABASE_URL", "DJANGO_SETTINGS_MODULE")
    }
    return {**ours, "PYTHONPATH": str(ROOT), **extra}


# No system gives one of these to who asks for any port, as connections and other tests do, and each process begins
# elsewhere. So a port stays free until the program that it is for listens on it, and while that program is restarted.
PORTS = range(20_000, 32_768)
_numbers = count(os.getpid() * 61)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now, and that no other process is given as long as this one lives."""
    return next(filter(_take, (PORTS[number % len(PORTS)] for number in _numbers)))


@cache
def _locks() -> int:
    """A descriptor of the file in which each process locks the byte of each port that it has taken."""
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
    """SIGTERM, and SIGKILL if that does not end it in time."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
