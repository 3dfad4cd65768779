"""The load programs: they are compiled or found, run pinned to a core, and their output is parsed."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent
MODEL = "bench-model"
LOAD_CORE = 1
PROXY_CORE = 0

# Program -> the Debian package that has it.
NEEDED = {"cc": "gcc", "taskset": "util-linux", "wrk": "wrk", "nginx": "nginx-light", "haproxy": "haproxy"}


class CannotMeasure(Exception):
    """The benchmark cannot run. The text is one line."""


def check() -> None:
    """Return the path of a program. Raises CannotMeasure with the missing package."""
    missing = [package for program, package in NEEDED.items() if find(program) is None]
    if missing:
        raise CannotMeasure(f"make bench needs more programs; on Debian: apt-get install {' '.join(missing)}")
    if (os.cpu_count() or 1) < 2:
        raise CannotMeasure("make bench needs two cores: one for what is measured, one for the load")


def find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def version(*command: str) -> str:
    """The first line of a program's version output."""
    path = find(command[0]) or command[0]
    done = subprocess.run([path, *command[1:]], capture_output=True, text=True, timeout=60)  # noqa: S603
    return (done.stdout + done.stderr).strip().partition("\n")[0]


class MissingHere(CannotMeasure):
    """One server cannot be measured on this machine; the others can."""


@dataclass(frozen=True, slots=True)
class Plain:
    """Results of wrk."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    wrong: int  # responses other than 2xx and 3xx, broken connections, timeouts


@dataclass(frozen=True, slots=True)
class Streams:
    """Results of `load`, times in µs. `wrong` counts incomplete streams."""

    whole: int
    wrong: int
    events: int
    started: int
    seconds: float
    duration_p50_us: float
    duration_p99_us: float
    first_p50_us: float
    gap_p99_us: float
    errors: str


class Load:
    """Compiled programs and request files in a separate directory."""

    def __init__(self, directory: Path, key: str) -> None:
        self.directory = directory
        self.key = key
        for name in ("upstream", "load"):
            command = ["cc", "-O2", "-o", str(directory / name), str(SOURCES / f"{name}.c")]
            done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
            if done.returncode:
                raise CannotMeasure(f"{name}.c cannot be compiled: {done.stderr}")

    def body(self, name: str, size: int, *, stream: bool = False, options: str = "") -> Path:
        """A chat request of about `size` bytes whose `options` set the response (see upstream.c)."""
        return self.file(name, chat_body(size, stream=stream, options=options))

    def file(self, name: str, body: bytes) -> Path:
        """A file with this body."""
        path = self.directory / f"{name}.json"
        path.write_bytes(body)
        return path

    def request(self, port: int, body: Path) -> Path:
        """The same as bytes on the wire."""
        content = body.read_bytes()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        path = body.with_suffix(".http")
        path.write_bytes(head.encode() + content)
        return path

    # Each run of these takes about `seconds`.

    def plain(self, port: int, body: Path, connections: int, seconds: float, *, core: int | None = LOAD_CORE) -> Plain:
        """Closed loop: every connection sends its next request after the response."""
        command = [
            "wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s",
            "--timeout", "60s", "--script", str(SOURCES / "chat.lua"),
            f"http://127.0.0.1:{port}/v1/chat/completions",
        ]  # fmt: skip
        environment = {**os.environ, "BENCH_BODY": str(body), "BENCH_KEY": self.key}
        return parse_wrk(self._run(command, core, seconds, environment))

    def streams(self, port: int, body: Path, connections: int, seconds: float, events: int) -> Streams:
        """Closed loop of streams."""
        request = self.request(port, body)
        command = [str(self.directory / "load"), "streams", str(port), str(request), str(connections), str(seconds)]
        return parse_load(self._run([*command, str(events)], LOAD_CORE, seconds))

    def rate(self, port: int, body: Path, rate: float, seconds: float) -> Streams:
        """Open loop: `rate` requests a second, independent of responses."""
        command = [str(self.directory / "load"), "rate", str(port), str(self.request(port, body)), str(rate)]
        return parse_load(self._run([*command, str(seconds)], LOAD_CORE, seconds))

    def hold(self, port: int, request: Path, connections: int, seconds: float = 60) -> "Held":
        """Open a number of streams until they are stopped. Raises CannotMeasure if they do not all open in time."""
        command = [str(self.directory / "load"), "hold", str(port), str(request), str(connections), str(seconds)]
        return Held(pinned(command, LOAD_CORE), connections)

    def _run(self, command: list[str], core: int | None, seconds: float, environment: Any = None) -> str:
        done = subprocess.run(  # noqa: S603
            pinned(command, core), env=environment, capture_output=True, text=True, timeout=seconds + 120
        )
        if done.returncode:
            raise CannotMeasure(f"{command[0]} failed: {done.stderr or done.stdout}")
        return done.stdout


class Held:
    """Streams that are open."""

    def __init__(self, command: list[str], connections: int) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        streams = parse_load(self._process.stdout.readline().decode())
        if streams.started < connections:
            self.stop()
            raise CannotMeasure(f"only {streams.started} of {connections} streams began ({streams.errors})")

    def stop(self) -> None:
        self._process.communicate(timeout=60)


def pinned(command: list[str], core: int | None) -> list[str]:
    """None: on any core."""
    cores = f"0-{(os.cpu_count() or 1) - 1}" if core is None else str(core)
    return ["taskset", "--cpu-list", cores, *command]


def chat_body(size: int, *, stream: bool = False, options: str = "") -> bytes:
    """A chat request like those of clients: a system prompt, and messages up to `size` bytes."""
    first = f"#bench {options}#" if options else "You are a helpful assistant."
    turn = "Tell me of the capital of France, its river, its railways and what a visitor should not miss there. "
    messages = [{"role": "system", "content": first}]
    body = {"model": MODEL, "messages": messages, "temperature": 0.7, "max_tokens": 256, "stream": stream}
    room = size - len(encode(body))
    while room > 40:
        piece = min(10_000, room)
        content = (turn * (piece // len(turn) + 1))[: max(1, piece - 31)]
        messages.append({"role": "user", "content": content})
        room = size - len(encode(body))
    return encode(body)


def encode(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def parse_wrk(text: str) -> Plain:
    """Parse the last line of wrk's output with chat.lua."""
    figures = json.loads(text.strip().rpartition("\n")[2])
    wrong = figures["refused"] + figures["broken"] + figures["timeouts"]
    return Plain(figures["requests"], figures["seconds"], figures["p50_us"], figures["p99_us"], wrong)


def parse_load(text: str) -> Streams:
    figures = json.loads(text)
    wrong = {name: figures[name] for name in ("miscounted", "unfinished", "refused", "broken") if figures[name]}
    return Streams(
        whole=figures["whole"],
        wrong=sum(wrong.values()),
        events=figures["events"],
        started=figures["started"],
        seconds=figures["seconds"],
        duration_p50_us=figures["duration_us"]["p50"],
        duration_p99_us=figures["duration_us"]["p99"],
        first_p50_us=figures["first_us"]["p50"],
        gap_p99_us=figures["gap_us"]["p99"],
        errors=", ".join(f"{number} {name}" for name, number in wrong.items()),
    )
