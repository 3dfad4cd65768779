"""A real RouterDash in processes: tests start, query, stop and kill it like users and machines."""

import http.client
import http.cookiejar
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.process import ROOT, clean_environment, free_port
from benchmarks.simulator import Endpoint
from gateway.base.config import COMPILED_AUTO, COMPILED_OFF
from gateway.base.request_kinds import CHAT
from gateway.registry import folders
from gateway.registry.kinds import LENGTHS, SPEEDS, Table
from gateway.registry.store import RegistryStore
from routerdash.processes.compiled import CONTROL_FOLDER, compiled_control, compiled_gateway
from tests.http import Response, Served

__all__ = [
    "KEY", "PASSWORD", "ROOT", "RouterDash", "clean_environment", "command_of", "free_port", "learned_rows",
    "published_completions", "published_rows", "until",
]  # fmt: skip

KEY = "sk_" + "TestKey0" * 4
PASSWORD = "correct horse battery staple"
START_SECONDS = 60.0
MEASURED = "COVERAGE_PROCESS_START" in os.environ
# Fields of `stats` that a restart may change.
PASSING = (
    "records_waiting", "oldest_waiting_secs", "last_commit_at", "last_batch_ms", "last_batch_records", "writer_errors",
    "last_seen_at", "figures_version", "tokens_per_second",  # the last goes down with time
)  # fmt: skip


def must_be_compiled() -> bool:
    """Return True if TEST_COMPILED asks for compiled code. Else they run in Python, whatever was built here.

    Raises RuntimeError if RouterDash would not use the folder in TEST_COMPILED, so that no run tests something else.
    """
    wanted = os.environ.get("TEST_COMPILED")
    folder = Path(wanted or "").resolve()
    if wanted and (compiled_gateway(), compiled_control()) != (folder, folder / CONTROL_FOLDER):
        raise RuntimeError(f"RouterDash does not use the compiled code in {wanted}: make compile")
    return bool(wanted)


