"""Processes are restarted when they die, stop in order, and leave no process behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.process import ROOT, clean_environment
from benchmarks.simulator import Simulator
from tests.conftest import Install
from tests.router import KEY, PASSWORD, RouterDash, command_of, until

pytestmark = [pytest.mark.one_database, pytest.mark.timeout(180)]

ROLES = ("gateway.main", "manage.py control", "manage.py background")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("role", ROLES)
def test_a_killed_process_is_restarted(shared_router: RouterDash, role: str) -> None:
    old = shared_router.kill_role(role)
    until(lambda: any(pid != old for pid in _with(shared_router, role)), 20)
    until(lambda: shared_router.get("/ready").status == 200, 20)


def test_a_killed_background_process_leaves_no_job_process(router: RouterDash) -> None:
    until(lambda: len(_with(router, "manage.py jobs")) > 4)
    jobs = _with(router, "manage.py jobs")
    router.kill_role("manage.py background")
    until(lambda: not any(alive(pid) for pid in jobs), 10)


def test_a_job_runs_after_its_process_was_killed(shared_router: RouterDash) -> None:
    queued = time.time()
    shared_router.query("UPDATE django_q_schedule SET next_run = '2026-01-01 00:00:00'")
    until(lambda: _with(shared_router, "manage.py jobs"), 20)
    for pid in _with(shared_router, "manage.py jobs"):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shared_router.query("UPDATE django_q_schedule SET next_run = '2026-01-01 00:00:00'")
    sql = "SELECT count(*) FROM django_q_task WHERE success AND started > ?"
    until(lambda: shared_router.query(sql, datetime.fromtimestamp(queued, UTC).replace(tzinfo=None)) >= [(2,)], 40)


def _with(router: RouterDash, role: str) -> list[int]:
    return [pid for pid in router.pids() if role in command_of(pid)]


def test_ctrl_c_stops_in_order_and_leaves_no_process(router: RouterDash) -> None:
    until(lambda: len(_with(router, "manage.py jobs")) > 4)  # a new installation has scheduled jobs
    pids = router.pids()
    assert router.process is not None
    router.process.send_signal(signal.SIGINT)
    assert router.process.wait(30) == 0
    until(lambda: not any(alive(pid) for pid in pids), 10)


def test_a_killed_supervisor_ends_all_processes(router: RouterDash) -> None:
    pids = router.pids()
    assert router.process is not None
    router.process.kill()
    until(lambda: not any(alive(pid) for pid in pids[1:]), 30)


def test_a_stop_lets_open_requests_finish(router: RouterDash, sim: Simulator) -> None:
    endpoint = router.add(sim.add(tokens=20, tokens_per_second=20.0))
    got: list[bytes] = []

    def read() -> None:
        with router.open_stream() as response:
            got.append(response.read())

    client = threading.Thread(target=read)
    client.start()
    until(lambda: router.endpoint(endpoint)["active_requests"] == 1)
    assert router.stop() == 0
    client.join(20)
    assert got[0].endswith(b"data: [DONE]\n\n")
    router.start()
    assert router.counters(endpoint) == (1, 1, 0)


def test_a_stop_has_a_time_limit(begin: Install, sim: Simulator) -> None:
    """An endless stream and an open page are cut at the limit, and the exit code is still 0."""
    router = begin(ROUTERDASH_DRAIN_SECS="1").start()
    router.add(sim.add(tokens=10_000, tokens_per_second=5.0))
    with router.open_stream() as response:
        response.read(10)
        assert router.stop(within=15) == 0
    router.start()
    stats = router.stats()
    assert (stats["total_requests"], stats["cancelled_requests"], stats["total_active_requests"]) == (0, 1, 0)


def test_two_workers_show_the_same_figures(begin: Install, sim: Simulator) -> None:
    router = begin(ROUTERDASH_WORKERS="2").start()
    endpoint = router.add(sim.add())
    for count in range(1, 500):
        assert router.chat().status == 200
        assert router.counters(endpoint) == (count, count, 0)
        if count >= 20 and len(os.listdir(router.data_dir / "journal")) == 2:
            return
    pytest.fail("one worker took all of 500 connections")


def test_an_edit_in_another_process_reaches_the_gateways(emptied: RouterDash, sim: Simulator) -> None:
    simulated = sim.add()
    endpoint = emptied.add(simulated)
    code = (
        f"from endpoints.models import Endpoint; Endpoint.objects.get(pk={endpoint!r}).set_operator_state('disabled')"
    )
    subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "shell", "-v", "0", "-c", code],
        env=clean_environment(emptied.environment),
        check=True,
        timeout=60,
    )
    until(lambda: emptied.chat().status == 503)
    assert emptied.endpoint(endpoint)["operator_state"] == "disabled"


def test_an_edit_by_the_api_applies_to_the_next_request(emptied: RouterDash, sim: Simulator) -> None:
    endpoint = emptied.add(sim.add())
    for state, status in (("draining", 503), ("enabled", 200), ("disabled", 503)):
        emptied.request("PATCH", f"/api/endpoints/{endpoint}", {"operator_state": state})
        until(lambda status=status: emptied.chat().status == status)
    assert emptied.request("DELETE", f"/api/endpoints/{endpoint}").status == 204
    until(lambda: emptied.chat().status == 404)


def test_only_the_supervisor_has_the_first_secrets_in_its_environment(shared_router: RouterDash) -> None:
    first, *others = shared_router.pids()
    assert PASSWORD.encode() in environment_of(first)  # so this test reads the environments of these processes
    assert len(others) >= len(ROLES)
    for pid in others:
        environment = environment_of(pid)
        assert PASSWORD.encode() not in environment
        assert KEY.encode() not in environment


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def test_secrets_from_files_are_in_no_environment(install: Install, tmp_path: Path) -> None:
    router = install()
    for name in ("ROUTERDASH_ADMIN_PASSWORD", "ROUTERDASH_BOOTSTRAP_API_KEY"):
        path = tmp_path / name
        path.write_text(router.environment.pop(name) + "\n")
        router.environment[f"{name}_FILE"] = str(path)
    router.start()
    assert router.log_in("admin", PASSWORD)[0] == 200
    for pid in router.pids():
        assert PASSWORD.encode() not in environment_of(pid)
        assert KEY.encode() not in environment_of(pid)
