"""Deadlines of clients' connections, by a fake clock."""

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.http.deadlines import (
    KEEP_ALIVE_SECONDS,
    MAX_BODY_SECONDS,
    MAX_STREAMED_SECONDS,
    RECEIVE_SECONDS,
    SEND_SECONDS,
    SLOW_SECONDS,
    SLOWEST,
    Deadlines,
)
from gateway.http.exchange import BodyReader
from gateway.http.expiry import expire
from gateway.http.paced_reading import BUFFER_SPACE, PACE
from gateway.ipc.bound_hits import Hits


class Connection:
    """A connection as the check of its deadlines uses it. The last bytes were received at second 0."""

    def __init__(
        self, running: Any = None, *, in_head: bool = False, paused: bool = False, reasons: int = 0, unsent: float = 0
    ) -> None:
        self.running = running
        self.requests = SimpleNamespace(in_head=in_head)
        self.deadlines = Deadlines(0.0)
        self.deadlines.paused_since = float(paused)
        self.reading = SimpleNamespace(reasons=reasons)
        self.reservations = SimpleNamespace(
            share=None, waiting=None, has_unsent=False, charge_unsent=lambda unsent, running: None
        )
        self.gateway = SimpleNamespace(bound_hits=Hits())
        self.unsent = unsent
        self.steps: list[bytes] = []
        self.transport = SimpleNamespace(
            get_write_buffer_size=lambda: self.unsent, abort=lambda: self.steps.append(b"aborted")
        )
        self.writes = SimpleNamespace(
            write=lambda transport, data: self.steps.append(data.split(b"\r\n")[0][9:]),
            loop=SimpleNamespace(call_soon=lambda function, *arguments: function(*arguments)),
        )

    def close(self) -> None:
        self.steps.append(b"closed")

    def expire(self, now: float, *, stopping: bool = False) -> None:
        expire(self, now, stopping=stopping)  # type: ignore[arg-type]


BODY_MISSING = SimpleNamespace(received=False, started=False, reader=None, body_bytes=0)
RUNNING = SimpleNamespace(received=True, started=False, reader=None, body_bytes=0)
STREAMING = SimpleNamespace(received=False, started=True, reader=BodyReader(), body_bytes=9)
REFUSED = SimpleNamespace(received=False, started=True, reader=None, body_bytes=9)


@pytest.mark.parametrize(
    ("fields", "seconds", "stopping", "expected"),
    [
        ({}, KEEP_ALIVE_SECONDS - 1, False, []),
        ({}, KEEP_ALIVE_SECONDS + 1, False, [b"closed"]),
        ({}, 2, True, [b"closed"]),
        ({"in_head": True}, RECEIVE_SECONDS + 1, False, [b"408 Request Timeout", b"closed"]),
        ({"in_head": True}, RECEIVE_SECONDS - 1, False, []),
        ({"running": BODY_MISSING}, SLOW_SECONDS - 1, False, []),
        ({"running": BODY_MISSING}, SLOW_SECONDS + 1, False, [b"408 Request Timeout", b"closed"]),
        ({"running": BODY_MISSING}, 2, True, [b"408 Request Timeout", b"closed"]),
        ({"running": BODY_MISSING, "paused": True}, 1e6, False, []),
        ({"running": BODY_MISSING, "reasons": BUFFER_SPACE}, 1e6, False, []),
        ({"running": BODY_MISSING, "reasons": PACE}, 1e6, False, []),
        ({"running": STREAMING}, SLOW_SECONDS + 1, False, [b"closed"]),
        ({"running": REFUSED}, 1e6, False, []),
        ({"running": RUNNING}, 1e6, False, []),
        ({"running": RUNNING}, 1e6, True, []),
    ],
)
def test_timeouts_of_a_quiet_connection(fields, seconds, stopping, expected):
    connection = Connection(**fields)
    connection.expire(float(seconds), stopping=stopping)
    assert connection.steps == expected


TIMED_OUT = [b"408 Request Timeout", b"closed"]


