"""A gateway whose loop iterations are measured by the CPU clock, and a well-behaved client beside hostile ones."""

import http.client
import mmap
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.cpu_time import slowness
from tests.gateway.process import GatewayProcess

SOURCE = Path(__file__).with_name("loop_iterations.c")
MAX_ITERATION_MS = 50.0
MAX_MEMORY_MB = 512
MAX_RUNS = 3
T = TypeVar("T")
_COUNT, _LONGEST, _ALL = range(3)


def compile_library(directory: Path) -> Path:
    """Compile the library to preload, and return its path. Needs a C compiler."""
    library = directory / "loop_iterations.so"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True)
    return library


def preloaded(library: Path, directory: Path) -> dict[str, str]:
    """Environment for measuring the loop iterations of a process and of its children."""
    return {"LD_PRELOAD": str(library), "HOSTILE_LOOP_ITERATIONS": str(directory)}


class LoopIterations:
    """The loop iterations of one process since the last `clear`."""

    def __init__(self, directory: Path, pid: int) -> None:
        with (directory / str(pid)).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8 * 3)
        self._words = memoryview(self._map).cast("Q")

    @property
    def count(self) -> int:
        return self._words[_COUNT]

    @property
    def longest_ms(self) -> float:
        """CPU time of the longest loop iteration."""
        return self._words[_LONGEST] / 1e6

    @property
    def all_ms(self) -> float:
        """CPU time of all loop iterations together."""
        return self._words[_ALL] / 1e6

    def clear(self) -> None:
        for word in range(3):
            self._words[word] = 0


class MeasuredGateway(GatewayProcess):
    """A gateway process whose loop iterations and memory are measured."""

    def __init__(self, directory: Path, library: Path, **environment: str) -> None:
        super().__init__(directory, **environment)
        self.environment |= preloaded(library, directory)
        self._directory = directory
        self._turns: LoopIterations | None = None

    @property
    def iterations(self) -> LoopIterations:
        """Measurements of the running process. The process must have served a request."""
        if self._turns is None:
            assert self.process is not None
            self._turns = LoopIterations(self._directory, self.process.pid)
        return self._turns

    def memory_mb(self, name: str = "VmRSS") -> float:
        """Resident memory in MiB: the current value, or with VmHWM the highest one."""
        assert self.process is not None
        return memory_mb(self.process.pid, name)


def max_iteration_ms() -> float:
    """Return the bound of the CPU time of a loop iteration: 50 ms, or more on a machine slower than the usual one."""
    return MAX_ITERATION_MS * slowness()


def assert_short_iterations(gateway: MeasuredGateway, case: Callable[[], T], name: str = "") -> T:
    """Run a deterministic case, and fail if each of three runs had a loop iteration of `max_iteration_ms` or more.

    On a virtual machine, the CPU clock of a thread also counts time that the hypervisor gave to others. One run can
    therefore exceed the bound although the code does not. A long iteration that the code causes occurs in each run of
    the same input, and noise does not. Cases that depend on the timing of many clients must not use this function.
    Returns the result of the last run.
    """
    longest: list[float] = []
    bound = max_iteration_ms()
    while True:
        gateway.iterations.clear()
        result = case()
        longest.append(gateway.iterations.longest_ms)
        if longest[-1] < bound:
            return result
        if len(longest) == MAX_RUNS:
            figures = ", ".join(f"{value:.1f}" for value in longest)
            raise AssertionError(f"{name or 'case'}: longest loop iterations {figures} ms, bound {bound:g} ms")


def memory_mb(pid: int, name: str = "VmRSS") -> float:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def seconds_without_processor(task: int | str) -> float:
    """Return how long a thread was ready to run while others had the processor. `task`: the id of the thread, or of
    the process whose main thread it is, or `thread-self`.
    """
    return int(Path(f"/proc/{task}/schedstat").read_text().split()[1]) / 1e9


class Bystander:
    """A well-behaved client of another address that repeats a request on a kept connection.

    A response time does not include the time in which the client, or one of `servers`, waited for a processor: a busy
    machine lengthens it, and the gateway has no part in it. `servers` are ids of processes or threads.
    """

    PAUSE_SECONDS = 0.02

    def __init__(
        self,
        port: int,
        key: str,
        *,
        path: str = "/v1/models",
        body: bytes | None = None,
        address: str = "127.0.0.3",
        servers: Sequence[int] = (),
    ) -> None:
        self._target = ("POST" if body else "GET", path, body)
        self._port = port
        self._address = address
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._tasks: tuple[int | str, ...] = ("thread-self", *servers)
        self._stop = threading.Event()
        self.statuses: list[int] = []  # 0 for a connection that broke
        self.seconds: list[float] = []

    def send_request(self, connection: http.client.HTTPConnection) -> None:
        method, path, body = self._target
        started, without_processor = time.monotonic(), self._without_processor()
        try:
            connection.request(method, path, body, self._headers)
            response = connection.getresponse()
            response.read()
            self.statuses.append(response.status)
        except (OSError, http.client.HTTPException):
            connection.close()
            self.statuses.append(0)
        passed, waited = time.monotonic() - started, self._without_processor() - without_processor
        self.seconds.append(max(0.0, passed - waited))

    def _without_processor(self) -> float:
        return sum(map(seconds_without_processor, self._tasks))

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, 30, source_address=(self._address, 0))
        while not self._stop.is_set():
            self.send_request(connection)
            self._stop.wait(self.PAUSE_SECONDS)
        connection.close()

    def p99_ms(self) -> float:
        """99th percentile of the response times since the last `clear`."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1000

    def clear(self) -> None:
        self.statuses.clear()
        self.seconds.clear()

    @contextmanager
    def running(self) -> Iterator["Bystander"]:
        """Send requests in a thread while the block runs, at least one."""
        self._stop.clear()
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def wait_for_responses(self, count: int, seconds: float = 30.0) -> None:
        """Wait until there are `count` responses, for at most `seconds`."""
        deadline = time.monotonic() + seconds
        while len(self.statuses) < count and time.monotonic() < deadline:
            time.sleep(self.PAUSE_SECONDS)

    def assert_served(self, status: int = 200) -> None:
        assert self.statuses
        assert set(self.statuses) == {status}


def bystander(gateway: GatewayProcess, **options: Any) -> Bystander:
    return Bystander(gateway.port, gateway.key, **options)
