"""A connection to each gateway process: /proc shows which process accepted it."""

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.scale.installation import gateways
from tests.http import Response
from tests.router import KEY, RouterDash

TRIES = 8  # connections opened at once, before gateways that have one already are stopped
ESTABLISHED = "01"  # a connection in /proc/net/tcp


def accepting_process(connection: socket.socket, processes: list[int]) -> int | None:
    """Return which of the processes accepted a connection of ours; None if none has."""
    inode = _inode(connection.getpeername()[1], connection.getsockname()[1])
    return next((pid for pid in processes if f"socket:[{inode}]" in _open_files(pid)), None)


def _inode(server_port: int, client_port: int) -> str:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_, inode = line.split()[:10]
        ports = (int(local.rpartition(":")[2], 16), int(remote.rpartition(":")[2], 16))
        if ports == (server_port, client_port) and state == ESTABLISHED:
            return inode
    return ""


def _open_files(pid: int) -> set[str]:
    open_files = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                open_files.add(os.readlink(f"/proc/{pid}/fd/{name}"))
            except OSError:
                pass  # closed in the meantime
    except OSError:
        pass  # the process has exited
    return open_files


class GatewayConnections:
    """One connection to each gateway of an installation, opened again if it was closed."""

    def __init__(self, router: RouterDash) -> None:
        self._router = router
        self._connections: dict[int, http.client.HTTPConnection] = {}
        self.pids = gateways(router)
        self.connect()

    def connect(self) -> None:
        """Find the running gateways, and connect to those without a connection."""
        self.pids = gateways(self._router)
        for gone in self._connections.keys() - set(self.pids):
            self._connections.pop(gone).close()
        while missing := set(self.pids) - self._connections.keys():
            reached = [pid for pid in self.pids if pid not in missing]
            with _stopped(reached if len(reached) > 0 else []):
                self._open(TRIES if not reached else 1)

    def _open(self, number: int) -> None:
        opened = [http.client.HTTPConnection("127.0.0.1", self._router.port, timeout=60) for _ in range(number)]
        for connection in opened:
            connection.connect()
        for connection in opened:
            connection.request("GET", "/v1/models/none", headers={"Authorization": f"Bearer {KEY}"})
        for connection in opened:
            connection.getresponse().read()
            pid = accepting_process(connection.sock, self.pids)
            if pid is None or pid in self._connections:
                connection.close()
            else:
                self._connections[pid] = connection

    def ask(self, pid: int, method: str, path: str, body: object = None, key: str = KEY) -> Response:
        """Send a request to one gateway process."""
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        encoded = None if body is None else json.dumps(body)
        for again in (True, False):
            if pid not in self._connections:
                self.connect()
            connection = self._connections[pid]
            try:
                connection.request(method, path, encoded, headers)
                response = connection.getresponse()
                fields = {name.lower(): value for name, value in response.getheaders()}
                answer = Response(response.status, fields, response.read())
            except (OSError, http.client.HTTPException):  # closed because it was idle, or by a full error response
                self._connections.pop(pid).close()
                if not again:
                    raise
            else:
                if response.will_close:
                    self._connections.pop(pid).close()
                return answer
        raise AssertionError("unreachable")

    def chat(self, pid: int, model: str, key: str = KEY) -> Response:
        return self.ask(pid, "POST", "/v1/chat/completions", {"model": model, "messages": []}, key)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    """Stop processes for a moment, so that another one accepts the next connection."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def seconds_until_everywhere(
    connections: GatewayConnections, seen: Callable[[int], bool], started: float, seconds: float = 60.0
) -> float:
    """Return the seconds from `started` (time.perf_counter) until `seen(pid)` was true at each gateway."""
    missing = list(connections.pids)
    while missing:
        if seen(missing[0]):
            missing.pop(0)
        elif time.perf_counter() - started > seconds:
            raise TimeoutError(f"not in effect at {len(missing)} gateways after {seconds} s")
        else:
            time.sleep(0.001)
    return time.perf_counter() - started


def answer_of(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return start, duration (both in seconds of time.perf_counter) and result of a call."""
    started = time.perf_counter()
    result = call()
    return started, time.perf_counter() - started, result
