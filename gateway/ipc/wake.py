"""Wake-up calls to gateways: a byte in a named pipe, so that they need not wait for their next tick.

Control calls after a change. A gateway calls another one whose request has waited for a limit that has room now.
Without a call, a gateway looks for both at its next tick. A pipe that is full, or that nobody reads, is no error.
"""

import contextlib
import os
import stat
from pathlib import Path

from gateway.ipc.live_page import LivePage

BY_CONTROL, BY_GATEWAY = 0, 1  # bytes


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

    def drain(self) -> bytes:
        """Read all wake-up calls that have arrived; return who has called."""
        try:
            return os.read(self.descriptor, 4096)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self.descriptor)


class Waker:
    """The writing ends of the pipes of gateways. They stay open: a gateway may call another one often."""

    def __init__(self, page: LivePage, caller: int = BY_GATEWAY) -> None:
        self._page = page
        self._call = bytes([caller])
        self._descriptors: dict[int, int] = {}

    def wake(self, row: int) -> None:
        """Wake the gateway of a row."""
        try:
            if row not in self._descriptors:
                self._descriptors[row] = os.open(self._page.wake_path(row), os.O_WRONLY | os.O_NONBLOCK)
            os.write(self._descriptors[row], self._call)
        except BlockingIOError:
            pass  # it is full: that one is awake already
        except OSError:  # no process has opened it
            self._close(row)

    def close(self) -> None:
        for row in list(self._descriptors):
            self._close(row)

    def _close(self, row: int) -> None:
        if (descriptor := self._descriptors.pop(row, None)) is not None:
            os.close(descriptor)


def wake_all(page: LivePage) -> None:
    """Wake every gateway."""
    waker = Waker(page, BY_CONTROL)
    for row in range(page.rows):
        waker.wake(row)
    waker.close()
