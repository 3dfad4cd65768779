"""Very many connections of one address that send the bytes of a test and read responses."""

import contextlib
import errno
import re
import resource
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ADDRESS = "127.0.0.2"
READ_BYTES = 1 << 16


class Sender:
    """One connection: the bytes that it still has to send, and the first bytes that it received."""

    def __init__(self, port: int, data: bytes, address: str) -> None:
        self.left = memoryview(data)
        self.received = b""
        self.closed = False
        self.socket = socket.socket()
        self.socket.bind((address, 0))
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self.socket.connect(("127.0.0.1", port))

    @property
    def done(self) -> bool:
        return self.closed or not self.left

    def send(self) -> None:
        try:
            self.left = self.left[self.socket.send(self.left[: 1 << 18]) :]
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True

    def receive(self) -> None:
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPIPE):
                raise
            data = b""
        self.closed = self.closed or not data
        self.received = (self.received + data)[:READ_BYTES]


class Crowd:
    """A number of senders that run in one thread."""

    def __init__(self, port: int, data: Callable[[int], bytes], number: int, address: str = ADDRESS) -> None:
        self.senders = [Sender(port, data(index), address) for index in range(number)]

    def run(self, seconds: float, *, read: bool = True, until: Callable[[], bool] | None = None) -> None:
        """Send and read until everything is sent or `until` returns true, for at most `seconds`."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            for sender in self.senders:
                events = (selectors.EVENT_WRITE if sender.left else 0) | (selectors.EVENT_READ if read else 0)
                if not sender.closed and events:
                    selector.register(sender.socket, events, sender)
            while time.monotonic() < deadline:
                if until() if until is not None else all(sender.done for sender in self.senders):
                    return
                self._step(selector, read=read)

    def _step(self, selector: selectors.BaseSelector, *, read: bool) -> None:
        for key, events in selector.select(0.1):
            sender: Sender = key.data
            if events & selectors.EVENT_WRITE:
                sender.send()
            if events & selectors.EVENT_READ:
                sender.receive()
            wanted = (selectors.EVENT_WRITE if sender.left else 0) | (selectors.EVENT_READ if read else 0)
            if sender.closed or not wanted:
                selector.unregister(sender.socket)
            elif wanted != key.events:
                selector.modify(sender.socket, wanted, sender)

    def statuses(self) -> Counter[int]:
        """Status codes of all responses that were read, with their numbers."""
        return Counter(
            int(code) for sender in self.senders for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", sender.received)
        )

    def close(self) -> None:
        for sender in self.senders:
            sender.socket.close()


@contextmanager
def crowd(port: int, data: Callable[[int], bytes] | bytes, number: int, address: str = ADDRESS) -> Iterator[Crowd]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4 * number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * number), hard))
    made = Crowd(port, data if callable(data) else lambda _: data, number, address)
    try:
        yield made
    finally:
        made.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
