"""A real gateway process. What control and the supervisor give to one, its tests make by hand: the sockets, the
snapshot, the live page; what it leaves, they read: its answers and its journal.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from gateway import config, journal, reasons, snapshot
from gateway.livepage import LivePage
from gateway.record import REJECTED, RequestRecord, SegmentHead
from tests.gateway.samples import make_endpoint
from tests.http import Answer, Served
from tests.router import ROOT, clean_environment, until

T = TypeVar("T")
KEY = "sk_" + "GatewayKey0" * 3
ALL = ("openai.inference", "openai.models.read")
RANKS = (snapshot.ONLINE, snapshot.PENDING, snapshot.ERROR)


class GatewayProcess(Served):
    program = "gateway.main"
    worker = 0

    def __init__(self, directory: Path, **environment: str) -> None:
        self.key = KEY
        self.environment = {"ROUTERDASH_DATA_DIR": str(directory), **environment}
        self.config = config.load(self.environment)
        self.page = LivePage(self.config.live_page_path)
        self.log_path = directory / "log"
        self.database_id = "database-1"
        self.endpoints: dict[str, snapshot.Endpoint] = {}
        self.keys: dict[str, snapshot.ApiKey] = {}
        self.add_key(KEY)
        self.process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self._positions: dict[str, journal.Position] = {}

    def start(self, *, published: bool = True) -> "GatewayProcess":
        if published:
            self.publish()
        alive, self.alive = os.pipe()
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listening, self.log_path.open("wb") as log:
            self.port = listening.getsockname()[1]
            descriptors = (listening.fileno(), alive)
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.program, "--worker", str(self.worker), "--listen", str(descriptors[0]),
                 "--alive", str(alive)],
                pass_fds=descriptors, cwd=ROOT, env=clean_environment(self.environment), stdout=log, stderr=log,
            )  # fmt: skip
        os.close(alive)
        return self

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code."""
        assert self.process is not None
        return self.process.wait(30)

    def orphan(self) -> None:
        """What the process sees when its supervisor is gone."""
        os.close(self.alive)
        self.alive = -1

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.alive != -1:
                self.orphan()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    # What control does

    def publish(self) -> None:
        version = self.page.version + 1
        keys, endpoints = tuple(self.keys.values()), tuple(self.endpoints.values())
        made = snapshot.Snapshot(
            version=version, database_id=self.database_id, endpoints=endpoints, api_keys=keys
        )  # fmt: skip
        snapshot.save(self.config.snapshot_path, made)
        self.page.version = version

    def add_key(self, secret: str, permissions: tuple[str, ...] = ALL, expires_at: float | None = None) -> str:
        key = snapshot.ApiKey(secret[3:11], hashlib.sha256(secret.encode()).hexdigest(), permissions, expires_at)
        self.keys[key.id] = key
        return secret

    def add(self, *upstreams: Any, known_as: str = "", **facts: Any) -> str:
        """Publish a model that only these upstreams have; its name. They are tried in this order."""
        name = f"model-{next(self._numbers)}"
        for status, upstream in zip(RANKS, upstreams, strict=False):
            model = snapshot.Model(known_as, name, (name,)) if known_as else snapshot.Model(name)
            made = make_endpoint("", model, status=status, base_url=upstream.url, **facts)
            self.endpoints[made.id] = made
        self.publish()
        return name

    def endpoints_of(self, model: str) -> list[snapshot.Endpoint]:
        return [it for it in self.endpoints.values() if model in (it.models[0].id, *it.models[0].aliases)]

    def in_flight(self, model: str) -> int:
        return sum(self.page.in_flight(endpoint.slot) for endpoint in self.endpoints_of(model))

    # What clients do

    def chat(self, model: str, **fields: Any) -> Answer:
        return self.post("/v1/chat/completions", {"model": model, "messages": [], **fields})

    def chat_with(self, model: str, headers: dict[str, str]) -> Answer:
        return self.post("/v1/chat/completions", {"model": model, "messages": []}, headers=headers)

    @contextmanager
    def connect(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            yield connection

    def say(self, data: bytes) -> bytes:
        """Send bytes; everything that comes until the gateway closes."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_to_end(connection)

    def head(self, line: str = "POST /v1/chat/completions", *headers: str, version: str = "1.1") -> bytes:
        """The head of a request as bytes."""
        usual = (f"Host: 127.0.0.1:{self.port}", f"Authorization: Bearer {KEY}", "Content-Type: application/json")
        return "\r\n".join((f"{line} HTTP/{version}", *usual, *headers, "", "")).encode()

    def chat_bytes(self, model: str, *headers: str, version: str = "1.1", **fields: Any) -> bytes:
        """A whole chat request as bytes."""
        body = json.dumps({"model": model, "messages": [], **fields}).encode()
        return self.head("POST /v1/chat/completions", *headers, f"Content-Length: {len(body)}", version=version) + body

    # What it leaves

    def records(self) -> list[RequestRecord]:
        """What was written to the journal since this was last asked."""
        found: list[RequestRecord] = []
        for writer in journal.writers(self.config.journal_dir):
            start = self._positions.get(writer, journal.START)
            batch = journal.read(self.config.journal_dir / writer, start, 1 << 30)
            self._positions[writer] = batch.position
            found += [entry for entry in batch.entries if isinstance(entry, RequestRecord)]
        for it in found:
            assert_nothing_is_quoted(it)
        return found

    def record(self) -> RequestRecord:
        """The one new record, which is there already."""
        (found,) = self.records()
        return found

    def record_soon(self) -> RequestRecord:
        """The one new record, of a request whose client does not see its end."""
        (found,) = until(self.records)
        return found  # type: ignore[no-any-return]

    def entries(self, kind: type[T]) -> list[T]:
        """All of this kind that the journal holds."""
        found: list[T] = []
        for writer in journal.writers(self.config.journal_dir):
            batch = journal.read(self.config.journal_dir / writer, journal.START, 1 << 30)
            found += [entry for entry in batch.entries if isinstance(entry, kind)]
        return found

    def database_ids(self) -> set[str]:
        return {entry.database_id for entry in self.entries(SegmentHead)}


def assert_nothing_is_quoted(found: RequestRecord) -> None:
    """Texts on errors are RouterDash's own. A new one has its place in gateway/reasons.py, or nobody will read it."""
    texts = [(found.outcome, found.error), *((it.outcome, it.error) for it in found.attempts)]
    for outcome, text in texts:
        assert outcome == REJECTED or reasons.shown(outcome, text, None) == text, text


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
