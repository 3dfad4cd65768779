"""A real gateway process.

Tests create the sockets, the registry store and the live page instead of the supervisor and control. They read
responses and the journal.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from gateway.base import config
from gateway.ipc import error_texts, journal
from gateway.ipc.record import REJECTED, RequestRecord, SegmentHead
from gateway.registry import schema
from gateway.registry.limits import KEY_LEVEL, LimitFacts
from gateway.registry.writer import Changes
from tests.gateway.publishing import PublishedRegistry
from tests.gateway.samples import make_endpoint
from tests.http import Response, Served
from tests.router import MEASURED, ROOT, clean_environment, until

T = TypeVar("T")
KEY = "sk_" + "GatewayKey0" * 3
ALL = ("openai.inference", "openai.models.read")
GATEWAY = Path(os.environ.get("TEST_COMPILED", ROOT))  # the folder of the package
RANKS = (schema.ONLINE, schema.PENDING, schema.ERROR)


class GatewayProcess(Served):
    program = "gateway.main"
    worker = 0

    def __init__(self, directory: Path, **environment: str) -> None:
        self.key = KEY
        self.environment = {"ROUTERDASH_DATA_DIR": str(directory), **environment}
        self.config = config.load(self.environment)
        self.registry = PublishedRegistry(self.config)
        self.page = self.registry.page
        self.log_path = directory / "log"
        self.database_id = "database-1"
        self.endpoints: dict[str, schema.PublishedEndpoint] = {}
        self.keys: dict[str, schema.PublishedKey] = {}
        self.add_key(KEY, external=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.ollama_port = 0
        self._numbers = count(1)
        self._positions: dict[str, journal.Position] = {}

    def start(self, *, published: bool = True, ollama: bool = False) -> "GatewayProcess":
        """Start the process; with `ollama`, it serves Ollama's own API at `ollama_port`."""
        if published:
            self.publish()
        alive, self.alive = os.pipe()
        with ExitStack() as opened:
            listening = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
            log = opened.enter_context(self.log_path.open("wb"))
            self.port = listening.getsockname()[1]
            descriptors, more = [listening.fileno(), alive], []
            if ollama:
                second = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
                self.ollama_port = second.getsockname()[1]
                descriptors.append(second.fileno())
                more = ["--ollama", str(second.fileno())]
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.program, "--worker", str(self.worker), "--listen", str(descriptors[0]),
                 "--alive", str(alive), *more],
                pass_fds=descriptors, cwd=GATEWAY, env=clean_environment(self.environment), stdout=log, stderr=log,
            )  # fmt: skip
        os.close(alive)
        return self

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        assert self.process is not None
        return self.process.wait(30)

    def orphan(self) -> None:
        """Close the pipe of the supervisor, as the kernel does when the supervisor exits."""
        os.close(self.alive)
        self.alive = -1

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.alive != -1:
                self.orphan()

    def end(self) -> None:
        """Kill it. Under coverage stop it first, as a killed process writes no coverage data."""
        if MEASURED and self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        self.kill()
        self.registry.close()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    # Actions of control

    def publish(self) -> None:
        self.registry.publish(self.endpoints.values(), self.keys.values(), self.database_id)

    def apply(self, changes: Changes) -> None:
        """Publish these changes, and wait until all processes follow them."""
        self.registry.writer.apply(changes)
        self.wait_until_followed()

    def wait_until_followed(self) -> None:
        """Wait until all processes follow what is published. A process without a connection looks once a second."""
        version = self.page.version
        with self.connect():
            until(lambda: not self.page.behind(version))

    def add_key(
        self,
        secret: str,
        permissions: tuple[str, ...] = ALL,
        expires_at: float | None = None,
        *,
        external: bool = False,
        owner_id: str = "",
    ) -> str:
        digest = hashlib.sha256(secret.encode()).hexdigest()
        key = schema.PublishedKey(secret[3:11], digest, permissions, expires_at, owner_id, external)
        self.keys[key.id] = key
        return secret

    def limit(self, level: str = KEY_LEVEL, subject_id: str = KEY[3:11], **limits: Any) -> None:
        """Publish the limits of an API key, a user or everyone (""), and wait until all processes follow them."""
        facts = LimitFacts(**limits) if limits else None
        self.apply(Changes(limits={(level, subject_id): facts}))

    def add(self, *upstreams: Any, known_as: str = "", **facts: Any) -> str:
        """Publish a model that only these upstreams have, and return its name. They are tried in this order."""
        name = f"model-{next(self._numbers)}"
        for status, upstream in zip(RANKS, upstreams, strict=False):
            model = schema.Model(known_as, name, (name,)) if known_as else schema.Model(name)
            made = make_endpoint("", model, status=status, base_url=upstream.url, **facts)
            self.endpoints[made.id] = made
        self.publish()
        return name

    def endpoints_of(self, model: str) -> list[schema.PublishedEndpoint]:
        return [
            endpoint
            for endpoint in self.endpoints.values()
            if model in (endpoint.models[0].id, *endpoint.models[0].aliases)
        ]

    def in_flight(self, model: str) -> int:
        return sum(self.page.in_flight(endpoint.slot) for endpoint in self.endpoints_of(model))

    # Actions of clients

    def chat(self, model: str, **fields: Any) -> Response:
        return self.post("/v1/chat/completions", {"model": model, "messages": [], **fields})

    def chat_with(self, model: str, headers: dict[str, str]) -> Response:
        return self.post("/v1/chat/completions", {"model": model, "messages": []}, headers=headers)

    @contextmanager
    def connect(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            yield connection

    def send(self, data: bytes) -> bytes:
        """Send bytes, and return all received bytes until the gateway closes the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_to_end(connection)

    def head(self, line: str = "POST /v1/chat/completions", *headers: str, version: str = "1.1") -> bytes:
        """The header block of a request as bytes."""
        usual = (f"Host: 127.0.0.1:{self.port}", f"Authorization: Bearer {KEY}", "Content-Type: application/json")
        return "\r\n".join((f"{line} HTTP/{version}", *usual, *headers, "", "")).encode()

    def chat_bytes(self, model: str, *headers: str, version: str = "1.1", **fields: Any) -> bytes:
        """A complete chat request as bytes."""
        body = json.dumps({"model": model, "messages": [], **fields}).encode()
        return self.head("POST /v1/chat/completions", *headers, f"Content-Length: {len(body)}", version=version) + body

    # Records

    def records(self) -> list[RequestRecord]:
        """Records that were written to the journal since the previous call."""
        records: list[RequestRecord] = []
        for writer in journal.writers(self.config.journal_dir):
            start = self._positions.get(writer, journal.START)
            batch = journal.read(self.config.journal_dir / writer, start, 1 << 30)
            self._positions[writer] = batch.position
            records += [entry for entry in batch.entries if isinstance(entry, RequestRecord)]
        for record in records:
            assert_no_quoted_text(record)
        return records

    def record(self) -> RequestRecord:
        """The one new record, which must be in the journal already."""
        (record,) = self.records()
        return record

    def record_soon(self) -> RequestRecord:
        """Wait for the one new record, of a request whose client does not see its end."""
        (record,) = until(self.records)
        return record  # type: ignore[no-any-return]

    def entries(self, kind: type[T]) -> list[T]:
        """All entries of this type in the journal."""
        entries: list[T] = []
        for writer in journal.writers(self.config.journal_dir):
            batch = journal.read(self.config.journal_dir / writer, journal.START, 1 << 30)
            entries += [entry for entry in batch.entries if isinstance(entry, kind)]
        return entries

    def database_ids(self) -> set[str]:
        return {entry.database_id for entry in self.entries(SegmentHead)}


def assert_no_quoted_text(record: RequestRecord) -> None:
    """Check that error texts are RouterDash's own. A new one must be listed in gateway/base/causes.py."""
    texts = [(record.outcome, record.error), *((attempt.outcome, attempt.error) for attempt in record.attempts)]
    for outcome, text in texts:
        assert outcome == REJECTED or error_texts.shown(outcome, text, None) == text, text


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while data := connection.recv(1 << 16):
        received += data
    return received


def read_until(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        data = connection.recv(1 << 16)
        assert data, received
        received += data
    return received
