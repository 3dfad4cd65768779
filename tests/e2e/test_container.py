"""RouterDash as in a container, without a container engine: process 1 of its own PID namespace, on a root that is read-
only except for the data directory, without privileges.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from benchmarks.process import ROOT, clean_environment
from benchmarks.simulator import Simulator
from tests import programs
from tests.conftest import Install
from tests.gateway import certificates
from tests.router import RouterDash, command_of, until

NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def may_contain() -> bool:
    if programs.find("unshare") is None:
        return True  # the marker `needs` has the reason
    return subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.one_database,
    pytest.mark.unmeasured,
    pytest.mark.timeout(180),
    pytest.mark.needs("unshare", "setpriv"),
    pytest.mark.skipif(not may_contain(), reason="this user may not create namespaces"),
]

SETUP = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && exec setpriv --no-new-privs --bounding-set=-all "$@"'


class Contained(RouterDash):
    """A RouterDash whose supervisor is process 1 and whose processes cannot write to the root."""

    def __init__(self, directory: Path, **environment: str) -> None:
        super().__init__(directory, **environment)
        self.data_dir.mkdir(mode=0o700)
        python = [sys.executable, str(ROOT / "manage.py")]
        self.program = [*NAMESPACES, "sh", "-c", SETUP, str(self.data_dir), *python]

    @property
    def first(self) -> int:
        """Return the PID of process 1 outside of the namespace."""
        return self.pids()[1]

    def ends(self, number: int) -> int:
        """Return the exit code after a signal to process 1."""
        assert self.process is not None
        os.kill(self.first, number)
        code = self.process.wait(30)
        self.process = None
        self.log.close()
        return code


@pytest.fixture
def contained(tmp_path: Path) -> Iterator[Contained]:
    made = Contained(tmp_path)
    yield made
    made.kill()


def children(pid: int) -> list[str]:
    """Return the states of a process's children."""
    states = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            states.append(fields[0])
    return states


def test_a_read_only_root_is_enough(contained: Contained, sim: Simulator) -> None:
    contained.start()
    contained.add(sim.add())
    assert contained.chat().status == 200
    assert contained.log_in("admin", contained.environment["ROUTERDASH_ADMIN_PASSWORD"])[0] == 200
    assert contained.get("/api/requests/export?format=csv").status == 200
    assert "Traceback" not in contained.log_text()


def test_orphans_do_not_remain_as_zombies(contained: Contained) -> None:
    contained.start()
    until(lambda: sum("manage.py jobs" in command_of(pid) for pid in contained.pids()) > 4)
    background = next(pid for pid in contained.pids() if "manage.py background" in command_of(pid))
    os.kill(background, signal.SIGKILL)
    until(lambda: background not in contained.pids())
    until(lambda: "Z" not in children(contained.first))


def test_sigterm_stops_process_1_in_order(contained: Contained, sim: Simulator) -> None:
    contained.start()
    endpoint = contained.add(sim.add())
    assert contained.chat().status == 200
    assert contained.ends(signal.SIGTERM) == 0
    contained.start()
    assert contained.counters(endpoint) == (1, 1, 0)


def test_a_killed_container_loses_no_figure(contained: Contained, sim: Simulator) -> None:
    contained.start()
    endpoint = contained.add(sim.add())
    for _ in range(3):
        assert contained.chat().status == 200
    contained.ends(signal.SIGKILL)
    contained.start()
    until(lambda: contained.counters(endpoint) == (3, 3, 0))
    assert contained.manage("reconcile").returncode == 0


def test_figures_use_the_time_zone_of_the_container(tmp_path: Path) -> None:
    contained = Contained(tmp_path, ROUTERDASH_TIME_ZONE="", TZ="Asia/Tokyo")
    done = contained.manage("shell", "-v", "0", "-c", "from django.conf import settings; print(settings.TIME_ZONE)")
    assert done.stdout.strip() == "Asia/Tokyo", done


