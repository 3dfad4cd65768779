"""Pages, lists, filters, exports and live events on databases of different sizes, side by side.

    python -m benchmarks.pages --rows 10000 10000000 [--database postgres://…/postgres] [--directory /big/disk]

Creates a database of each size (200 endpoints, 500 models), runs RouterDash on each with light traffic, and requests
the same pages from all of them in turns. Then it measures on the largest: the speed of an export, the effect of ten
exports on streams and figures, and the cost of open pages. With --directory the databases are kept and used again.

Compared values are from one run: the machine and its other load are the same for both sides of a ratio.
"""

import argparse
import asyncio
import http.client
import json
import multiprocessing
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import aiohttp
import psycopg

from benchmarks import filled
from benchmarks.bench.proc import tree
from benchmarks.paths import look, paths
from benchmarks.process import ROOT, clean_environment, free_port, stop

PASSWORD, KEY = "correct horse battery staple", "sk_" + "Pages000" * 4  # of the measured installations
FIRST_PORT = 21000  # of the simulated servers, whose addresses are in the databases
ENDPOINTS, MODELS = 200, 500
REQUESTS_PER_SECOND = 10.0
LIMIT_MS, LIMIT_RATIO = 150.0, 1.5
START_SECONDS = 300.0  # also of a large database that an older release made
MIN_MS = 2.0  # pages faster than this are not compared
WARM_UP = 3  # rounds that are not counted
CPU_CLOCK = 2  # CPUCLOCK_SCHED of Linux: user and system time of a process and all its threads


@dataclass
class Installation:
    """One RouterDash: address, size, and the headers of its browser."""

    name: str
    rows: int
    directory: Path
    database: str  # URL; empty for SQLite
    port: int = 0
    cookie: str = ""
    process: int = 0

    @property
    def filled(self) -> Path:
        return self.directory / "filled"

    @property
    def environment(self) -> dict[str, str]:
        return clean_environment(
            {
                "ROUTERDASH_DATA_DIR": str(self.directory),
                "ROUTERDASH_PORT": str(self.port),
                "ROUTERDASH_ADMIN_PASSWORD": PASSWORD,
                "ROUTERDASH_BOOTSTRAP_API_KEY": KEY,
                "ROUTERDASH_TIME_ZONE": "UTC",
                "ROUTERDASH_LOG_LEVEL": "error",
                "DATABASE_URL": self.database,
            }
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        self.port = free_port()
        command = [sys.executable, "manage.py", "serve"]
        process = subprocess.Popen(command, env=self.environment, cwd=ROOT, stdin=subprocess.DEVNULL)  # noqa: S603
        self.process = process.pid
        try:
            _until(lambda: self.get("/ready")[0] == 200)
            _until(lambda: json.loads(self.get("/api/dashboard/stats", KEY)[1])["figures_restored"])
            yield
        finally:
            stop(process, 40)

    def process_of(self, role: str) -> int:
        """Process ids: `control` renders pages, `gateway` serves the clients."""
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in tree(self.process)}
        return next(pid for pid, command in commands.items() if role in command)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def get(self, path: str, key: str = "") -> tuple[int, bytes]:
        with closing(self.connect()) as connection:
            connection.request("GET", path, headers={"X-API-Key": key} if key else {"Cookie": self.cookie})
            response = connection.getresponse()
            return response.status, response.read()

    def log_in(self) -> None:
        with closing(self.connect()) as connection:
            connection.request("GET", "/login")
            response = connection.getresponse()
            response.read()
            token = SimpleCookie(response.headers["Set-Cookie"])["routerdash_csrf"].value
            form = urllib.parse.urlencode({"username": "admin", "password": PASSWORD, "csrfmiddlewaretoken": token})
            headers = {"Cookie": f"routerdash_csrf={token}", "Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", "/login", form, headers)
            response = connection.getresponse()
            response.read()
            cookies = [it.partition(";")[0] for it in response.headers.get_all("Set-Cookie") or ()]
            self.cookie = "; ".join(cookies)

    def fetch(self, connection: http.client.HTTPConnection, path: str) -> tuple[float, bytes]:
        """Request a page. Returns milliseconds and body."""
        started = time.perf_counter()
        connection.request("GET", path, headers={"Cookie": self.cookie})
        response = connection.getresponse()
        body = response.read()
        took = (time.perf_counter() - started) * 1000
        if response.status != 200:
            raise SystemExit(f"{self.name}: {path} returns {response.status}: {body[:300]!r}")
        return took, body


