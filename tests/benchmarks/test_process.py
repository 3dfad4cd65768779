"""Ports for programs that are started from a program."""

import socket
from contextlib import closing

from benchmarks.process import free_port


def test_a_port_that_somebody_has_is_passed_over() -> None:
    port = free_port()
    with closing(socket.create_server(("127.0.0.1", port + 1))):
        assert free_port() != port + 1


def test_no_port_is_found_twice() -> None:
    assert len({free_port() for _ in range(50)}) == 50