def test_a_data_directory_inside_the_container_causes_a_warning(contained: Contained) -> None:
    contained.environment |= {"ROUTERDASH_IN_CONTAINER": "true", "ROUTERDASH_DATA_DIR": "/dev/shm/routerdash-test"}
    try:
        contained.start()
        assert "no volume is mounted for /dev/shm/routerdash-test: figures, users and keys" in contained.log_text()
        assert "volatile" in [item["kind"] for item in contained.get("/api/dashboard/attention").json()]
    finally:
        contained.kill()
        shutil.rmtree("/dev/shm/routerdash-test", ignore_errors=True)


def test_a_volume_causes_no_warning(contained: Contained) -> None:
    contained.environment["ROUTERDASH_IN_CONTAINER"] = "true"
    contained.start()
    assert "no volume is mounted" not in contained.log_text()
    assert "volatile" not in [item["kind"] for item in contained.get("/api/dashboard/attention").json()]


def test_a_read_only_root_without_a_volume_is_refused_with_a_hint(contained: Contained, tmp_path: Path) -> None:
    contained.environment |= {"ROUTERDASH_IN_CONTAINER": "true", "ROUTERDASH_DATA_DIR": str(tmp_path / "elsewhere")}
    done = contained.manage("serve")
    assert done.returncode == 2
    assert done.stderr.endswith("elsewhere cannot be used: Read-only file system; mount a volume there\n")


AS_ANOTHER_USER = ["unshare", "--user", "--map-user=10001", "--map-group=10001"]


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[], str]:
    """Return the one-line error of a start by user 10001, whose files belong to the user of the test; other files do
    not.
    """
    router = RouterDash(tmp_path)
    router.data_dir.mkdir()
    router.program = [*AS_ANOTHER_USER, *router.program]

    def start() -> str:
        done = router.manage("serve")
        assert done.returncode == 2, done
        lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
        assert len(lines) == 1, done
        return lines[0]

    return start


@pytest.mark.parametrize("what", [".", "routerdash.sqlite3"])
@pytest.mark.parametrize("mode", [0o600, 0o755])
def test_a_volume_of_another_owner_is_refused_with_a_hint(
    tmp_path: Path, refused: Callable[[], str], what: str, mode: int
) -> None:
    path = tmp_path / "data" / what
    path.touch()
    path.chmod(mode | (0o100 if path.is_dir() else 0))
    os.chown(path, 4242, 4242)
    line = refused()
    assert f"{path} belongs to user " in line
    assert ", but RouterDash runs as user 10001. Run `chown -R 10001:10001 " in line


def test_a_link_of_another_owner_to_our_directory_is_followed(tmp_path: Path) -> None:
    """A link of a dynamic user, as systemd creates it."""
    router = RouterDash(tmp_path)
    (tmp_path / "private").mkdir()
    router.data_dir.symlink_to(tmp_path / "private")
    os.lchown(router.data_dir, 4242, 4242)
    router.program = [*AS_ANOTHER_USER, *router.program]
    try:
        router.start()
        assert router.get("/health").status == 200
    finally:
        router.kill()


def healthcheck(router: RouterDash, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "routerdash.healthcheck"],
        env=clean_environment({**router.environment, **environment}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_healthcheck_passes_while_routerdash_responds(shared_router: RouterDash) -> None:
    done = healthcheck(shared_router, ROUTERDASH_HOST="0.0.0.0")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_healthcheck_uses_tls_if_routerdash_does(begin: Install, tmp_path: Path) -> None:
    certificate, key = certificates.make(tmp_path)
    router = begin(ROUTERDASH_TLS_CERTIFICATE=str(certificate), ROUTERDASH_TLS_KEY=str(key)).start(wait=False)
    until(lambda: healthcheck(router).returncode == 0, 30, 0.2)


def test_the_healthcheck_fails_in_one_line_without_a_server(install: Install) -> None:
    done = healthcheck(install())
    assert done.returncode == 1
    assert done.stderr.startswith("routerdash: /health does not answer: ")
    assert done.stderr.count("\n") == 1


def test_the_healthcheck_fails_if_another_program_responds(install: Install) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        server = Thread(target=other.handle_request)
        server.start()
        done = healthcheck(install(), ROUTERDASH_PORT=str(other.server_port))
        server.join()
    assert (done.returncode, done.stderr) == (1, "routerdash: /health answers 501\n")
