"""What is measured: each with a port, the processes whose CPU time counts, and its configuration to show."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.bench import proc
from benchmarks.bench.tools import LOAD_CORE, MODEL, PROXY_CORE, CannotMeasure, find, pinned
from benchmarks.process import free_port
from tests.router import KEY, RouterDash, until

START_SECONDS = 90.0
STOP_SECONDS = 20.0
DRAIN_SECONDS = 120.0


class Program:
    """One process of ours in a session of its own: Ctrl-C reaches the bench alone, which stops all in order."""

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

    def wait_for(self, port: int, path: str = "/v1/models") -> None:
        """Until it answers with 200. Raises CannotMeasure."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError, urllib.error.URLError):
                asked = urllib.request.Request(
                    f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {KEY}"}
                )
                with urllib.request.urlopen(asked, timeout=5):  # noqa: S310
                    return
            time.sleep(0.05)
        self.stop()
        raise CannotMeasure(f"{self.log.stem} did not start: {self.log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """SIGTERM to it, then SIGKILL to whatever of its tree is left."""
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
        """POSTs that they have been sent since the start."""
        total = 0
        for port in self.ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/bench/posts", timeout=10) as answer:
                total += int(answer.read())
        return total

    def stop(self) -> None:
        for program in self._programs:
            program.stop()


class Server:
    """Something that listens on `port` and passes requests on."""

    name = ""
    port = 0
    stream_port = 0  # where streams are asked for; the same unless it needs another configuration for them
    configuration = ""
    strengths = ""
    version = ""

    def front(self) -> list[int]:
        """The processes that clients' bytes go through."""
        return []

    def everything(self) -> list[int]:
        """All its processes."""
        return self.front()

    def settle(self) -> None:
        """Return when it has done all the work that a run has left it."""

    def counted(self) -> Any:
        """Its own figures before a run, for `audit`."""

    def audit(self, before: Any, answered: int, connections: int, wrong: list[str]) -> None:
        """Compare its figures with what clients saw; add to `wrong` what is not as it must be."""

    def place(self, core: int | None) -> None:
        """Pin what clients' bytes go through to a core, or leave it to the kernel."""
        proc.pin(self.everything(), core)

    def stop(self) -> None: ...


class Direct(Server):
    """No proxy at all: what the load and the upstream cost by themselves."""

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


class Ours(Server):
    """RouterDash as `manage.py serve` starts it, in a data directory of its own.

    Gateways on the core of what is measured, everything else of it on the other: there control works while gateways
    go on, as on any machine with two cores. All of it is counted.
    """

    name = "RouterDash"

    def __init__(self, directory: Path, upstreams: Upstreams, database_url: str = "", **environment: str) -> None:
        directory.mkdir(exist_ok=True)
        settings = {"ROUTERDASH_LOG_LEVEL": "warning", **environment}
        self.router = RouterDash(directory, database_url, **settings)
        self.port = self.stream_port = self.router.port
        self._upstreams = upstreams

    def start(self) -> "Ours":
        self.router.start()
        for port in self._upstreams.ports:
            self._register(port)
        self._processes = self._find()
        return self

    def _register(self, port: int) -> None:
        base_url = f"http://127.0.0.1:{port}"
        answer = self.router.post("/api/endpoints", {"name": f"server {port}", "base_url": base_url})
        if answer.status != 201:
            raise CannotMeasure(f"RouterDash does not take {base_url}: {answer}")
        until(lambda: self.router.serves(answer.json()["id"], 1), 30)

    def _find(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {"gateway": [], "other": []}
        for pid in self.router.pids():
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            found["gateway" if b"gateway.main" in command else "other"].append(pid)
        return found

    def front(self) -> list[int]:
        return self._processes["gateway"]

    def everything(self) -> list[int]:
        return self.router.pids()

    def place(self, core: int | None) -> None:
        proc.pin(self.front(), core)
        proc.pin(self._processes["other"], None if core is None else LOAD_CORE)

    def settle(self) -> None:
        """Until nothing is in flight and the database has every record."""
        until(lambda: not self._busy(), DRAIN_SECONDS, 0.1)

    def _busy(self) -> bool:
        stats = self.router.stats()
        return bool(stats["records_waiting"] or stats["total_active_requests"])

    def stop(self) -> None:
        if self.router.process is not None:
            self.router.stop()


Maker = Callable[[Path, Upstreams], Server]
