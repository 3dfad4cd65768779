"""A thousand connections of one address that send anything, and clients of another address beside them.

The whole RouterDash runs, with a simulated endpoint. The load comes from a process of its own on the other core.
"""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.simulator import Simulator
from tests.conftest import Install
from tests.hostile.measured import MOST_TURN_MS, Bystander, Turns, memory_mb, preloaded
from tests.router import KEY, ROOT, RouterDash, until

pytestmark = pytest.mark.one_database

MOST_MEMORY_MB = 512.0
MOST_DELAY_MS = 50.0
CHAT = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Say hello."}]}).encode()


@dataclass
class Scene:
    """A running RouterDash, and what it costs."""

    router: RouterDash
    gateway: int  # process ids
    control: int
    turns: Turns  # of the gateway

    def memory(self) -> dict[str, float]:
        """The most resident memory so far, in MiB."""
        return {name: memory_mb(pid, "VmHWM") for name, pid in (("gateway", self.gateway), ("control", self.control))}


@pytest.fixture
def scene(begin: Install, sim: Simulator, tmp_path: Path, turns_library: Path) -> Scene:
    directory = tmp_path / "turns"
    directory.mkdir()
    router = begin(**preloaded(turns_library, directory)).start()
    router.add(sim.add())
    gateway, control = router.pid_of("gateway.main"), router.pid_of("control")
    if len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(gateway, {min(os.sched_getaffinity(0))})
    return Scene(router, gateway, control, Turns(directory, gateway))


def attack(port: int, connections: int, seconds: float, *, key: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.hostile.anything", "--port", str(port), "--connections", str(connections),
               "--seconds", str(seconds), "--key", key]  # fmt: skip
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(started.pid, {max(os.sched_getaffinity(0))})
    os.setpriority(os.PRIO_PROCESS, started.pid, 10)  # clients and the endpoint, which share its core, go first
    return started


def test_a_crowd_of_one_address_costs_the_others_little(scene: Scene, full: bool) -> None:
    router = scene.router
    seconds = 60.0 if full else 5.0
    good = [
        Bystander(router.port, KEY, address="127.0.0.3"),
        Bystander(router.port, KEY, path="/v1/chat/completions", body=CHAT, address="127.0.0.4"),
    ]
    key = _another_key(router)
    with ExitStack() as stack:
        for client in good:
            stack.enter_context(client.asking())
        _wait_for(good, 100)
        quiet = [client.p99_ms() for client in good]
        for client in good:
            client.clear()
        scene.turns.clear()
        load = attack(router.port, 1000 if full else 200, seconds, key=key)
        ways, _ = load.communicate(timeout=seconds + 60)
        found = [client.p99_ms() for client in good]
    memory = scene.memory()
    print(json.dumps({
        "ways": json.loads(ways), "quiet p99 ms": quiet, "p99 ms": found, "answers": [len(it.statuses) for it in good],
        "memory MiB": memory, "longest turn ms": scene.turns.longest_ms, "turns": scene.turns.count,
    }))  # fmt: skip
    for client in good:
        client.assert_served()
    assert memory["gateway"] <= MOST_MEMORY_MB
    assert memory["control"] <= MOST_MEMORY_MB
    assert scene.turns.longest_ms <= MOST_TURN_MS
    if full:  # what the clock says is asked on a quiet machine alone
        assert all(busy <= still + MOST_DELAY_MS for busy, still in zip(found, quiet, strict=True))


def _another_key(router: RouterDash) -> str:
    """An API key of somebody else that may ask for inference alone."""
    program = (
        "from access.models import ApiKey, User\n"
        "owner = User.objects.create_user('mallory', 'a long enough password', 'viewer')\n"
        "print(ApiKey.issue(owner, 'attacker', ['openai.inference', 'openai.models.read'])[1])"
    )
    made = router.manage("shell", "-v", "0", "-c", program)
    key = made.stdout.strip().splitlines()[-1]
    until(lambda: router.get("/v1/models", key=key).status == 200)
    return key


def _wait_for(clients: list[Bystander], answers: int) -> None:

    until(lambda: all(len(it.statuses) >= answers for it in clients), 60)
