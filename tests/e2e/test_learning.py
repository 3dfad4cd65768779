"""What routing has learned survives a SIGKILL of everything, and the loss of the registry store, bit by bit."""

import shutil

import pytest

from benchmarks.simulator import Simulator
from tests.conftest import Install
from tests.router import RouterDash, learned_rows, published_completions, until

pytestmark = [pytest.mark.every_database, pytest.mark.timeout(180)]

REQUESTS = 12  # fewer than a slow start, in which each completion is published


@pytest.fixture
def router(begin: Install) -> RouterDash:
    made = begin()
    made.environment["ROUTERDASH_BALANCER"] = "adaptive"
    return made.start()


def test_a_killed_routerdash_has_learned_the_same_bits(router: RouterDash, sim: Simulator) -> None:
    for _ in range(2):
        router.add(sim.add(models=["tiny"]))
    for number in range(REQUESTS):
        assert router.chat(stream=number % 2 == 0).status == 200
    until(lambda: published_completions(router) == REQUESTS, 20)
    before = learned_rows(router)
    assert len(before) >= 3
    router.kill()
    router.start()
    assert learned_rows(router) == before
    router.kill()
    shutil.rmtree(router.data_dir / "registry")
    router.start()
    until(lambda: learned_rows(router) == before, 20)
    assert router.manage("reconcile").stdout == "all figures agree\n"
