"""An installation of any size: its database is filled by SQL, and simulated servers stand behind its endpoints.

The first three endpoints have a server and model names of their own: EDITED is the one that is changed, STEADY serves
plain requests, STREAMING serves paced streams. Of the others, ten each have the same models.
"""

import contextlib
import hashlib
import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import uuid
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from benchmarks import filled
from benchmarks.bench.proc import cpu_seconds, resident_kib
from benchmarks.process import ROOT, clean_environment, free_port, stop
from tests.router import RouterDash, command_of, until

R = TypeVar("R")

EDITED, STEADY, STREAMING = range(3)
SHARED_BY = 10  # endpoints with the same models
KEYS_OF_A_USER = 1000
START_SECONDS = 900.0  # also of a release whose start reads all keys
TOKENS, TOKENS_PER_SECOND = 3000, 10.0  # of each stream of STREAMING
ROLES = {"gateway.main": "gateway", "control": "control"}


@dataclass(frozen=True, slots=True)
class FleetSize:
    """Numbers of endpoints, of models of each, and of API keys."""

    endpoints: int
    models: int
    keys: int

    def __str__(self) -> str:
        return f"{self.endpoints:,} endpoints × {self.models} models, {self.keys:,} keys"


def secret(number: int) -> str:
    """Return the API key with this number."""
    return f"sk_Scale{number:027d}"


def server_list(size: FleetSize) -> list[filled.Server]:
    """Return the endpoints, each with the free port of its simulated server."""
    return [
        filled.Server(
            str(uuid.UUID(int=(0xE << 124) | (4 << 76) | (8 << 60) | index)),
            f"server-{index:05d}",
            f"http://127.0.0.1:{free_port()}",
            tuple(f"{_prefix(index)}-{model:03d}" for model in range(size.models)),
        )
        for index in range(size.endpoints)
    ]


def _prefix(index: int) -> str:
    names = ("edited", "steady", "streaming")
    return names[index] if index < len(names) else f"group-{(index - len(names)) // SHARED_BY:04d}"


def port_of(server: filled.Server) -> int:
    return int(server.url.rpartition(":")[2])


@contextmanager
def simulated(servers: Sequence[filled.Server], first: int = 0) -> Iterator[int]:
    """Run the servers in one process, and return the port of its control API. `first`: index of the first of them."""
    control = free_port()
    command = [sys.executable, "-m", "benchmarks.simulator", "--control", str(control)]
    for index, server in enumerate(servers, first):
        behaviour: dict[str, Any] = {"port": port_of(server), "models": server.models}
        if index == STREAMING:
            behaviour |= {"tokens": TOKENS, "tokens_per_second": TOKENS_PER_SECOND}
        command += ["--endpoint", json.dumps(behaviour)]
    process = subprocess.Popen(command, env=clean_environment({}), cwd=ROOT, stdout=subprocess.DEVNULL)  # noqa: S603
    try:
        until(lambda: process.poll() is not None or _responds(control), 120)
        assert process.poll() is None, "the simulated servers did not start"
        yield control
    finally:
        stop(process, 10)


def _responds(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30).close()
    except OSError:
        return False
    return True


