"""A gateway whose event-loop turns are measured by the CPU clock, and a well-behaved client beside hostile ones."""

import http.client
import mmap
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.gateway.process import GatewayProcess

SOURCE = Path(__file__).with_name("turns.c")
MOST_TURN_MS = 50.0
_TURNS, _LONGEST, _ALL = range(3)


def compile_turns(directory: Path) -> Path:
    """The library to preload. Needs a C compiler."""
    library = directory / "turns.so"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True)
    return library


def preloaded(library: Path, directory: Path) -> dict[str, str]:
    """The environment of a process whose turns, and those of its children, are to be measured."""
    return {"LD_PRELOAD": str(library), "HOSTILE_TURNS": str(directory)}


class Turns:
    """The turns of one process since the last `clear`."""

    def __init__(self, directory: Path, pid: int) -> None:
        with (directory / str(pid)).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8 * 3)
        self._words = memoryview(self._map).cast("Q")

    @property
    def count(self) -> int:
        return self._words[_TURNS]

    @property
    def longest_ms(self) -> float:
        """CPU time of the longest turn."""
        return self._words[_LONGEST] / 1e6

    @property
    def all_ms(self) -> float:
        """CPU time of all turns together."""
        return self._words[_ALL] / 1e6

    def clear(self) -> None:
        for word in range(3):
            self._words[word] = 0


class MeasuredGateway(GatewayProcess):
    """A gateway process, with what its event loop and its memory cost."""

    def __init__(self, directory: Path, library: Path, **environment: str) -> None:
        super().__init__(directory, **environment)
        self.environment |= preloaded(library, directory)
        self._directory = directory
        self._turns: Turns | None = None

    @property
    def turns(self) -> Turns:
        """Of the running process, once it serves."""
        if self._turns is None:
            assert self.process is not None
            self._turns = Turns(self._directory, self.process.pid)
        return self._turns

    def memory_mb(self, name: str = "VmRSS") -> float:
        """Resident memory now, or with VmHWM at its highest, in MiB."""
        assert self.process is not None
        return memory_mb(self.process.pid, name)


def memory_mb(pid: int, name: str = "VmRSS") -> float:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


class Bystander:
    """A well-behaved client of another address that asks again and again on a kept connection."""

    PAUSE_SECONDS = 0.02

    def __init__(
        self, port: int, key: str, *, path: str = "/v1/models", body: bytes | None = None, address: str = "127.0.0.3"
    ) -> None:
        self._target = ("POST" if body else "GET", path, body)
        self._port = port
        self._address = address
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._stop = threading.Event()
        self.statuses: list[int] = []  # 0 for a connection that broke
        self.seconds: list[float] = []

    def ask(self, connection: http.client.HTTPConnection) -> None:
        method, path, body = self._target
        started = time.monotonic()
        try:
            connection.request(method, path, body, self._headers)
            response = connection.getresponse()
            response.read()
            self.statuses.append(response.status)
        except (OSError, http.client.HTTPException):
            connection.close()
            self.statuses.append(0)
        self.seconds.append(time.monotonic() - started)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, 30, source_address=(self._address, 0))
        while not self._stop.is_set():
            self.ask(connection)
            self._stop.wait(self.PAUSE_SECONDS)
        connection.close()

    def p99_ms(self) -> float:
        """Of the answers since the last `clear`."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1000

    def clear(self) -> None:
        self.statuses.clear()
        self.seconds.clear()

    @contextmanager
    def asking(self) -> Iterator["Bystander"]:
        """Asks in a thread of its own, for as long as the block runs, and at least once."""
        self._stop.clear()
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def ask_until(self, count: int, seconds: float = 30.0) -> None:
        """Wait until there are so many answers."""
        deadline = time.monotonic() + seconds
        while len(self.statuses) < count and time.monotonic() < deadline:
            time.sleep(self.PAUSE_SECONDS)

    def assert_served(self, status: int = 200) -> None:
        assert self.statuses
        assert set(self.statuses) == {status}


def bystander(gateway: GatewayProcess, **options: Any) -> Bystander:
    return Bystander(gateway.port, gateway.key, **options)
