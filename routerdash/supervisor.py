"""The supervisor: opens the sockets, starts the processes, restarts what dies, and stops all in the right order.

Children are new processes (exec, not fork) in sessions of their own, so that Ctrl-C in a terminal reaches the
supervisor alone. Each inherits a pipe that closes when the supervisor is gone, however it went, and then stops.
"""

import contextlib
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec

from gateway.config import INSTALLED, Config, ConfigError, for_a_child
from gateway.livepage import MAX_WORKERS, LivePage
from routerdash.prepare import CannotStart

log = logging.getLogger(__name__)

RESTART_SECONDS = 0.2
MAX_RESTART_SECONDS = 10.0
SETTLED_SECONDS = 3.0  # lived so long: no crash loop, and started again at once
CONTROL_STOP_SECONDS = 8.0
BACKGROUND_STOP_SECONDS = 4.0

# What a process needs of the secrets stands in its environment, which root and its own user can read in /proc.
SECRETS = {
    "gateway": ("ROUTERDASH_ENCRYPTION_KEYS",),
    "control": (
        "DATABASE_URL",
        "ROUTERDASH_ENCRYPTION_KEYS",
        "OPENAI_API_KEY",  # shown as present or not, as the next two
        "ANTHROPIC_API_KEY",
        "GOOGLE_API_KEY",
    ),
    "background": ("DATABASE_URL", "ROUTERDASH_ENCRYPTION_KEYS"),
}
# Control makes the first people where the database was away at the start.
FIRST_PEOPLE = ("admin_password", "bootstrap_api_key")


