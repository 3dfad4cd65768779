"""Wake-up calls from control to gateways: a byte in a named pipe, so that a change takes effect at once.

Without one, a gateway looks for changes at its next tick. A pipe that is full, or that nobody reads, is no error.
"""

import contextlib
import os
import stat
from pathlib import Path

from gateway.ipc.live_page import LivePage


class WakePipe:
    """The reading end, in the process that is woken."""

    def __init__(self, path: Path) -> None:
        """Open the pipe; create it if it is missing. Raises OSError."""
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        if not stat.S_ISFIFO(path.stat().st_mode):
            raise FileExistsError(f"{path} is no named pipe")
        # Opened for writing too: a pipe without a writer would be readable all the time.
        self.descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def drain(self) -> None:
        """Read all wake-up calls that have arrived."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 4096)

    def close(self) -> None:
        os.close(self.descriptor)


def wake_all(page: LivePage) -> None:
    """Wake every gateway."""
    for row in range(page.rows):
        with contextlib.suppress(OSError):  # no process has opened it, or it is full: that one is awake already
            descriptor = os.open(page.wake_path(row), os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(descriptor, b"\0")
            finally:
                os.close(descriptor)
