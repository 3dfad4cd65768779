"""Waiting for signals without polling: the supervisor and the background process sleep until something happens."""

import os
import select
import signal
from collections.abc import Callable, Iterable
from types import TracebackType


class SignalPipe:
    """Pipe that Python writes to at each signal, so that a wait ends.

    While it is open, `stop` is called at SIGTERM and SIGINT; the end of a child only ends the wait. Main thread only.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop())
        signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler, Python would not see it

    def wait(self, seconds: float | None, others: Iterable[int] = ()) -> set[int]:
        """Wait for a signal, or until one of the other descriptors can be read. Return those that can."""
        readable, _, _ = select.select([self._reader, *others], [], [], seconds)
        if self._reader in readable:
            os.read(self._reader, 4096)
        return set(readable) - {self._reader}

    def __enter__(self) -> "SignalPipe":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._reader)
        os.close(self._writer)
