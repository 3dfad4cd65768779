"""What starting our programs from a program needs: an environment without leftovers, and a free port."""

import os
import socket
import subprocess
from collections.abc import Mapping
from contextlib import closing
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


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def stop(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """SIGTERM, and SIGKILL if that does not end it in time."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
