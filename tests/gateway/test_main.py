"""The life of a gateway process: start, stop and kill."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from benchmarks.idle import wake_ups
from gateway import main
from gateway.http.expiry import expire
from gateway.ipc import journal
from gateway.ipc.record import Unrecorded
from gateway.server import Server, server_config
from tests.gateway.inside import inside
from tests.gateway.process import read_to_end, read_until
from tests.gateway.scripted import DONE, opening, stream, upstream
from tests.router import ROOT, until

ROWS = b"HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\ntransfer-encoding: chunked\r\n\r\n4\r\nrows\r\n"


@pytest.mark.unmeasured
def test_a_gateway_loads_nothing_of_django():
    program = "import sys, gateway.main; print(*{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(run.stdout.split()) & {"django", "rest_framework", "django_q", "aiohttp", "click", "cryptography"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_process(make_gateway, number):
    process = make_gateway().start()
    with process.connect() as kept:
        kept.sendall(process.head("GET /v1/models"))
        read_until(kept, b"}")
        process.signal(number)
        assert process.wait() == 0
        assert kept.recv(1) == b""


def test_a_stop_lets_a_stream_finish(make_gateway, sim):
    process = make_gateway().start()
    simulated = sim.add(tokens=20, tokens_per_second=40)
    with process.connect() as connection:
        connection.sendall(process.chat_bytes(process.add(simulated), stream=True))
        beginning = read_until(connection, b"\n\n\r\n")
        process.signal(signal.SIGTERM)
        received = beginning + read_to_end(connection)
    assert received.endswith(DONE + b"\r\n0\r\n\r\n")
    assert received.count(b'"finish_reason": null') == 1 + 20
    assert process.wait() == 0
    assert process.record().outcome == "ok"


def test_a_stop_accepts_no_connection_and_closes_each_after_its_next_response(make_gateway, sim):
    process = make_gateway().start(ollama=True)
    simulated = sim.add(tokens=20, tokens_per_second=40)
    model = process.add(simulated)
    with process.connect() as connection:
        connection.sendall(process.chat_bytes(model, stream=True))
        read_until(connection, b"\n\n\r\n")
        process.signal(signal.SIGTERM)
        until(lambda: refuses(process.port) and refuses(process.ollama_port))
        # They come after a stream whose header block did not have `connection: close`.
        connection.sendall(2 * process.chat_bytes(model))
        received = read_to_end(connection)
    assert (received.count(b"HTTP/1.1 200 OK"), received.count(b"connection: close")) == (1, 1)
    assert process.wait() == 0
    assert len(process.records()) == 2


def test_a_resting_process_knows_the_present_state_at_its_first_request(make_gateway, sim):
    """It looks once a second while no client is connected, but its first request finds nothing outdated."""
    process = make_gateway().start()
    first, second = sim.add(), sim.add()
    model = process.add(first, second)
    assert process.chat(model).status == 200
    assert (first.seen.started, second.seen.started) == (1, 0)
    until(lambda: rests(process))
    with closing_row(process.page) as other:
        other.set_trial_due(process.endpoints_of(model)[0].slot, int(time.time()) + 60)
        assert process.chat(model).status == 200
    assert (first.seen.started, second.seen.started) == (1, 1)


def rests(process):
    before = wake_ups(process.process.pid)
    time.sleep(0.5)
    return wake_ups(process.process.pid) - before < 6  # 20 a second otherwise


@contextmanager
def closing_row(page):
    row = page.claim_row()
    yield row
    row.release()


def refuses(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize(
    "stop",
    [
        lambda kept: kept.shutdown(),
        lambda kept: expire(kept, 1e9, stopping=False),
    ],
    ids=["the stop", "the end of its time"],
)
def test_an_unread_request_is_served_at_a_stop(config, stop):
    with inside(config, nothing_streamed) as gateway, gateway.connect() as connection:
        (kept,) = until(lambda: gateway.connections)
        gateway.in_loop(lambda: (connection.send(gateway.head("Content-Length: 0", "Connection: close")), stop(kept)))
        assert read_to_end(connection).startswith(b"HTTP/1.1 204 ")


async def nothing_streamed(exchange):
    exchange.reply(204, (), b"")


class Greeting(asyncio.Protocol):
    def __init__(self, **_):
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"connected")
        transport.close()


def test_a_connection_in_the_backlog_is_served_at_a_stop(config):
    async def stop_before_it_is_accepted():
        listen = socket.create_server(("127.0.0.1", 0))
        listen.setblocking(False)
        server = Server(server_config(config, Greeting, None, 1))
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup([listen])
        with socket.create_connection(listen.getsockname()) as client:
            await server.shutdown([listen])
            return read_to_end(client)

    assert uvloop.run(stop_before_it_is_accepted()) == b"connected"


def test_the_server_ticks_at_whole_seconds_until_it_is_stopped(config, monkeypatch):
    async def run():
        server = Server(server_config(config, Greeting, None, 1))
        server.config.load()
        slept = []

        async def sleep(seconds):
            slept.append(seconds)
            server.stop()

        monkeypatch.setattr(server._ticks, "sleep", sleep)
        monkeypatch.setattr("gateway.loop.rest.time", SimpleNamespace(monotonic=lambda: 1000.75))
        await server.main_loop()
        return slept

    assert uvloop.run(run()) == [0.25]


def test_a_stop_ends_the_pause_of_the_server(config):
    async def run():
        server = Server(server_config(config, Greeting, None, 1))
        server.config.load()
        running = asyncio.create_task(server.main_loop())
        await asyncio.sleep(0)
        server.stop()
        for _ in range(3):
            await asyncio.sleep(0)
        return running.done()

    assert uvloop.run(run())


class Synced:
    """A journal with a file, and calls of fdatasync that may fail."""

    def __init__(self, tmp_path, monkeypatch):
        self.journal = journal.Writer(tmp_path / "journal", "db")
        self.journal.open()
        self.calls = 0
        self.error: Exception | None = None
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def run(self):
        services: Any = self
        return main._sync_journal(services)

    def _sync(self, descriptor):
        assert os.fstat(descriptor).st_size > 0
        self.calls += 1
        if self.error is not None:
            raise self.error


def test_a_journal_without_news_is_not_synced(tmp_path, monkeypatch):
    synced = Synced(tmp_path, monkeypatch)
    for _ in range(3):
        uvloop.run(synced.run())
    assert synced.calls == 1
    synced.journal.append(Unrecorded(1))
    uvloop.run(synced.run())
    assert synced.calls == 2
    synced.journal.close()


def test_a_sync_that_failed_is_repeated(tmp_path, monkeypatch):
    synced = Synced(tmp_path, monkeypatch)
    synced.error = OSError("no space")
    with pytest.raises(OSError, match="no space"):
        uvloop.run(synced.run())
    synced.error = None
    uvloop.run(synced.run())
    uvloop.run(synced.run())
    assert synced.calls == 2
    synced.journal.close()


def test_requests_over_the_drain_limit_are_cancelled_and_recorded(make_gateway, sim):
    process = make_gateway(ROUTERDASH_DRAIN_SECS="1", ROUTERDASH_JOURNAL_FSYNC_SECS="0.01").start()
    simulated = sim.add(fault="hang")
    with process.connect() as connection:
        connection.sendall(process.chat_bytes(process.add(simulated)))
        until(lambda: simulated.seen.running == 1)
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    record = process.record()
    assert (record.outcome, record.error) == ("cancelled", "RouterDash was stopped")
    until(lambda: simulated.seen.cancelled == 1)


def test_open_event_streams_do_not_delay_a_stop(make_gateway):
    process = make_gateway(ROUTERDASH_DRAIN_SECS="3600").start()
    process.config.control_socket.parent.mkdir(exist_ok=True)
    with (
        upstream(opening(stream(b"data: 1\n\n", end=False)), process.config.control_socket),
        process.connect() as connection,
    ):
        connection.sendall(process.head("GET /events"))
        read_until(connection, b"data: 1\n\n\r\n")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


def test_a_stop_starts_no_event_stream_and_lets_a_download_finish(make_gateway):
    process = make_gateway(ROUTERDASH_DRAIN_SECS="3600").start()
    process.config.control_socket.parent.mkdir(exist_ok=True)
    stopped = threading.Event()

    def control(talk):
        if b"/export" in talk.request():
            talk.send(ROWS)
            stopped.wait(30)
            talk.send(b"0\r\n\r\n")
        else:
            talk.send(stream(b"data: 1\n\n", end=False))

    with upstream(control, process.config.control_socket), process.connect() as page, process.connect() as download:
        download.sendall(process.head("GET /export"))
        read_until(download, b"rows\r\n")
        process.signal(signal.SIGTERM)
        until(lambda: refuses(process.port))
        page.sendall(process.head("GET /events"))
        assert read_to_end(page) == b""
        stopped.set()
        assert read_to_end(download) == b"0\r\n\r\n"
        assert process.wait() == 0


def test_a_process_ends_with_its_supervisor(make_gateway):
    process = make_gateway().start()
    assert process.get("/v1/models").status == 200
    process.orphan()
    assert process.wait() == 0


def test_a_clean_exit_leaves_an_empty_row_and_an_unlocked_journal(make_gateway, sim):
    process = make_gateway().start()
    model = process.add(sim.add())
    process.chat(model)
    directory = process.config.journal_dir / journal.writers(process.config.journal_dir)[0]
    assert journal.lock(directory) is None
    process.signal(signal.SIGTERM)
    process.wait()
    descriptor = journal.lock(directory)
    assert descriptor is not None
    os.close(descriptor)
    assert process.in_flight(model) == 0


def test_a_killed_process_leaves_its_records_and_its_successor_uses_a_new_journal(make_gateway, sim):
    process = make_gateway().start()
    hanging, model = process.add(sim.add(fault="hang")), process.add(sim.add())
    with process.connect() as connection:
        connection.sendall(process.chat_bytes(hanging))
        until(lambda: process.in_flight(hanging) == 1)
        assert process.chat(model).status == 200
        process.kill()
    assert process.record().model == model
    assert process.in_flight(hanging) == 1  # until the supervisor, or a successor, clears its row
    process.start(published=False)
    assert process.chat(model).status == 200
    assert (process.in_flight(hanging), process.record().model) == (0, model)
    assert len(journal.writers(process.config.journal_dir)) == 2
