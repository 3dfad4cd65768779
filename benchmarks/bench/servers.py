"""The measured servers: port, processes whose CPU time counts, and configuration for the results."""

import os
import secrets
import signal
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import urlsplit, urlunsplit

import psycopg

from benchmarks.bench import proc
from benchmarks.bench.tools import LOAD_CORE, MODEL, PROXY_CORE, CannotMeasure, Held, Load, MissingHere, find, pinned
from benchmarks.process import free_port
from gateway.base.config import ADAPTIVE, COMPILED_AUTO
from gateway.registry import schema
from routerdash.processes.compiled import compiled_gateway
from tests.gateway.process import GatewayProcess
from tests.gateway.samples import make_endpoint
from tests.reference.make_reference_db import make as make_reference
from tests.router import KEY, PASSWORD, RouterDash, until

DATABASE = os.environ.get("ROUTERDASH_BENCH_DATABASE", "postgres://postgres@127.0.0.1:5432/postgres")

START_SECONDS = 90.0
STOP_SECONDS = 20.0
MANAGE_SECONDS = 600  # for a command on many rows
DRAIN_SECONDS = 120.0
MAX_CONNECTIONS = 20_000


class Program:
    """Start a process in a new session: Ctrl-C reaches only the benchmark, which stops all in order."""

    def __init__(self, command: list[str], log: Path, core: int | None = None, **options: Any) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603
                pinned(command, core),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **options,
            )

    def pids(self) -> list[int]:
        return proc.tree(self.process.pid)

    def wait_for(self, port: int, seconds: float = START_SECONDS) -> None:
        """Wait until it lists its models. Raises CannotMeasure."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError, urllib.error.URLError):
                request = urllib.request.Request(
                    f"http://127.0.0.1:{port}/v1/models", headers={"Authorization": f"Bearer {KEY}"}
                )
                with urllib.request.urlopen(request, timeout=5):  # noqa: S310
                    return
            time.sleep(0.05)
        self.stop()
        raise CannotMeasure(f"{self.log.stem} did not start: {self.log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """Send SIGTERM to it, then SIGKILL to the remaining processes of its tree."""
        pids = self.pids()
        with suppress(ProcessLookupError):
            self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        for pid in pids[1:] if self.process.poll() is not None else pids:
            if proc.stat_of(pid)[0]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


class Upstreams:
    """Two processes of upstream.c."""

    def __init__(self, directory: Path) -> None:
        self.ports = [free_port() for _ in range(2)]
        self._programs: list[Program] = []
        for port in self.ports:
            command = [str(directory / "upstream"), str(port), MODEL]
            self._programs.append(Program(command, directory / f"upstream-{port}.log", LOAD_CORE))
            self._programs[-1].wait_for(port)

    def posts(self) -> int:
        """Number of POST requests to them since the start."""
        total = 0
        for port in self.ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/bench/posts", timeout=10) as response:
                total += int(response.read())
        return total

    def pids(self) -> list[int]:
        return [pid for program in self._programs for pid in program.pids()]

    def place(self, core: int | None) -> None:
        for program in self._programs:
            proc.pin(program.pids(), core)

    def stop(self) -> None:
        for program in self._programs:
            program.stop()


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a RouterDash, and the requests at its upstreams, since their starts."""

    successful: int
    failed: int
    cancelled: int
    posts: int


def audit(before: Figures, after: Figures, responses: int, in_flight: int) -> str:
    """Return a text if the figures between two moments are wrong, else an empty text.

    Clients received `responses` complete responses, and at most `in_flight` requests were open when they disconnected.
    A complete response is recorded before its last bytes leave, so it counts as successful. A request in flight is
    successful if its response had been sent, else cancelled. No request failed. An upstream received one request for
    each success and at most one for each cancelled request.
    """
    successful, cancelled = after.successful - before.successful, after.cancelled - before.cancelled
    failed, posts = after.failed - before.failed, after.posts - before.posts
    if failed == 0 and responses <= successful <= posts <= successful + cancelled <= responses + in_flight:
        return ""
    return (
        f"{responses} responses, at most {in_flight} in flight at the end and {posts} requests at the upstreams, "
        f"but {successful} successful, {cancelled} cancelled and {failed} failed were counted"
    )