def _until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if condition():
                return
        except (OSError, http.client.HTTPException, KeyError, ValueError):
            pass
        if time.monotonic() > deadline:
            raise SystemExit("RouterDash does not come up; its messages are above")
        time.sleep(0.05)


# Databases


def installation(directory: Path, rows: int, server: str) -> Installation:
    """Return a filled database, created if it is missing. Uses databases on `server` if it is given."""
    kind = "postgres" if server else "sqlite"
    made = Installation(f"{rows}", rows, directory / f"{kind}-{rows}", "")
    if server:
        made.database = urllib.parse.urlsplit(server)._replace(path=f"/routerdash_pages_{rows}").geturl()
    if made.filled.exists():
        return made
    made.directory.mkdir(parents=True, exist_ok=True)
    if server:
        drop(made, server)
        with closing(psycopg.connect(server, autocommit=True)) as connection:
            connection.execute(f"CREATE DATABASE routerdash_pages_{rows}".encode())
    with made.running():
        pass
    started = time.monotonic()
    filled.fill(made.database or str(made.directory / "routerdash.sqlite3"), servers(), rows)
    made.filled.touch()
    print(f"{kind}: {rows} rows in {time.monotonic() - started:.0f} s", flush=True)
    return made


def drop(made: Installation, server: str) -> None:
    with closing(psycopg.connect(server, autocommit=True)) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS routerdash_pages_{made.rows} WITH (FORCE)".encode())


def servers() -> list[filled.Server]:
    return filled.fleet(range(FIRST_PORT, FIRST_PORT + ENDPOINTS), ENDPOINTS, MODELS)


@contextmanager
def simulated() -> Iterator[None]:
    """All servers, in one process."""
    command = [sys.executable, "-m", "benchmarks.simulator", "--control", str(free_port())]
    for at, server in enumerate(servers()):
        behaviour = {"port": FIRST_PORT + at, "models": server.models, "tokens": 8}
        command += ["--endpoint", json.dumps(behaviour)]
    process = _quiet(command)
    try:
        yield
    finally:
        stop(process, 10)


def _quiet(command: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, env=clean_environment({}), cwd=ROOT, stdout=subprocess.DEVNULL)  # noqa: S603


# Load in separate processes


