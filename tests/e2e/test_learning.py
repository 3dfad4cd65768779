"""What routing has learned survives a SIGKILL of everything, and the loss of the registry store, bit by bit."""

import shutil
from contextlib import closing

import pytest

from benchmarks.simulator import Simulator
from gateway.registry import folders
from gateway.registry.schema import LENGTHS, SPEEDS
from gateway.registry.store import RegistryStore
from tests.conftest import Install
from tests.router import RouterDash, until

pytestmark = pytest.mark.timeout(180)

REQUESTS = 12  # fewer than a slow start, in which each completion is published


@pytest.fixture
def router(begin: Install) -> RouterDash:
    made = begin()
    made.environment["ROUTERDASH_BALANCER"] = "adaptive"
    return made.start()


def learned(router: RouterDash) -> dict[bytes, bytes]:
    """Return the rows that gateways have."""
    root = router.data_dir / "registry"
    store = RegistryStore(folders.folder(root, folders.current(root)))
    with closing(store), store.reading():
        return dict([*store.raw_rows(SPEEDS, b""), *store.raw_rows(LENGTHS, b"")])


def completions(router: RouterDash) -> int:
    speeds = [SPEEDS.unpack(raw) for key, raw in learned(router).items() if b"chat_completions" in key]
    return sum(it.completions for it in speeds)


def test_a_killed_routerdash_has_learned_the_same_bits(router: RouterDash, sim: Simulator) -> None:
    for _ in range(2):
        router.add(sim.add(models=["tiny"]))
    for at in range(REQUESTS):
        assert router.chat(stream=at % 2 == 0).status == 200
    until(lambda: completions(router) == REQUESTS, 20)
    before = learned(router)
    assert len(before) >= 3
    router.kill()
    router.start()
    assert learned(router) == before
    router.kill()
    shutil.rmtree(router.data_dir / "registry")
    router.start()
    until(lambda: learned(router) == before, 20)
    assert router.manage("reconcile").stdout == "all figures agree\n"