class Server:
    """A server that listens on `port` and passes requests on."""

    name = ""
    port = 0
    stream_port = 0  # port of streams, if they need another configuration
    configuration = ""
    strengths = ""
    version = ""

    def front(self) -> list[int]:
        """The processes on the path of requests."""
        return []

    def everything(self) -> list[int]:
        """All its processes."""
        return self.front()

    def settle(self) -> None:
        """Wait until it has finished all work of a run."""

    def counted(self) -> Figures | None:
        """Its own figures, if it has any."""
        return None

    def reconcile(self) -> str:
        """Return the findings of its audit, if it has one."""
        return ""

    def place(self, core: int | None) -> None:
        """Pin the processes on the path of requests to a core, or to none."""
        proc.pin(self.everything(), core)

    def stop(self) -> None: ...


class Direct(Server):
    """No proxy: the cost of load and upstream alone."""

    name = "direct"

    def __init__(self, upstreams: Upstreams) -> None:
        self.port = self.stream_port = upstreams.ports[0]


class Nginx(Server):
    name = "nginx"
    strengths = (
        "The limit: a proxy in C that knows nothing of models, keys, tokens or figures. "
        "Serves files, ends TLS and HTTP/2, and is known to everybody."
    )

    def __init__(self, directory: Path, upstreams: Upstreams, workers: int = 1) -> None:
        self.port, self.stream_port = free_port(), free_port()
        servers = " ".join(f"server 127.0.0.1:{port};" for port in upstreams.ports)
        temporary = "\n".join(
            f"  {kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        location = (
            'location / { proxy_pass http://upstreams; proxy_http_version 1.1; proxy_set_header Connection "";'
            " proxy_read_timeout 1h;"
        )
        self.configuration = f"""\
worker_processes {workers};
worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_buffer_size 512k;
  client_max_body_size 64m;
  keepalive_requests 1000000000;
  upstream upstreams {{ {servers} keepalive 1024; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{self.port} backlog=4096; {location} }} }}
  server {{ listen 127.0.0.1:{self.stream_port} backlog=4096; {location} proxy_buffering off; }} }}
}}
"""
        path = directory / "nginx.conf"
        own = f"daemon off;\npid {directory}/nginx.pid;\nerror_log {directory}/nginx.log;\n"
        own += "user root;\n" if os.getuid() == 0 else ""
        path.write_text(own + self.configuration.replace("  access_log off;", f"  access_log off;\n{temporary}"))
        command = [find("nginx") or "nginx", "-c", str(path), "-p", str(directory), "-e", f"{directory}/nginx.log"]
        self._program = Program(command, directory / "nginx.out", PROXY_CORE)
        self._program.wait_for(self.port)

    def front(self) -> list[int]:
        return self._program.pids()

    def stop(self) -> None:
        self._program.stop()


class Haproxy(Server):
    name = "HAProxy"
    strengths = (
        "The other limit: one thread, connections to the upstreams reused. Health checks, TCP, and limits of all kinds."
    )

    def __init__(self, directory: Path, upstreams: Upstreams) -> None:
        self.port = self.stream_port = free_port()
        servers = "\n".join(f"  server s{port} 127.0.0.1:{port}" for port in upstreams.ports)
        self.configuration = f"""\
global
  nbthread 1
  maxconn 9000
  tune.bufsize 32768
defaults
  mode http
  http-reuse always
  option http-no-delay
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend clients
  bind 127.0.0.1:{self.port} backlog 4096
  default_backend upstreams
backend upstreams
  balance roundrobin
{servers}
"""
        path = directory / "haproxy.cfg"
        path.write_text(self.configuration)
        self._program = Program(
            [find("haproxy") or "haproxy", "-db", "-f", str(path)], directory / "haproxy.log", PROXY_CORE
        )
        self._program.wait_for(self.port)

    def front(self) -> list[int]:
        return self._program.pids()

    def stop(self) -> None:
        self._program.stop()