@contextmanager
def beside(work: Callable[..., None], *values: Any) -> "Iterator[multiprocessing.connection.Connection]":
    """Run `work(pipe, *values)` in a process. Any message on the pipe stops it."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(there, *values), daemon=True)
    process.start()
    try:
        yield here
    finally:
        with suppress(OSError):  # it may have been stopped already
            here.send("stop")
        process.join(15)
        if process.is_alive():
            process.terminate()


def traffic(pipe: Any, port: int, per_second: float) -> None:
    """Requests for any model, half of them streamed."""

    async def one(session: aiohttp.ClientSession) -> None:
        model = f"model-{random.randrange(MODELS):03d}"
        body = {"model": model, "messages": [], "stream": random.random() < 0.5}
        async with session.post("/v1/chat/completions", json=body) as response:
            await response.read()

    async def run() -> None:
        async with _session(port) as session:
            tasks: set[asyncio.Task[None]] = set()
            while not pipe.poll():
                task = asyncio.create_task(one(session))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(random.expovariate(per_second))
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


def streams(pipe: Any, port: int, count: int) -> None:
    """Slow streams of clients. At the stop, sends the longest gap in ms between two events of a stream."""

    async def one(session: aiohttp.ClientSession, gaps: list[float]) -> None:
        body = {"model": "slow", "messages": [], "stream": True}
        while not pipe.poll():
            async with session.post("/v1/chat/completions", json=body) as response:
                last = None
                async for _ in response.content.iter_any():
                    now = time.perf_counter()
                    if last is not None:
                        gaps.append((now - last) * 1000)
                    last = now
                    if pipe.poll():
                        break

    async def run() -> list[float]:
        gaps: list[float] = []
        async with _session(port) as session:
            await asyncio.gather(*(one(session, gaps) for _ in range(count)))
        return gaps

    pipe.send(asyncio.run(run()))


def hammer(pipe: Any, port: int, clients: int) -> None:
    """Requests at saturation. For each `count` on the pipe, sends the number of requests since the last one."""

    async def one(reader: Any, writer: Any, tally: list[int]) -> None:
        body = b'{"model": "fast", "messages": []}'
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        while True:
            writer.write(head.encode() + body)
            response = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", response.lower())
            await reader.readexactly(int(found[1]) if found else 0)
            tally[0] += 1

    async def run() -> None:
        tally = [0]
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(clients)]
        tasks = [asyncio.create_task(one(*connection, tally)) for connection in connections]
        while True:
            await asyncio.sleep(0.01)
            if pipe.poll():
                if pipe.recv() == "stop":
                    break
                pipe.send(tally[0])
        for task in tasks:
            task.cancel()

    asyncio.run(run())


def pages_open(pipe: Any, port: int, cookie: str, count: int) -> None:
    """Open overviews: event streams that are read and discarded. Sends the number of bytes at the stop."""

    async def one(received: list[int]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"GET /api/dashboard/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: {cookie}\r\n\r\n".encode()
        )
        while data := await reader.read(1 << 16):
            received[0] += len(data)
            received[1] += data.count(b"\nevent: ")

    async def run() -> list[int]:
        received = [0, 0]
        tasks = [asyncio.create_task(one(received)) for _ in range(count)]
        await asyncio.sleep(1.5)
        pipe.send("open")
        received[:] = [0, 0]
        await asyncio.to_thread(pipe.recv)
        for task in tasks:
            task.cancel()
        return received

    pipe.send(asyncio.run(run()))


def exports(pipe: Any, port: int, cookie: str, count: int) -> None:
    """Repeated downloads that are read and discarded. Sends the number of bytes at the stop."""

    async def one(session: aiohttp.ClientSession, received: list[int]) -> None:
        while True:
            async with session.get("/api/requests/export", headers={"Cookie": cookie}) as response:
                async for data in response.content.iter_any():
                    received[0] += data.count(b"\n")

    async def run() -> list[int]:
        received = [0]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            tasks = [asyncio.create_task(one(session, received)) for _ in range(count)]
            await asyncio.to_thread(pipe.recv)
            for task in tasks:
                task.cancel()
        return received

    pipe.send(asyncio.run(run()))


def _session(port: int) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": f"Bearer {KEY}"}
    return aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers, connector=connector)


# Pages


@dataclass
class Took:
    """Times of one page of one installation, in ms."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # of the control process


def compare(found: list[Installation], times: int, named: str) -> list[str]:
    """Measure every page with this text in its name, in turns. Return a text for each page that is too slow."""
    server = servers()[5]
    page_paths: dict[str, dict[str, str]] = {}
    for made in found:
        every = paths(look(lambda path, made=made: made.get(path)[1], server))  # type: ignore[misc]
        page_paths[made.name] = {name: path for name, path in every.items() if named in name}
    took = {(page, made.name): Took() for page in page_paths[found[0].name] for made in found}
    controls = {made.name: made.process_of("control") for made in found}
    with ExitStack() as stack:
        connections = {made.name: stack.enter_context(closing(made.connect())) for made in found}
        for count in range(WARM_UP + times):
            for page in page_paths[found[0].name]:
                for made in found:
                    before = cpu_ms(controls[made.name])
                    milliseconds, _body = made.fetch(connections[made.name], page_paths[made.name][page])
                    used = cpu_ms(controls[made.name]) - before
                    if count >= WARM_UP:
                        took[page, made.name].wall.append(milliseconds)
                        took[page, made.name].cpu.append(used)
    return report(found, took)


