"""Starts that fail and starts without a database: the exit code and one clear line."""

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from benchmarks.process import ROOT, clean_environment
from benchmarks.simulator import Simulator
from tests.conftest import SERVER, Install
from tests.http import Response
from tests.router import RouterDash, until

pytestmark = [pytest.mark.every_database, pytest.mark.timeout(180)]

sqlite_only = pytest.mark.skipif(bool(SERVER), reason="needs a SQLite file")


def refused(router: RouterDash, **environment: str) -> str:
    """Return the one-line error of a start that must fail with code 2."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "serve"],
        cwd=router.directory,
        env=clean_environment({**router.environment, **environment}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("routerdash: ")
    return lines[0]


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROUTERDASH_WORKERS", "0"),
        ("ROUTERDASH_TIME_ZONE", "Mars/Olympus"),
        ("DATABASE_URL", "mysql://localhost/x"),
    ],
)
def test_a_wrong_setting_is_reported_by_name(install: Install, name: str, value: str) -> None:
    line = refused(install(), **{name: value})
    assert name in line
    assert "Traceback" not in line


@pytest.mark.one_database
def test_open_access_needs_a_loopback_address(install: Install) -> None:
    line = refused(install(), ROUTERDASH_REQUIRE_API_KEY="false", ROUTERDASH_HOST="0.0.0.0")
    assert "ROUTERDASH_REQUIRE_API_KEY" in line


@pytest.mark.one_database
def test_a_weak_first_password_is_refused_in_one_line(install: Install) -> None:
    line = refused(install(), ROUTERDASH_ADMIN_PASSWORD="a")
    assert "ROUTERDASH_ADMIN_PASSWORD cannot be used" in line
    assert "at least 12 characters" in line


@pytest.mark.one_database
@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_plain_http_for_other_machines_causes_a_warning(begin: Install, host: str, warned: bool) -> None:
    router = begin(ROUTERDASH_HOST=host).start()
    assert ("by plain HTTP: passwords and API keys are sent over the network" in router.log_text()) == warned


@pytest.mark.one_database
def test_a_port_in_use_is_reported(install: Install) -> None:
    router = install()
    with closing(socket.create_server(("127.0.0.1", router.port))):
        assert f"port {router.port} cannot be used" in refused(router)


@pytest.mark.one_database
def test_a_second_start_on_the_same_data_is_refused(router: RouterDash) -> None:
    assert "another RouterDash runs" in refused(router, ROUTERDASH_PORT="1")


@pytest.mark.one_database
def test_a_data_directory_that_cannot_be_created(install: Install, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "ROUTERDASH_DATA_DIR" in refused(install(), ROUTERDASH_DATA_DIR=str(tmp_path / "file" / "data"))


@pytest.mark.one_database
def test_neither_database_nor_registry_store(install: Install) -> None:
    url = "postgres://nobody@127.0.0.1:1/none"
    expected = "the database cannot be used and there is no registry store to serve from"
    assert expected in refused(install(), DATABASE_URL=url)


@sqlite_only
def test_a_corrupt_database_without_a_registry_store(install: Install) -> None:
    router = install()
    router.data_dir.mkdir()
    (router.data_dir / "routerdash.sqlite3").write_bytes(b"this is no database " * 1000)
    assert "file is not a database" in refused(router)


@sqlite_only
def test_a_missing_database_is_not_replaced_by_an_empty_one(router: RouterDash, sim: Simulator) -> None:
    endpoint = router.add(sim.add())
    router.chat()
    router.stop()
    moved = router.directory / "moved"
    moved.mkdir()
    for path in router.data_dir.glob("routerdash.sqlite3*"):
        path.rename(moved / path.name)
    start_degraded(router)
    assert router.chat().status == 200
    assert not (router.data_dir / "routerdash.sqlite3").exists()
    for path in moved.iterdir():
        path.rename(router.data_dir / path.name)
    until(lambda: router.get("/health").json()["status"] == "ok", 30)
    assert router.counters(endpoint) == (2, 2, 0)


@sqlite_only
def test_the_first_user_and_key_are_created_when_the_database_returns(router: RouterDash) -> None:
    """Control creates them then, and no environment contains their secrets."""
    router.query("DELETE FROM api_keys")
    router.stop()
    path = router.data_dir / "routerdash.sqlite3"
    path.rename(path.with_name("away"))
    start_degraded(router)
    path.with_name("away").rename(path)
    until(lambda: router.get("/health").json()["status"] == "ok", 30)
    until(lambda: router.get("/v1/models").status == 200, 20)
    assert router.query("SELECT name FROM api_keys") == [("bootstrap",)]


def start_degraded(router: RouterDash) -> None:
    """Start and wait until requests are served, with or without the database."""
    router.start(wait=False)
    until(lambda: _status(router) == "degraded", 60)


def _status(router: RouterDash) -> str:
    try:
        status: str = router.get("/health").json()["status"]
    except OSError:
        return ""
    return status


@sqlite_only
def test_a_corrupt_database_with_a_registry_store_still_serves(router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add())
    router.stop()
    for path in router.data_dir.glob("routerdash.sqlite3*"):
        path.unlink()
    (router.data_dir / "routerdash.sqlite3").write_bytes(b"this is no database " * 1000)
    start_degraded(router)
    assert router.chat().status == 200
    assert router.chat("no-such-model").status == 404
    assert "Traceback" not in router.log_text()


@sqlite_only
def test_a_locked_database_delays_no_request_and_loses_none(router: RouterDash, sim: Simulator) -> None:
    endpoint = router.add(sim.add())
    with locked(router):
        for _ in range(5):
            assert router.chat().status == 200
        assert router.counters(endpoint) == (5, 5, 0)
        until(lambda: router.get("/health").json()["status"] == "degraded", 30)
        assert router.stats()["records_waiting"] == 5
    until(lambda: router.query("SELECT count(*) FROM request_history") == [(5,)], 30)
    until(lambda: router.get("/health").json()["status"] == "ok", 30)


@contextmanager
def locked(router: RouterDash) -> Iterator[None]:
    path = router.data_dir / "routerdash.sqlite3"
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@sqlite_only
def test_a_start_with_a_locked_database_serves(router: RouterDash, sim: Simulator) -> None:
    endpoint = router.add(sim.add())
    router.chat()
    router.kill()
    with locked(router):
        start_degraded(router)
        assert router.chat().status == 200
    until(lambda: router.get("/health").json()["status"] == "ok", 30)
    assert router.counters(endpoint) == (2, 2, 0)


@sqlite_only
def test_a_read_only_database_is_reported_and_loses_nothing(router: RouterDash, sim: Simulator) -> None:
    endpoint = router.add(sim.add())
    router.chat()
    router.stop()
    with read_only(router.data_dir / "routerdash.sqlite3"):
        start_degraded(router)
        assert router.chat().status == 200
        assert router.counters(endpoint) == (2, 2, 0)
        assert "1 records wait" in router.get("/health").json()["reasons"][0]
        router.kill()
    router.start()
    assert router.counters(endpoint) == (2, 2, 0)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Make the file read-only: by its mode, and by its immutable flag for root, who ignores modes."""
    path.chmod(0o400)
    if os.getuid() == 0 and subprocess.run(["chattr", "+i", str(path)], capture_output=True, check=False).returncode:
        pytest.skip("this file system has no immutable flag for root")
    try:
        yield
    finally:
        if os.getuid() == 0:
            subprocess.run(["chattr", "-i", str(path)], check=True)
        path.chmod(0o600)


def test_an_unreachable_endpoint_is_refused_with_its_reason(router: RouterDash) -> None:
    response = router.post("/api/endpoints", {"name": "gone", "base_url": "http://127.0.0.1:1"})
    assert (response.status, response.json()) == (502, {"error": "The endpoint cannot be reached: connection refused"})


def test_a_model_of_an_offline_endpoint(router: RouterDash, sim: Simulator) -> None:
    simulated = sim.add(models=["sleeping"])
    endpoint = router.add(simulated)
    simulated.set(fault="refuse")
    for _ in range(2):
        router.post(f"/api/endpoints/{endpoint}/test")
    # Gateways receive the status within a tenth of a second.
    response = until(lambda: _if_status(router.chat("sleeping"), 503))
    assert response.json()["error"]["code"] == "no_capable_endpoints"
    counters, failed = router.counters(endpoint), router.stats()["failed_requests"]
    assert router.chat("sleeping").status == 503
    assert router.counters(endpoint) == counters  # there was no attempt, but a request failed
    assert router.stats()["failed_requests"] == failed + 1


def _if_status(response: Response, status: int) -> Response | None:
    return response if response.status == status else None