class RouterDashServer(Server):
    """RouterDash as `manage.py serve` starts it, in a new data directory.

    Gateways run on the measured core, all other processes on the other one, so that control works in parallel as on
    any machine with two cores. CPU time counts for all of them.
    """

    name = "RouterDash"
    strengths = (
        "What this is about: keys and permissions, failover, every request recorded and counted exactly once, a "
        "dashboard. All settings are defaults, API keys are required; only the log is quieter, and one address may "
        "have thousands of connections. The gateway is compiled (`make compile`)."
    )

    def __init__(self, directory: Path, upstreams: Upstreams, database_url: str = "", **environment: str) -> None:
        directory.mkdir(exist_ok=True)
        if environment.get("ROUTERDASH_COMPILED") is None and compiled_gateway() is None:
            raise CannotMeasure("the gateway is not compiled; run `make compile`")
        # All the load comes from one address.
        settings = {
            "ROUTERDASH_BALANCER": ADAPTIVE,  # the default; named because it is a part of every request's cost
            "ROUTERDASH_COMPILED": COMPILED_AUTO,
            "ROUTERDASH_LOG_LEVEL": "warning",
            "ROUTERDASH_MAX_CONNECTIONS_PER_CLIENT": str(MAX_CONNECTIONS),
            **environment,
        }
        self.router = RouterDash(directory, database_url, **settings)
        self.port = self.stream_port = self.router.port
        self.configuration = "\n".join(f"{name}={value}" for name, value in settings.items())
        self._upstreams = upstreams

    def start(self) -> "RouterDashServer":
        self.router.start()
        for port in self._upstreams.ports:
            self._register(port)
        self._processes = self._find()
        self.place(PROXY_CORE)
        return self

    def _register(self, port: int) -> None:
        base_url = f"http://127.0.0.1:{port}"
        response = self.router.post("/api/endpoints", {"name": f"server {port}", "base_url": base_url})
        if response.status != 201:
            raise CannotMeasure(f"RouterDash does not take {base_url}: {response}")
        until(lambda: self.router.serves(response.json()["id"], 1), 30)

    def _find(self) -> dict[str, list[int]]:
        processes: dict[str, list[int]] = {"gateway": [], "other": []}
        for pid in self.router.pids():
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            processes["gateway" if b"gateway.main" in command else "other"].append(pid)
        return processes

    def front(self) -> list[int]:
        return self._processes["gateway"]

    def everything(self) -> list[int]:
        return self.router.pids()

    def place(self, core: int | None) -> None:
        proc.pin(self.front(), core)
        proc.pin(self._processes["other"], None if core is None else LOAD_CORE)

    def settle(self) -> None:
        """Wait until nothing is in flight and the database has every record."""
        until(lambda: not self._busy(), DRAIN_SECONDS, 0.1)

    def _busy(self) -> bool:
        stats = self.router.stats()
        return bool(stats["records_waiting"] or stats["total_active_requests"])

    def counted(self) -> Figures | None:
        stats = self.router.stats()
        return Figures(
            stats["successful_requests"],
            stats["failed_requests"],
            stats["cancelled_requests"],
            self._upstreams.posts(),
        )

    def reconcile(self) -> str:
        """Run `manage.py reconcile` while it serves."""
        done = self.router.manage("reconcile", timeout=MANAGE_SECONDS)
        return "" if done.returncode == 0 else f"reconcile: {(done.stdout + done.stderr).strip()[-1000:]}"

    def stop(self) -> None:
        if self.router.process is not None:
            self.router.stop()