def report(found: list[Installation], took: dict[tuple[str, str], Took]) -> list[str]:
    """Print the times. Ratios are those of the medians of CPU time, which exclude other load of the machine."""
    print("ms: p50 and p95 of the time until the response is complete, p50 and p95 of control's CPU time")
    print(f"{'':34}" + "".join(f"{made.name:>30}" for made in found) + f"{'ratio':>8}")
    wrong: list[str] = []
    for page in dict.fromkeys(page for page, _ in took):
        each = [took[page, made.name] for made in found]
        cells = "".join(
            f"{quantile(it.wall, 0.5):9.1f}{quantile(it.wall, 0.95):7.1f}"
            f"{quantile(it.cpu, 0.5):7.1f}{quantile(it.cpu, 0.95):7.1f}"
            for it in each
        )
        ratio = quantile(each[-1].cpu, 0.5) / max(MIN_MS, quantile(each[0].cpu, 0.5))
        print(f"{page:34}{cells}{ratio:8.2f}")
        late = quantile(each[-1].wall, 0.95)
        if late > LIMIT_MS or ratio > LIMIT_RATIO:
            wrong.append(f"{page}: {late:.1f} ms, ratio {ratio:.2f}")
    return wrong


def cpu_ms(process: int) -> float:
    """CPU time of a process in ms, by the kernel's CPU clock with microseconds instead of the ticks of /proc."""
    return time.clock_gettime((~process << 3) | CPU_CLOCK) * 1000


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


# Exports, and the cost of open pages


def export_speed(made: Installation, form: str, seconds: float = 10.0) -> None:
    with closing(made.connect()) as connection:
        started = time.perf_counter()
        connection.request("GET", f"/api/requests/export?format={form}", headers={"Cookie": made.cookie})
        response = connection.getresponse()
        rows, first = 0, 0.0
        while (data := response.read1(1 << 16)) and time.perf_counter() - started < seconds:
            first = first or time.perf_counter() - started
            rows += data.count(b"\n")
        took = time.perf_counter() - started
    print(f"export as {form}: {rows / took:.0f} rows a second, first bytes after {first * 1000:.0f} ms")


def disturbance(made: Installation, seconds: float) -> None:
    """Measure streams of clients and the delay of figures, without and with ten exports."""
    for count in (0, 10, 0, 10, 0, 10):
        with ExitStack() as stack:
            reading = stack.enter_context(beside(exports, made.port, made.cookie, count)) if count else None
            watching = stack.enter_context(beside(streams, made.port, 8))
            time.sleep(2)
            delays = figure_delays(made, seconds)
            watching.send("stop")
            gaps = watching.recv()
            rows = 0
            if reading is not None:
                reading.send("stop")
                rows = reading.recv()[0]
        print(
            f"{count:2} exports: longest gap of a stream {max(gaps):.0f} ms (p99 {quantile(gaps, 0.99):.0f} ms), "
            f"a figure is shown after {quantile(delays, 0.5):.0f} ms (p95 {quantile(delays, 0.95):.0f} ms, "
            f"at most {max(delays):.0f} ms)" + (f", {rows / (seconds + 2):.0f} rows a second" if count else "")
        )


def figure_delays(made: Installation, seconds: float) -> list[float]:
    """Delays in ms from the last byte of a response until the figures include it, with regular requests."""
    delays: list[float] = []
    body = json.dumps({"model": "fast", "messages": []})
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with closing(made.connect()) as client, closing(made.connect()) as looking:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            _, stats = made.fetch(looking, "/api/dashboard/stats")
            before = json.loads(stats)["total_requests"]
            client.request("POST", "/v1/chat/completions", body, headers)
            client.getresponse().read()
            done = time.perf_counter()
            while json.loads(made.fetch(looking, "/api/dashboard/stats")[1])["total_requests"] <= before:
                pass
            delays.append((time.perf_counter() - done) * 1000)
            time.sleep(0.05)
    return delays