def until(condition: Any, seconds: float = 30.0, pause: float = 0.02) -> Any:
    """Return the first true result of `condition`; fails after `seconds`, which no busy machine should reach."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(pause)


class RouterDash(Served):
    """One installation: a data directory, a port, a database, and the processes while they run."""

    def __init__(self, directory: Path, database_url: str = "", **environment: str) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.database_url = database_url
        self.port = free_port()
        self.key = KEY
        self.program = [sys.executable, str(ROOT / "manage.py")]
        self.log_path = directory / "routerdash.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {
            "ROUTERDASH_DATA_DIR": str(self.data_dir),
            "ROUTERDASH_PORT": str(self.port),
            "ROUTERDASH_ADMIN_PASSWORD": PASSWORD,
            "ROUTERDASH_BOOTSTRAP_API_KEY": KEY,
            "ROUTERDASH_TIME_ZONE": "UTC",
            "ROUTERDASH_COMPILED": COMPILED_AUTO if must_be_compiled() else COMPILED_OFF,
            "DATABASE_URL": database_url,
            **environment,
        }

    # Processes

    def start(self, *, wait: bool = True, restored: bool = True) -> "RouterDash":
        """Start it, and wait until it serves; with `restored`, until its figures are those of the database."""
        self.log = self.log_path.open("ab")
        self.process = subprocess.Popen(
            [*self.program, "serve"],
            cwd=self.directory,
            env=clean_environment(self.environment),
            stdout=self.log,
            stderr=self.log,
            stdin=subprocess.DEVNULL,
        )
        if wait:
            until(self.is_ready, START_SECONDS)
            until(lambda: not restored or self.stats()["figures_restored"], START_SECONDS)
        return self

    def stop(self, within: float = 30) -> int:
        """Send SIGTERM and return the exit code."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(within)
        finally:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL to all processes at once."""
        if self.process is not None:
            for pid in self.pids():
                _signal(pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            self.log.close()

    def end(self) -> None:
        """Kill it. Under coverage stop it first, as a killed process writes no coverage data."""
        if MEASURED and self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        self.kill()

    def kill_role(self, role: str, number: int = signal.SIGKILL) -> int:
        pid = self.pid_of(role)
        os.kill(pid, number)
        return pid

    def pid_of(self, role: str) -> int:
        return next(pid for pid in self.pids() if role in command_of(pid))

    def pids(self) -> list[int]:
        """Return the PIDs of the supervisor and all its descendants."""
        assert self.process is not None
        parents = {int(entry): _parent(int(entry)) for entry in os.listdir("/proc") if entry.isdigit()}
        pids = [self.process.pid]
        for pid in pids:
            pids += [child for child, parent in parents.items() if parent == pid]
        return pids

    def manage(self, *arguments: str, timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run `manage.py …` with the settings of this installation."""
        return subprocess.run(
            [*self.program, *arguments],
            cwd=self.directory,
            env=clean_environment(self.environment),
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace")

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log_text()}"
        try:
            return self.get("/ready").status == 200
        except OSError:
            return False

    def in_python(self) -> list[str]:
        """Return a text for each gateway that should run compiled code and fell back to Python."""
        if self.environment["ROUTERDASH_COMPILED"] == COMPILED_OFF:
            return []
        return [line for line in self.log_text().splitlines() if "runs in Python from now on" in line]

    # HTTP

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def chat(self, model: str = "tiny", *, stream: bool = False, **fields: Any) -> Response:
        messages = [{"role": "user", "content": "Say hello."}]
        return self.post("/v1/chat/completions", {"model": model, "messages": messages, "stream": stream, **fields})

    @contextmanager
    def open_stream(self, model: str = "tiny", **fields: Any) -> Iterator[http.client.HTTPResponse]:
        """Open a streamed chat; leaving the block disconnects the client."""
        body = json.dumps({"model": model, "messages": [], "stream": True, **fields})
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {KEY}"})
            with connection.getresponse() as response:
                yield response

    def log_in(self, name: str, password: str) -> tuple[int, urllib.request.OpenerDirector]:
        """Return the status of the page after a login, and a browser that is logged in."""
        jar = http.cookiejar.CookieJar()
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
        browser.open(f"{self.url}/login", timeout=30).read()
        token = next(cookie.value for cookie in jar if cookie.name == "routerdash_csrf")
        form = {"username": name, "password": password, "csrfmiddlewaretoken": token}
        response = browser.open(f"{self.url}/login", urllib.parse.urlencode(form).encode(), timeout=30)
        return response.status if response.url != f"{self.url}/login" else 401, browser

    # Endpoints and figures

    def add(self, simulated: Endpoint, name: str = "", **fields: Any) -> str:
        """Register a simulated endpoint and wait until a gateway has it online with its models; return its ID."""
        endpoint_id = self.register(simulated, name, **fields)
        until(lambda: self.serves(endpoint_id, len(simulated.behaviour.models)), 20)
        until(lambda: self.lists(endpoint_id, len(simulated.behaviour.models)))
        return endpoint_id

    def register(self, simulated: Endpoint, name: str = "", **fields: Any) -> str:
        given = {"name": name or simulated.url, "base_url": simulated.url, **fields}
        response = self.post("/api/endpoints", given)
        if response.status in (400, 409):  # an earlier test left a server on this port
            for row in self.get("/api/endpoints").json()["endpoints"]:
                if row["base_url"] == simulated.url:
                    self.request("DELETE", f"/api/endpoints/{row['id']}")
            response = self.post("/api/endpoints", given)
        assert response.status in (201, 202), response  # 202: not in effect within a second, on a busy machine
        endpoint_id: str = response.json()["id"]
        return endpoint_id

    def serves(self, endpoint_id: str, models: int) -> bool:
        endpoint = self.get(f"/api/endpoints/{endpoint_id}").json()
        return endpoint["status"] == "online" and len(endpoint["models"]) == models

    def lists(self, endpoint_id: str, models: int) -> bool:
        """Return True if a gateway lists the models; gateways follow control with a short delay."""
        listed = self.get("/v1/models").json()["data"]
        return sum(endpoint_id in model["endpoint_ids"] for model in listed) == models

    def overview(self) -> Any:
        return self.get("/api/dashboard/overview").json()

    def stats(self) -> Any:
        return self.get("/api/dashboard/stats").json()

    def endpoint(self, endpoint_id: str) -> Any:
        rows = self.get("/api/dashboard/endpoints").json()
        return next(row for row in rows if row["id"] == endpoint_id)

    def counters(self, endpoint_id: str) -> tuple[int, int, int]:
        row = self.endpoint(endpoint_id)
        return row["total_requests"], row["successful_requests"], row["failed_requests"]

    # The database

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read or change the database from outside, in its own transaction."""
        with self.transaction() as execute:
            return execute(sql, *values)

    @contextmanager
    def transaction(self) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
        """Yield a function that executes a statement with its values and returns its rows; commit at the end."""
        if self.database_url:
            with psycopg.connect(self.database_url) as connection:

                def execute(sql: str, *values: Any) -> list[tuple[Any, ...]]:
                    cursor = connection.execute(sql.replace("?", "%s"), values)
                    return cursor.fetchall() if cursor.description else []

                yield execute
            return
        with closing(sqlite3.connect(self.data_dir / "routerdash.sqlite3", timeout=10)) as database:
            yield lambda sql, *values: database.execute(sql, values).fetchall()
            database.commit()


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def published_rows(router: RouterDash, *tables: Table[Any]) -> dict[bytes, bytes]:
    """Return the rows of the registry store, as stored."""
    root = router.data_dir / "registry"
    store = RegistryStore(folders.folder(root, folders.current(root)))
    with closing(store), store.reading():
        return dict(row for table in tables for row in store.raw_rows(table, b""))


def learned_rows(router: RouterDash) -> dict[bytes, bytes]:
    """Return what gateways have of what routing has learned, as stored."""
    return published_rows(router, SPEEDS, LENGTHS)


def published_completions(router: RouterDash) -> int:
    """Return from how many chat completions and embeddings gateways have what was learned; other kinds borrow it."""
    kinds = CHAT.encode(), b"embeddings"
    learned = (SPEEDS.unpack(raw) for key, raw in learned_rows(router).items() if any(kind in key for kind in kinds))
    return sum(speeds.completions for speeds in learned)