class OnPostgres(RouterDashServer):
    """RouterDash with a new database in the PostgreSQL of DATABASE. The server processes of its connections count."""

    name = "RouterDash on PostgreSQL"

    def __init__(self, directory: Path, upstreams: Upstreams) -> None:
        self._database = f"routerdash_bench_{secrets.token_hex(6)}"
        try:
            self._execute(f'CREATE DATABASE "{self._database}"')
        except psycopg.Error as error:
            raise MissingHere(f"no PostgreSQL at {urlsplit(DATABASE).hostname} that could be used: {error}") from None
        super().__init__(directory, upstreams, urlunsplit(urlsplit(DATABASE)._replace(path=f"/{self._database}")))

    def everything(self) -> list[int]:
        rows = self._execute("SELECT pid FROM pg_stat_activity WHERE datname = %s", self._database)
        return [*super().everything(), *(pid for (pid,) in rows)]

    def stop(self) -> None:
        super().stop()
        self._execute(f'DROP DATABASE IF EXISTS "{self._database}" WITH (FORCE)')

    def _execute(self, sql: LiteralString, *values: str) -> list[tuple[Any, ...]]:
        with closing(psycopg.connect(DATABASE, autocommit=True, connect_timeout=5)) as connection:
            cursor = connection.execute(sql, values)
            return cursor.fetchall() if cursor.description else []


class Adopted(RouterDashServer):
    """RouterDash with an adopted database of nine indexes and 20,000 rows of history."""

    name = "RouterDash, adopted database"

    def __init__(self, directory: Path, upstreams: Upstreams) -> None:
        directory.mkdir(exist_ok=True)
        path = directory / "load balancer.db"
        make_reference(path, requests=20_000)
        super().__init__(directory, upstreams, DATABASE_URL=f"sqlite:///{path}")
        done = self.router.manage("adopt", timeout=MANAGE_SECONDS)
        if done.returncode:
            raise CannotMeasure(f"adopt: {done.stderr}")


class Watched(RouterDashServer):
    """RouterDash with 200 open dashboards."""

    name = "RouterDash, 200 dashboards open"
    dashboards = 200

    def __init__(self, directory: Path, upstreams: Upstreams, load: Load) -> None:
        super().__init__(directory, upstreams)
        self._load = load
        self._pages: Held | None = None

    def start(self) -> "RouterDashServer":
        super().start()
        _, browser = self.router.log_in("admin", PASSWORD)
        jar = next(
            handler.cookiejar
            for handler in _handlers(browser)
            if isinstance(handler, urllib.request.HTTPCookieProcessor)
        )
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)
        head = f"GET /api/dashboard/events HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nCookie: {cookies}\r\n\r\n"
        request = self._load.directory / "dashboard.http"
        request.write_text(head, newline="")
        self._pages = self._load.hold(self.port, request, self.dashboards)
        return self

    def stop(self) -> None:
        if self._pages is not None:
            self._pages.stop()
        super().stop()


def _handlers(browser: urllib.request.OpenerDirector) -> list[Any]:
    handlers: list[Any] = browser.handlers  # type: ignore[attr-defined]  # documented, and not in the stubs
    return handlers


class GatewayAlone(Server):
    """One gateway process without control, so that its journal is not read."""

    name = "gateway alone"
    program = "gateway.main"

    def __init__(self, directory: Path, upstreams: Upstreams) -> None:
        directory.mkdir(exist_ok=True)
        self._gateway = GatewayProcess(directory)
        self._gateway.program = self.program
        self._gateway.add_key(KEY)
        model = schema.Model(MODEL)
        for port in upstreams.ports:
            made = make_endpoint(f"server-{port}", model, base_url=f"http://127.0.0.1:{port}")
            self._gateway.endpoints[made.id] = made
        self._gateway.start()
        self.port = self.stream_port = self._gateway.port

    def front(self) -> list[int]:
        assert self._gateway.process is not None
        return [self._gateway.process.pid]

    def stop(self) -> None:
        self._gateway.kill()


class Unaccounted(GatewayAlone):
    """One gateway process without records."""

    name = "gateway alone, no records"
    program = "benchmarks.bench.unaccounted"

    def reconcile(self) -> str:
        """Wait until the figures are reset."""
        return "it recorded what it was to forget" if self._gateway.records() else ""