def open_pages(made: Installation, count: int, rounds: int, seconds: float) -> None:
    """Measure the cost of open pages: throughput at saturation, and the gateway's CPU time per request.

    CPU time is independent of other load of the machine.
    """
    rates: dict[bool, list[float]] = {False: [], True: []}
    cpu_us: dict[bool, list[float]] = {False: [], True: []}
    gateway = made.process_of("gateway")
    events = size = 0
    with beside(hammer, made.port, 32) as hammering:
        time.sleep(2)

        def measure(opened: bool) -> None:
            hammering.send("count")
            before, started, used = hammering.recv(), time.perf_counter(), cpu_ms(gateway)
            time.sleep(seconds)
            hammering.send("count")
            requests = hammering.recv() - before
            rates[opened].append(requests / (time.perf_counter() - started))
            cpu_us[opened].append((cpu_ms(gateway) - used) * 1000 / requests)

        for _ in range(rounds):
            measure(opened=False)
            with beside(pages_open, made.port, made.cookie, count) as opened:
                opened.recv()
                measure(opened=True)
                opened.send("stop")
                received = opened.recv()
                size, events = size + received[0], events + received[1]
            time.sleep(2)  # until they are forgotten
    without, with_pages = (statistics.median(rates[it]) for it in (False, True))
    plain, watched = (statistics.median(cpu_us[it]) for it in (False, True))
    print(
        f"{count} open pages: {with_pages:.0f} requests a second, {without:.0f} without "
        f"({with_pages / without - 1:+.1%}), {watched:.1f} µs of the gateway's CPU a request, {plain:.1f} without "
        f"({watched / plain - 1:+.1%}); {events / rounds / seconds / count:.1f} events a second and page, "
        f"{size / max(1, events):.0f} bytes each"
    )


@contextmanager
def fast_and_slow(made: Installation) -> Iterator[None]:
    """Add two servers for the other measurements. They are removed afterwards from a kept database."""
    ports = {"fast": free_port(), "slow": free_port()}
    how: dict[str, dict[str, Any]] = {"fast": {"tokens": 4}, "slow": {"tokens": 400, "tokens_per_second": 50.0}}
    command = [sys.executable, "-m", "benchmarks.simulator", "--control", str(free_port())]
    for name, port in ports.items():
        command += ["--endpoint", json.dumps({"port": port, "models": [name], **how[name]})]
    process = _quiet(command)
    try:
        for name, port in ports.items():
            endpoint = {"name": f"{name}-{port}", "base_url": f"http://127.0.0.1:{port}"}
            _until(lambda endpoint=endpoint: _send(made, "POST", "/api/endpoints", endpoint) == 201)  # type: ignore[misc]
            chat = {"model": name, "messages": [], "max_tokens": 1}
            _until(lambda chat=chat: _send(made, "POST", "/v1/chat/completions", chat) == 200)  # type: ignore[misc]
        yield
        added = json.loads(made.get("/api/endpoints", KEY)[1])["endpoints"]
        for it in added:
            if it["name"].partition("-")[0] in ports:
                _send(made, "DELETE", f"/api/endpoints/{it['id']}", {})
    finally:
        stop(process, 10)


def _send(made: Installation, method: str, path: str, body: dict[str, Any]) -> int:
    headers = {"X-API-Key": KEY, "Content-Type": "application/json"}
    with closing(made.connect()) as connection:
        connection.request(method, path, json.dumps(body), headers)
        response = connection.getresponse()
        response.read()
        return response.status


def run(options: argparse.Namespace, directory: Path) -> list[str]:
    found = [installation(directory, rows, options.database) for rows in options.rows]
    wrong: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(simulated())
        for made in found:
            stack.enter_context(made.running())
            made.log_in()
        if options.times:
            with ExitStack() as sending:
                for made in found:
                    sending.enter_context(beside(traffic, made.port, REQUESTS_PER_SECOND))
                wrong = compare(found, options.times, options.named)
        largest = found[-1]
        if not options.only_pages:
            stack.enter_context(fast_and_slow(largest))
            for form in ("csv", "jsonl"):
                export_speed(largest, form)
            disturbance(largest, options.seconds)
            open_pages(largest, options.open, 6, options.seconds)
    if options.database and not options.directory:
        for made in found:
            drop(made, options.database)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 10_000_000], help="sizes, the smallest first")
    parser.add_argument("--database", default="", help="URL of a PostgreSQL server (default: SQLite)")
    parser.add_argument("--directory", type=Path, help="folder in which databases are kept for later runs")
    parser.add_argument("--times", type=int, default=60, help="number of requests for each page")
    parser.add_argument("--named", default="", help="measure only pages with this text in their name")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each other measurement")
    parser.add_argument("--open", type=int, default=50, help="number of open pages, compared with none")
    parser.add_argument("--only-pages", action="store_true", help="measure only the pages")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="routerdash-pages-") as made:
        wrong = run(options, options.directory or Path(made))
    for text in wrong:
        print(f"SLOW: {text}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
