"""Supervisor: opens the sockets, starts the processes, restarts those that end, and stops all in the right order.

It does not import Django, which it would keep in memory for good: control prepares the database before anything else
starts. Children are new processes (exec, not fork) in separate sessions, so that Ctrl-C in a terminal reaches the
supervisor alone. Each child inherits a pipe that closes when the supervisor ends for any reason; then the child stops.
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
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from gateway.base.config import COMPILED_AUTO, Config, ConfigError, for_a_child
from gateway.base.setting_parsers import INSTALLED
from gateway.ipc.live_page import LivePage
from gateway.providers.table import PROVIDERS
from routerdash.processes.compiled import compiled_control, compiled_gateway
from routerdash.processes.data_directory import CannotStart
from routerdash.processes.signals import SignalPipe

log = logging.getLogger(__name__)

RESTART_SECONDS = 0.2
MAX_RESTART_SECONDS = 10.0
SETTLED_SECONDS = 3.0  # a process that ran longer is no crash loop: it is restarted at once
CONTROL_STOP_SECONDS = 8.0
BACKGROUND_STOP_SECONDS = 4.0
FAULTS = (1, -signal.SIGSEGV, -signal.SIGILL, -signal.SIGBUS, -signal.SIGABRT)  # exit codes of code that cannot run
CANNOT_START = 2  # exit code of control after it has reported the reason

# Each process receives only the secrets it needs: root and the user of the process can read its environment in /proc.
SECRETS = {
    "gateway": ("ROUTERDASH_ENCRYPTION_KEYS", "ROUTERDASH_UPSTREAM_PROXY"),
    "control": (
        "DATABASE_URL",
        "ROUTERDASH_ENCRYPTION_KEYS",
        "ROUTERDASH_UPSTREAM_PROXY",
        "OPENAI_API_KEY",  # pages show only its presence, as for the next two
        "ANTHROPIC_API_KEY",
        "GOOGLE_API_KEY",
    ),
    "background": ("DATABASE_URL", "ROUTERDASH_ENCRYPTION_KEYS", "ROUTERDASH_UPSTREAM_PROXY"),
}
# Control creates the first users and the endpoints of clouds if the database was unavailable at the start.
FIRST_USER_SETTINGS = (
    "admin_password",
    "bootstrap_api_key",
    *(name.lower() for provider in PROVIDERS.values() for name in provider.env_keys),
)


@dataclass(slots=True)
class Child:
    """Process that the supervisor restarts when it ends."""

    name: str
    command: list[str]
    directory: str
    descriptors: tuple[int, ...]
    role: str = ""
    standard_input: bytes = field(default=b"", repr=False)  # secrets that no environment should show
    died: Callable[[], None] = lambda: None
    python_path: str = ""  # where it finds compiled packages
    in_python: tuple[list[str], str] | None = None  # command and directory without them
    prepared: int | None = None  # descriptor of the first start: the child prepares the database, then writes a byte
    process: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0.0
    backoff: float = RESTART_SECONDS
    start_at: float = 0.0

    def start(self, environment: dict[str, str]) -> None:
        environment = {**environment, "ROUTERDASH_ROLE": self.role}
        if self.python_path:
            paths = (self.python_path, environment.get("PYTHONPATH", ""))
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        first = [] if self.prepared is None else ["--prepared", str(self.prepared)]
        self.process = subprocess.Popen(  # noqa: S603
            [*self.command, *first],
            pass_fds=self.descriptors if self.prepared is None else (*self.descriptors, self.prepared),
            env=environment,
            cwd=self.directory,
            start_new_session=True,
            stdin=subprocess.PIPE if self.standard_input else subprocess.DEVNULL,
        )
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self.process.stdin as pipe:
                pipe.write(self.standard_input)
        self.started_at = time.monotonic()
        log.debug("started %s, process %d", self.name, self.process.pid)

    def settled(self, now: float) -> bool:
        return now - self.started_at > SETTLED_SECONDS

    def fall_back(self, code: int, now: float) -> bool:
        """Let it run in Python from now on if its compiled code seems not to run here. Return True if so."""
        if self.in_python is None or self.settled(now) or code not in FAULTS:
            return False
        (self.command, self.directory), self.in_python, self.python_path = self.in_python, None, ""
        log.error("the compiled %s does not run; it runs in Python from now on", self.name)
        return True

    def signal(self, number: int) -> None:
        """Signal the process alone: django-q2 hangs if its whole process group receives SIGTERM."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill_group(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Supervisor:
    """Supervisor of all processes, which runs until SIGTERM or SIGINT."""

    def __init__(self, config: Config, directory: str) -> None:
        """Lock the data directory and open the sockets. Raises CannotStart if one of them is in use."""
        self.config = config
        self._directory = directory
        may_be_compiled = config.compiled == COMPILED_AUTO
        self._compiled_gateway = compiled_gateway() if may_be_compiled else None
        self._compiled_control = compiled_control() if may_be_compiled else None
        self._stop = threading.Event()
        self._first = os.getpid() == 1
        self._held = _hold(config)
        page = _live_page(config)
        page.clear_dead_rows()  # of workers that were killed with their supervisor; others still drain
        self._public, self._ollama = _listen_for_clients(config)
        self._control = _listen_for_control(config)
        self._alive, self._keep_alive_end = os.pipe()
        self._children = self._plan(page)

    def run(self) -> int:
        """Run until SIGTERM or SIGINT. Return the exit code."""
        with SignalPipe(self._stop.set) as signals:
            code = self._prepare(next(child for child in self._children if child.role == "control"), signals)
            if code is not None:
                return code
            try:
                if not self._stop.is_set():
                    self._announce()
                while not self._stop.is_set():
                    self._check_children()
                    signals.wait(_until_next_start(self._children))
            finally:
                clean = self._end()
        return 0 if clean else 1

    def _prepare(self, control: Child, signals: SignalPipe) -> int | None:
        """Start control, and wait until it has prepared the database. Return the exit code if it could not."""
        prepared, control.prepared = os.pipe()
        try:
            while not self._stop.is_set():
                if control.process is None:
                    self._start(control)
                if signals.wait(_until_next_start([control]), [prepared]) and os.read(prepared, 1):
                    return None
                if control.process is not None and (code := control.process.poll()) is not None:
                    if control.fall_back(code, time.monotonic()):
                        control.process = None
                        continue
                    if code != CANNOT_START:
                        log.error("control could not prepare the database (%s)", _exit_status(code))
                    return max(1, code)
        finally:
            os.close(prepared)
            os.close(control.prepared)
            control.prepared = None
        return None

    def _announce(self) -> None:
        log.info("RouterDash is at %s", _url(self.config))
        if self.config.ollama_port:
            log.info("Ollama's API is at port %d", self.config.ollama_port)
        if self._compiled_gateway is not None:
            log.info("gateways run compiled code")
        if self.config.plain_http:
            log.warning(
                "%s is reachable from other machines by plain HTTP: passwords and API keys are sent over the network "
                "unencrypted. Set ROUTERDASH_TLS_CERTIFICATE, or ROUTERDASH_PUBLIC_URL if a TLS proxy stands in front",
                self.config.host,
            )

    def close(self) -> None:
        self._close_public()
        self._control.close()
        for descriptor in (self._keep_alive_end, self._alive, self._held):
            os.close(descriptor)

    def _close_public(self) -> None:
        self._public.close()
        if self._ollama is not None:
            self._ollama.close()

    def _plan(self, page: LivePage) -> list[Child]:
        public, control, alive = self._public.fileno(), self._control.fileno(), self._alive
        script = ["-m", "routerdash"] if INSTALLED else [os.path.join(self._directory, "manage.py")]
        manage = [sys.executable, *script]
        gateway = [sys.executable, "-m", "gateway.main", "--listen", str(public), "--alive", str(alive)]
        inherited: tuple[int, ...] = (public, alive)
        if self._ollama is not None:
            gateway += ["--ollama", str(self._ollama.fileno())]
            inherited += (self._ollama.fileno(),)
        arguments = ["control", "--listen", str(control), "--alive", str(alive)]
        command, python_path, in_python = [*manage, *arguments], "", None
        if self._compiled_control is not None:
            in_python = (command, self._directory)
            # -P: else the folder of the script, which has the package in Python, would come before all others.
            command = [sys.executable, "-P", *script, *arguments]
            python_path = os.pathsep.join((str(self._compiled_control), self._directory))
        children = [
            Child(
                "control",
                command,
                self._directory,
                (control, alive),
                role="control",
                standard_input=msgspec.json.encode({name: getattr(self.config, name) for name in FIRST_USER_SETTINGS}),
                python_path=python_path,
                in_python=in_python,
            )
        ]
        for worker in range(self.config.workers):
            command = [*gateway, "--worker", str(worker)]
            child = Child(
                f"gateway-{worker}",
                command,
                self._directory if self._compiled_gateway is None else str(self._compiled_gateway),
                inherited,
                in_python=None if self._compiled_gateway is None else (command, self._directory),
                role="gateway",
                died=page.clear_dead_rows,
            )
            children.append(child)
        background = [*manage, "background", "--alive", str(alive)]
        children.append(Child("background", background, self._directory, (alive,), role="background"))
        return children

    # While running

    def _check_children(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._clean_up(child, now)
            if child.process is None and now >= child.start_at:
                self._start(child)
        if self._first:
            self._reap()

    def _reap(self) -> None:
        """Reap orphaned processes, which become children of a container's first process; else they stay zombies."""
        own = {child.process.pid for child in self._children if child.process is not None}
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid in own:  # the next round reads its exit code
                    break
                os.waitpid(ended.si_pid, os.WNOHANG)

    def _start(self, child: Child) -> None:
        """Start a child. A fork that fails for lack of memory or process ids is retried; running children continue."""
        try:
            child.start(for_a_child(os.environ, self.config, SECRETS.get(child.role, ())))
        except OSError as error:
            child.backoff = min(MAX_RESTART_SECONDS, child.backoff * 2)
            child.start_at = time.monotonic() + child.backoff
            log.error("%s cannot be started (%s); the next attempt follows in %g s", child.name, error, child.backoff)

    def _clean_up(self, child: Child, now: float) -> None:
        assert child.process is not None
        code = child.process.returncode
        child.kill_group()  # its forked processes must not outlive it
        child.died()
        settled = child.settled(now)
        child.backoff = RESTART_SECONDS if settled else min(MAX_RESTART_SECONDS, child.backoff * 2)
        child.start_at = now + (0.0 if settled else child.backoff)
        child.process = None
        log.warning("%s exited unexpectedly (%s); it is restarted", child.name, _exit_status(code))
        child.fall_back(code, now)

    # The end

    def _end(self) -> bool:
        """Stop the gateways first; then control folds and writes their last records.

        Return True if no process had to be killed.
        """
        log.info("stopping: open requests may take up to %d s to finish", self.config.drain_secs)
        self._close_public()
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
                log.warning("%s did not stop in time; it is killed", child.name)
                clean = False
            child.kill_group()
            child.process.wait()
        return clean


def _until_next_start(children: Iterable[Child]) -> float | None:
    """Return the seconds until a child is to be started; None if all run."""
    due = [child.start_at for child in children if child.process is None]
    return max(0.0, min(due) - time.monotonic()) if due else None


def _exit_status(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"code {code}"


def _hold(config: Config) -> int:
    """Lock the data directory for one supervisor. Raises CannotStart if another one holds the lock."""
    descriptor = os.open(config.data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise CannotStart(
            f"another RouterDash runs on {config.data_dir}; stop it, or set ROUTERDASH_DATA_DIR"
        ) from None
    return descriptor


def _live_page(config: Config) -> LivePage:
    """Open the live page, which all processes map. Raises CannotStart if the disk has no room for it."""
    try:
        (config.data_dir / "live").unlink(missing_ok=True)  # with the layout of earlier releases
        return LivePage(config.live_page_path)
    except OSError as error:
        raise CannotStart(
            f"{config.live_page_path} cannot be allocated ({error.strerror or error}); make room on its disk"
        ) from None


def _listen_for_clients(config: Config) -> tuple[socket.socket, socket.socket | None]:
    """Open the port of RouterDash, and that of Ollama's own API if it has one. Raises CannotStart."""
    public = _listen(config, config.port)
    if not config.ollama_port:
        return public, None
    try:
        return public, _listen(config, config.ollama_port, "ROUTERDASH_OLLAMA_PORT")
    except CannotStart:
        public.close()
        raise


def _check_certificate(config: Config) -> None:
    """Check the certificate once, instead of in each process. Raises ConfigError."""
    if config.tls_certificate is not None:
        from gateway.certificate import tls_context  # ssl takes 2 MiB

        tls_context(config)


def _listen(config: Config, port: int, setting: str = "ROUTERDASH_PORT") -> socket.socket:
    try:
        _check_certificate(config)
    except ConfigError as error:
        raise CannotStart(str(error)) from None
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        both = config.host == "::" and socket.has_dualstack_ipv6()
        listening = socket.create_server((config.host, port), family=family, backlog=2048, dualstack_ipv6=both)
    except OSError as error:
        raise CannotStart(
            f"{config.host} port {port} cannot be used ({error.strerror or error}); "
            f"stop the program that listens there, or set ROUTERDASH_HOST and {setting}"
        ) from None
    listening.setblocking(False)
    return listening


def _listen_for_control(config: Config) -> socket.socket:
    """Open the Unix socket of control. It outlives control, so that pages wait for a restart instead of failing.

    Raises CannotStart if its directory belongs to another user.
    """
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