def fill(database: str, size: FleetSize, servers: Sequence[filled.Server], interval: int = 30) -> None:
    """Write endpoints with their models, users and API keys. `interval`: seconds between two health checks."""
    now = time.time()
    stamp = filled.iso(now)
    users = [filled.user(number) for number in range(-(-size.keys // KEYS_OF_A_USER))]
    with filled.opened(database) as sink, sink.without_triggers():
        filled.write_endpoints(sink, servers, now, interval=interval)
        sink.many(
            "users",
            ("id", "username", "password_hash", "role", "created_at", "must_change_password"),
            ((user_id, f"person-{number:05d}", "!", "viewer", stamp, False) for number, user_id in enumerate(users)),
        )
        sink.many(
            "api_keys",
            ("id", "key_hash", "name", "created_by", "created_at", "permissions"),
            (
                (key_id(number), hash_of(secret(number)), f"key-{number:07d}", users[number // KEYS_OF_A_USER], stamp,
                 '["openai.inference", "openai.models.read"]')
                for number in range(size.keys)
            ),
        )  # fmt: skip


def key_id(number: int) -> str:
    return str(uuid.UUID(int=(0xC << 124) | (4 << 76) | (8 << 60) | number))


def hash_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@contextmanager
def installed(
    size: FleetSize,
    servers: Sequence[filled.Server],
    server: str,
    environment: Mapping[str, str],
    interval: int = 30,
) -> Iterator[RouterDash]:
    """Yield a stopped installation with a filled database, on SQLite or on the PostgreSQL `server`.

    Nothing but the database and its keys is left of the start that created them: the next start is a first one.
    """
    with tempfile.TemporaryDirectory(prefix="routerdash-scale-") as temporary, new_database(server) as url:
        settings = {"ROUTERDASH_LOG_LEVEL": "warning", "ROUTERDASH_MAX_KEYS_PER_USER": "0", **environment}
        router = RouterDash(Path(temporary), url, **settings)
        try:
            assert router.start().stop() == 0, router.log_text()
            for path in router.data_dir.iterdir():
                if not path.name.startswith("routerdash.sqlite3") and not path.name.endswith("-key"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            started = time.monotonic()
            fill(url or str(router.data_dir / "routerdash.sqlite3"), size, servers, interval)
            say(f"{'PostgreSQL' if url else 'SQLite'} filled with {size} in {time.monotonic() - started:.0f} s")
            yield router
            assert not router.in_python(), router.in_python()
        finally:
            router.end()


@contextmanager
def new_database(server: str) -> Iterator[str]:
    """Create a database on a PostgreSQL server, and drop it at the end. Its URL is empty for SQLite."""
    if not server:
        yield ""
        return
    name = f"routerdash_scale_{secrets.token_hex(6)}"
    with closing(psycopg.connect(server, autocommit=True)) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    try:
        yield urllib.parse.urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        with closing(psycopg.connect(server, autocommit=True)) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


def start(router: RouterDash) -> tuple[float, float]:
    """Start an installation. Return the seconds until /ready says so, and the CPU seconds of all processes till then.

    The second value depends less on what else the machine does.
    """
    started = time.monotonic()
    router.start(wait=False)
    until(router.is_ready, START_SECONDS)
    return time.monotonic() - started, cpu_seconds(router.pids())


def gateways(router: RouterDash) -> list[int]:
    """Return the process ids of the gateways."""
    return [pid for pid in router.pids() if "gateway.main" in command_of(pid)]


def private_mb(router: RouterDash) -> dict[str, list[float]]:
    """Return the private memory (RssAnon) of each process in MiB, by role."""
    sizes: dict[str, list[float]] = {}
    for pid in router.pids():
        command = command_of(pid)
        role = next((role for part, role in ROLES.items() if part in command), "background")
        role = "supervisor" if router.process is not None and pid == router.process.pid else role
        sizes.setdefault(role, []).append(resident_kib(pid, "RssAnon") / 1024)
    return sizes


def say(text: str) -> None:
    """Print progress to the standard error stream."""
    with contextlib.suppress(BrokenPipeError):
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def clean_up_at_sigterm() -> None:
    """Let SIGTERM end the program like Ctrl-C: all processes are stopped, and temporary data is deleted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def measure(
    options: Namespace,
    run: Callable[[Namespace], R],
    table: Callable[[R], str],
    over: Callable[[R], bool],
    *,
    may_fail: bool = False,
) -> None:
    """Run a measurement as a program: print its table, and exit with 1 if a figure is over its limit.

    `may_fail`: the figures of this run, such as a quick one, have no limits.
    """
    clean_up_at_sigterm()
    verdicts = run(options)
    print(table(verdicts))
    sys.exit(over(verdicts) and not may_fail)