@dataclass(slots=True)
class Child:
    """One process that is kept alive."""

    name: str
    command: list[str]
    directory: str
    descriptors: tuple[int, ...]
    role: str = ""
    told: bytes = field(default=b"", repr=False)  # on its standard input: what no environment should show
    died: Callable[[], None] = lambda: None
    process: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0.0
    backoff: float = RESTART_SECONDS
    start_at: float = 0.0

    def start(self, environment: dict[str, str]) -> None:
        environment = {**environment, "ROUTERDASH_ROLE": self.role}
        self.process = subprocess.Popen(  # noqa: S603
            self.command,
            pass_fds=self.descriptors,
            env=environment,
            cwd=self.directory,
            start_new_session=True,
            stdin=subprocess.PIPE if self.told else subprocess.DEVNULL,
        )
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self.process.stdin as pipe:
                pipe.write(self.told)
        self.started_at = time.monotonic()
        log.debug("started %s, process %d", self.name, self.process.pid)

    def signal(self, number: int) -> None:
        """To the process alone: django-q2 hangs when its whole group gets SIGTERM."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill_group(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Supervisor:
    """Runs until SIGTERM or SIGINT."""

    def __init__(self, config: Config, directory: str) -> None:
        """Takes the data directory and the sockets. Raises CannotStart when one of them is somebody else's."""
        self.config = config
        self._directory = directory
        self._stop = threading.Event()
        self._first = os.getpid() == 1
        self._held = _hold(config)
        self._public = _listen(config)
        self._control = _listen_for_control(config)
        self._alive, self._ours = os.pipe()
        page = LivePage(config.live_page_path)
        for worker in range(MAX_WORKERS):  # all processes of before were killed at once, perhaps, and were more
            page.clear(worker)
        self._children = self._plan(page)

    def run(self) -> int:
        """The exit code, after SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        for child in self._children:
            self._start(child)
        log.info("RouterDash is at %s", _url(self.config))
        if self.config.plain_http:
            log.warning(
                "%s is reached from other machines by plain HTTP: passwords and API keys go over the network in the "
                "clear. Set ROUTERDASH_TLS_CERTIFICATE, or ROUTERDASH_PUBLIC_URL if a TLS proxy stands in front",
                self.config.host,
            )
        try:
            while not self._stop.wait(0.05):
                self._look_after()
        finally:
            clean = self._end()
        return 0 if clean else 1

    def close(self) -> None:
        self._public.close()
        self._control.close()
        for descriptor in (self._ours, self._alive, self._held):
            os.close(descriptor)

    def _plan(self, page: LivePage) -> list[Child]:
        public, control, alive = self._public.fileno(), self._control.fileno(), self._alive
        script = ["-m", "routerdash"] if INSTALLED else [os.path.join(self._directory, "manage.py")]
        manage = [sys.executable, *script]
        gateway = [sys.executable, "-m", "gateway.main", "--listen", str(public), "--alive", str(alive)]
        children = [
            Child(
                "control",
                [*manage, "control", "--listen", str(control), "--alive", str(alive)],
                self._directory,
                (control, alive),
                role="control",
                told=msgspec.json.encode({name: getattr(self.config, name) for name in FIRST_PEOPLE}),
            )
        ]
        for worker in range(self.config.workers):
            child = Child(
                f"gateway-{worker}",
                [*gateway, "--worker", str(worker)],
                self._directory,
                (public, alive),
                role="gateway",
                died=partial(page.clear, worker),
            )
            children.append(child)
        background = [*manage, "background", "--alive", str(alive)]
        children.append(Child("background", background, self._directory, (alive,), role="background"))
        return children

    # While running

    def _look_after(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._bury(child, now)
            if child.process is None and now >= child.start_at:
                self._start(child)
        if self._first:
            self._reap()

    def _reap(self) -> None:
        """Of a container's first process, all that lost its parent are children; without this, they stay zombies."""
        ours = {child.process.pid for child in self._children if child.process is not None}
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid in ours:  # its code is asked for in the next round
                    break
                os.waitpid(ended.si_pid, os.WNOHANG)

    def _start(self, child: Child) -> None:
        """A fork that fails, for want of memory or process ids, is tried again: what runs goes on meanwhile."""
        try:
            child.start(for_a_child(os.environ, self.config, SECRETS.get(child.role, ())))
        except OSError as error:
            child.backoff = min(MAX_RESTART_SECONDS, child.backoff * 2)
            child.start_at = time.monotonic() + child.backoff
            log.error("%s cannot be started (%s); it is tried again in %g s", child.name, error, child.backoff)

    def _bury(self, child: Child, now: float) -> None:
        assert child.process is not None
        code = child.process.returncode
        child.kill_group()  # what it forked must not go on without it
        child.died()
        settled = now - child.started_at > SETTLED_SECONDS
        child.backoff = RESTART_SECONDS if settled else min(MAX_RESTART_SECONDS, child.backoff * 2)
        child.start_at = now + (0.0 if settled else child.backoff)
        child.process = None
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        log.warning("%s ended by itself (%s); it is started again", child.name, how)

    # The end

    def _end(self) -> bool:
        """Gateways first, then control folds and writes what they left. True if nothing had to be killed."""
        log.info("stopping: open requests get %d s to finish", self.config.drain_secs)
        self._public.close()
        gateways = [child for child in self._children if child.role == "gateway"]
        others = {child.role: child for child in self._children}
        for child in (*gateways, others["background"]):
            child.signal(signal.SIGTERM)
        clean = self._wait(gateways, self.config.drain_secs + 3.0)
        others["control"].signal(signal.SIGTERM)
        clean = self._wait([others["control"]], CONTROL_STOP_SECONDS) and clean
        self._wait([others["background"]], BACKGROUND_STOP_SECONDS)
        return clean

    def _wait(self, children: list[Child], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        clean = True
        for child in children:
            if child.process is None:
                continue
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("%s did not stop in time and is killed", child.name)
                clean = False
            child.kill_group()
            child.process.wait()
        return clean


def _hold(config: Config) -> int:
    """One supervisor for a data directory."""
    descriptor = os.open(config.data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise CannotStart(
            f"another RouterDash runs on {config.data_dir}; stop it, or set ROUTERDASH_DATA_DIR"
        ) from None
    return descriptor


def _listen(config: Config) -> socket.socket:
    try:
        config.tls()  # whether the certificate can be used is found out here, once, and not by each process
    except ConfigError as error:
        raise CannotStart(str(error)) from None
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        both = config.host == "::" and socket.has_dualstack_ipv6()
        listening = socket.create_server((config.host, config.port), family=family, backlog=2048, dualstack_ipv6=both)
    except OSError as error:
        raise CannotStart(
            f"{config.host} port {config.port} cannot be used ({error.strerror or error}); "
            "stop what listens there, or set ROUTERDASH_HOST and ROUTERDASH_PORT"
        ) from None
    listening.setblocking(False)
    return listening


def _listen_for_control(config: Config) -> socket.socket:
    """The socket outlives control, so that pages wait for its return instead of failing."""
    path = config.control_socket
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.parent.stat().st_uid != os.getuid():
        raise CannotStart(f"{path.parent} belongs to another user")
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    os.chmod(path, 0o600)
    listening.listen(512)
    listening.setblocking(False)
    return listening


def _url(config: Config) -> str:
    if config.public_url:
        return f"{config.public_url}/"
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.host, config.host)  # noqa: S104
    return f"{config.scheme}://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{config.port}/"