class Receiving:
    """A connection that receives a body at the speed that a test sets. It is checked twice a second by a fake clock."""

    def __init__(self, **fields: Any) -> None:
        self.now = 0.0
        self.request = SimpleNamespace(**{**vars(BODY_MISSING), **fields})
        self.connection = Connection(running=self.request)

    def run(self, seconds: float, bytes_a_second: float) -> list[bytes]:
        """Receive bytes for some seconds. Return the steps that the check has taken."""
        until = self.now + seconds
        while self.now < until and not self.connection.steps:
            self.now += 0.5
            if bytes_a_second:
                self.request.body_bytes += bytes_a_second / 2
                self.connection.deadlines.quiet_since = self.now
            self.connection.expire(self.now)
        return self.connection.steps


@pytest.mark.parametrize(("seconds", "expected"), [(RECEIVE_SECONDS - 1, []), (RECEIVE_SECONDS + 1, TIMED_OUT)])
def test_timeout_of_a_header_block_that_is_received_byte_by_byte(seconds, expected):
    connection = Connection(in_head=True)
    connection.deadlines.quiet_since = float(seconds)
    connection.expire(float(seconds))
    assert connection.steps == expected


def test_a_body_of_a_kilobyte_a_second_is_received():
    assert Receiving().run(MAX_BODY_SECONDS - 1, SLOWEST + 1) == []


def test_a_body_that_is_received_byte_by_byte_times_out():
    receiving = Receiving()
    assert receiving.run(SLOW_SECONDS - 1, 1) == []
    assert receiving.run(2, 1) == TIMED_OUT


def test_a_burst_at_the_beginning_does_not_extend_the_deadline_by_hours():
    receiving = Receiving()
    assert receiving.run(1, 7_900_000) == []
    assert receiving.run(SLOW_SECONDS - 2, 1) == []
    assert receiving.run(4, 1) == TIMED_OUT


def test_a_slow_part_of_a_fast_body_is_forgiven_for_less_than_the_window():
    receiving = Receiving()
    for _ in range(5):
        assert receiving.run(2, 100 * SLOWEST) == []
        assert receiving.run(SLOW_SECONDS - 5, 0) == []


@pytest.mark.parametrize(("streams", "most"), [(False, MAX_BODY_SECONDS), (True, MAX_STREAMED_SECONDS)])
def test_a_body_has_an_absolute_limit_of_time(streams, most):
    receiving = Receiving(reader=BodyReader() if streams else None)
    assert receiving.run(most - 1, 2 * SLOWEST) == []
    assert receiving.run(2, 2 * SLOWEST) == TIMED_OUT


def test_back_pressure_of_an_endpoint_does_not_time_out_the_client():
    receiving = Receiving(reader=BodyReader(), started=True)
    receiving.run(1, 2 * SLOWEST)
    receiving.connection.deadlines.paused_since = 1.0
    assert receiving.run(1000, 0) == []


def test_a_client_that_reads_nothing_is_disconnected():
    connection = Connection(running=RUNNING, unsent=100)
    connection.expire(10.0)
    connection.expire(10.0 + SEND_SECONDS)
    assert connection.steps == []
    connection.expire(11.0 + SEND_SECONDS)
    assert connection.steps == [b"aborted"]


class Reading:
    """A connection whose client reads the waiting bytes at the speed that a test sets."""

    def __init__(self, waiting: int) -> None:
        self.now = 0.0
        self.connection = Connection(running=RUNNING, unsent=waiting)

    def run(self, seconds: float, bytes_a_second: float) -> list[bytes]:
        until = self.now + seconds
        while self.now < until and not self.connection.steps:
            self.now += 0.5
            self.connection.unsent -= bytes_a_second / 2
            self.connection.expire(self.now)
        return self.connection.steps


def test_a_client_that_reads_a_kilobyte_a_second_stays_connected():
    assert Reading(1 << 20).run(5 * SEND_SECONDS, 1.1 * SLOWEST) == []


def test_a_slow_client_that_reads_a_byte_a_second_is_disconnected():
    reading = Reading(1 << 15)
    assert reading.run(SEND_SECONDS - 1, 1) == []
    assert reading.run(2, 1) == [b"aborted"]


def test_new_responses_do_not_extend_the_deadline_of_a_slow_client():
    reading = Reading(100)
    assert reading.run(SEND_SECONDS + 1, -1) == [b"aborted"]
