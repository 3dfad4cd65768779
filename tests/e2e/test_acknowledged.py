"""An acknowledged change is in effect: no request of a deleted key, none to a withdrawn endpoint, from then on."""

import os
import signal

import pytest

from benchmarks.simulator import Simulator
from tests.conftest import Install
from tests.http import Response
from tests.router import RouterDash, command_of, until
from tests.withdrawals import EditedName, OwnKeys, Traffic, delete_endpoint, delete_key, withdraw_endpoint

pytestmark = [pytest.mark.one_database, pytest.mark.timeout(180)]

ROUNDS = 8


@pytest.fixture
def four(begin: Install) -> RouterDash:
    return begin(ROUTERDASH_WORKERS="4").start()


def test_a_created_key_works_and_a_deleted_one_is_refused_at_once(four: RouterDash, sim: Simulator) -> None:
    four.add(sim.add())
    keys = OwnKeys(four)
    for _ in range(ROUNDS):
        delete_key(four, keys)


@pytest.mark.parametrize("how", ["disable", "drain"])
def test_a_withdrawn_endpoint_gets_no_request(four: RouterDash, sim: Simulator, how: str) -> None:
    """Some requests wait in the queue, because the endpoint has one slot."""
    simulated = sim.add(ttft=0.005)
    endpoint_id = four.add(simulated, max_concurrency=1)
    with Traffic(four.chat):
        for _ in range(ROUNDS):
            withdraw_endpoint(four, simulated, endpoint_id, how)


def test_a_deleted_endpoint_gets_no_request(four: RouterDash, sim: Simulator) -> None:
    four.add(sim.add(ttft=0.005), "kept")
    for number in range(ROUNDS):
        delete_endpoint(four, sim, f"deleted {number}")


def test_an_edited_model_name_leads_to_its_new_target(four: RouterDash, sim: Simulator) -> None:
    edited = EditedName(four, sim)
    for number in range(ROUNDS):
        edited.edit(number)


def test_a_gateway_that_does_not_confirm_is_named(four: RouterDash, sim: Simulator) -> None:
    endpoint_id = four.add(sim.add())
    stopped = next(pid for pid in four.pids() if "gateway.main" in command_of(pid) and "--worker 2" in command_of(pid))
    os.kill(stopped, signal.SIGSTOP)
    try:
        given = until(lambda: _answered(four, endpoint_id))
        assert (given.status, given.json()["operator_state"]) == (202, "disabled")
        assert given.json()["pending"] == f"the gateway with the process id {stopped} has not confirmed it"
    finally:
        os.kill(stopped, signal.SIGCONT)
    until(lambda: four.post(f"/api/endpoints/{endpoint_id}/enable").status == 200)


def _answered(router: RouterDash, endpoint_id: str) -> Response | None:
    """Disable the endpoint. The stopped gateway may have accepted the connection of the request; then try again."""
    try:
        return router.post(f"/api/endpoints/{endpoint_id}/disable")
    except OSError:
        return None
