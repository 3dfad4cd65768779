"""A thousand misbehaving connections of one address, and well-behaved clients of other addresses beside them.

A whole RouterDash runs with a simulated endpoint. A separate process on the other core makes the load.
"""

import json
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.simulator import Simulator
from tests.conftest import Install
from tests.hostile.measured import MAX_MEMORY_MB, Bystander, LoopIterations, max_iteration_ms, memory_mb, preloaded
from tests.router import KEY, ROOT, RouterDash, until

pytestmark = pytest.mark.one_database

MAX_DELAY_MS = 50.0
CHAT = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Say hello."}]}).encode()


@dataclass
class Scene:
    """A running RouterDash and the measurements of its processes."""

    router: RouterDash
    gateway: int  # process ids
    control: int
    iterations: LoopIterations  # of the gateway

    def memory(self) -> dict[str, float]:
        """Highest resident memory so far, in MiB."""
        return {name: memory_mb(pid, "VmHWM") for name, pid in (("gateway", self.gateway), ("control", self.control))}


@pytest.fixture
def scene(begin: Install, sim: Simulator, tmp_path: Path, iterations_library: Path) -> Scene:
    directory = tmp_path / "iterations"
    directory.mkdir()
    router = begin(**preloaded(iterations_library, directory)).start()
    router.add(sim.add())
    gateway, control = router.pid_of("gateway.main"), router.pid_of("control")
    if len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(gateway, {min(os.sched_getaffinity(0))})
    return Scene(router, gateway, control, LoopIterations(directory, gateway))


def attack(port: int, connections: int, seconds: float, *, key: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.hostile.anything", "--port", str(port), "--connections", str(connections),
               "--seconds", str(seconds), "--key", key]  # fmt: skip
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(started.pid, {max(os.sched_getaffinity(0))})
    os.setpriority(os.PRIO_PROCESS, started.pid, 10)  # clients and the endpoint share its core and have priority
    return started


def test_an_attack_from_one_address_delays_other_clients_little(scene: Scene, full: bool) -> None:
    router = scene.router
    seconds = 60.0 if full else 5.0
    servers = (scene.gateway, _simulator_thread())
    good = [
        Bystander(router.port, KEY, address="127.0.0.3", servers=servers[:1]),
        Bystander(router.port, KEY, path="/v1/chat/completions", body=CHAT, address="127.0.0.4", servers=servers),
    ]
    key = _another_key(router)
    with ExitStack() as stack:
        for client in good:
            stack.enter_context(client.running())
        _wait_for(good, 100)
        quiet = [client.p99_ms() for client in good]
        for client in good:
            client.clear()
        scene.iterations.clear()
        load = attack(router.port, 1000 if full else 200, seconds, key=key)
        ways, _ = load.communicate(timeout=seconds + 60)
        under_attack = [client.p99_ms() for client in good]
    memory = scene.memory()
    print(json.dumps({
        "ways": json.loads(ways), "quiet p99 ms": quiet, "p99 ms": under_attack,
        "responses": [len(client.statuses) for client in good],
        "memory MiB": memory, "longest iteration ms": scene.iterations.longest_ms, "iterations": scene.iterations.count,
    }))  # fmt: skip
    for client in good:
        client.assert_served()
    assert memory["gateway"] <= MAX_MEMORY_MB
    assert memory["control"] <= MAX_MEMORY_MB
    assert scene.iterations.longest_ms <= max_iteration_ms()
    if full:  # the short form has too few responses for a percentile
        assert all(busy <= still + MAX_DELAY_MS for busy, still in zip(under_attack, quiet, strict=True))


def _simulator_thread() -> int:
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "simulator")
    assert thread.native_id is not None
    return thread.native_id


def _another_key(router: RouterDash) -> str:
    """Create an API key of another user with inference permissions only."""
    program = (
        "from access.models import ApiKey, User\n"
        "owner = User.objects.create_user('mallory', 'a long enough password', 'viewer')\n"
        "print(ApiKey.issue(owner, 'attacker', ['openai.inference', 'openai.models.read'])[1])"
    )
    made = router.manage("shell", "-v", "0", "-c", program)
    key = made.stdout.strip().splitlines()[-1]
    until(lambda: router.get("/v1/models", key=key).status == 200)
    return key


def _wait_for(clients: list[Bystander], responses: int) -> None:

    until(lambda: all(len(client.statuses) >= responses for client in clients), 60)
