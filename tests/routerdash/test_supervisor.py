"""The supervisor's parts that need no running system: what it plans, says, holds and restarts."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config, load, secret_names
from gateway.livepage import LivePage
from routerdash import supervisor as supervisor_module
from routerdash.prepare import CannotStart
from routerdash.supervisor import MAX_RESTART_SECONDS, RESTART_SECONDS, SETTLED_SECONDS, Child, Supervisor
from tests.router import ROOT, free_port, until

URL = "postgres://me:hunter2@db/main"


def settings(data_dir: Path, **given: str) -> Config:
    named = {f"ROUTERDASH_{name}": value for name, value in given.items()}
    return load({"ROUTERDASH_DATA_DIR": str(data_dir), "ROUTERDASH_PORT": str(free_port()), **named})


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Any]:
    """Make supervisors that never run; all are closed at the end."""
    found: list[Supervisor] = []

    def make(**given: str) -> Supervisor:
        found.append(Supervisor(settings(tmp_path, **given), str(ROOT)))
        return found[-1]

    yield make
    for supervisor in found:
        with suppress(OSError):
            supervisor.close()


def child(code: str = "pass", **fields: Any) -> Child:
    return Child("child", [sys.executable, "-c", code], str(ROOT), (), **fields)


# The plan


def test_the_plan_is_control_gateways_and_background(made: Any) -> None:
    roles = [it.role for it in made(WORKERS="3")._children]
    assert sorted(roles) == ["background", "control", "gateway", "gateway", "gateway"]


def test_each_gateway_has_its_number(made: Any) -> None:
    gateways = [it for it in made(WORKERS="3")._children if it.role == "gateway"]
    assert [it.command[it.command.index("--worker") + 1] for it in gateways] == ["0", "1", "2"]
    assert [it.name for it in gateways] == ["gateway-0", "gateway-1", "gateway-2"]


def test_every_child_inherits_what_tells_of_our_end(made: Any) -> None:
    supervisor = made()
    for it in supervisor._children:
        assert supervisor._alive in it.descriptors
        assert it.command[it.command.index("--alive") + 1] == str(supervisor._alive)


def test_only_who_needs_a_socket_gets_it(made: Any) -> None:
    supervisor = made()
    public, control = supervisor._public.fileno(), supervisor._control.fileno()
    given = {it.role: set(it.descriptors) & {public, control} for it in supervisor._children}
    assert given == {"gateway": {public}, "control": {control}, "background": set()}


def test_requests_of_gateways_that_are_no_more_are_cleared(made: Any, tmp_path: Path) -> None:
    """All were killed at once, and there are fewer now."""
    page = LivePage(settings(tmp_path).live_page_path)
    page.row(3).in_flight(0)[0] = 7
    page.set_unrecorded(3, 5)
    made(WORKERS="1")
    assert (page.in_flight(0), page.unrecorded) == (0, 0)


def test_a_dead_gateways_requests_are_cleared(made: Any) -> None:
    supervisor = made(WORKERS="2")
    page = LivePage(supervisor.config.live_page_path)
    for worker in (0, 1):
        page.row(worker).in_flight(5)[0] = 7
    next(it for it in supervisor._children if it.name == "gateway-1").died()
    assert page.in_flight(5) == 7


# What it holds


def test_one_supervisor_holds_a_data_directory(made: Any) -> None:
    made()
    with pytest.raises(CannotStart, match=r"another RouterDash runs on .*; stop it, or set ROUTERDASH_DATA_DIR"):
        made()


def test_a_closed_one_lets_go(made: Any) -> None:
    made().close()
    made()


def test_a_port_in_use_is_named(made: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotStart, match=rf"^127\.0\.0\.1 port {port} cannot be used \(.*ROUTERDASH_PORT$"):
            made(PORT=str(port))


def test_a_host_that_is_not_ours_is_named(made: Any) -> None:
    with pytest.raises(CannotStart, match="ROUTERDASH_HOST"):
        made(HOST="192.0.2.1")


def test_an_ipv6_host_is_listened_on(made: Any) -> None:
    assert made(HOST="::1")._public.family == socket.AF_INET6


def test_controls_socket_is_for_us_alone(made: Any) -> None:
    path = made().config.control_socket
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_old_control_socket_is_replaced(made: Any) -> None:
    first = made()
    first.close()
    assert first.config.control_socket.exists()
    second = made()
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(second.config.control_socket))


def test_a_long_data_directory_has_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a" * 40] * 3)
    deep.mkdir(parents=True)
    supervisor = Supervisor(settings(deep), str(ROOT))
    path = supervisor.config.control_socket
    supervisor.close()
    assert not path.is_relative_to(deep)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.unlink()
    path.parent.rmdir()


@pytest.mark.parametrize("role", ["gateway", "control", "background"])
def test_no_child_inherits_the_first_password_nor_the_bootstrap_key(
    made: Any, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    found = inherited(made, monkeypatch, role)
    assert "hunter2" not in found["ROUTERDASH_ADMIN_PASSWORD"] + found["ROUTERDASH_BOOTSTRAP_API_KEY"]


@pytest.mark.parametrize(("role", "url"), [("gateway", ""), ("control", URL), ("background", URL)])
def test_a_gateway_does_not_inherit_the_databases_password(
    made: Any, monkeypatch: pytest.MonkeyPatch, role: str, url: str
) -> None:
    assert inherited(made, monkeypatch, role)["DATABASE_URL"] == url


def inherited(made: Any, monkeypatch: pytest.MonkeyPatch, role: str) -> dict[str, str]:
    """Of a child with this role, each secret or what stands for none."""
    monkeypatch.setenv("ROUTERDASH_ADMIN_PASSWORD", "hunter2 of the first administrator")
    monkeypatch.setenv("ROUTERDASH_BOOTSTRAP_API_KEY", "sk_" + "hunter2" * 6)
    monkeypatch.setenv("DATABASE_URL", URL)
    supervisor = made()
    given: dict[str, str] = {}
    found = next(it for it in supervisor._children if it.role == role)
    monkeypatch.setattr(Child, "start", lambda self, environment: given.update(environment))
    supervisor._start(found)
    assert given["ROUTERDASH_DATA_DIR"] == str(supervisor.config.data_dir)
    assert given["PATH"] == os.environ["PATH"]
    return {name: given.get(name, "") for name in secret_names()}


def test_a_child_is_told_on_its_standard_input() -> None:
    made = child(
        "import sys; sys.exit(sys.stdin.read() != 'what no environment shows')", told=b"what no environment shows"
    )
    made.start({})
    assert made.process is not None
    assert made.process.wait(30) == 0


def test_a_child_that_ends_before_it_listens_costs_nothing() -> None:
    made = child("import os; os.close(0)", told=b"x" * 1_000_000)
    made.start({})
    assert made.process is not None
    assert made.process.wait(30) == 0


# What it says


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"PORT": "8080"}, "http://127.0.0.1:8080/"),
        ({"PORT": "8080", "HOST": "0.0.0.0"}, "http://127.0.0.1:8080/"),
        ({"PORT": "8080", "HOST": "::"}, "http://[::1]:8080/"),
        ({"PORT": "8080", "HOST": "::1"}, "http://[::1]:8080/"),
        ({"PORT": "8080", "HOST": "gpu-box"}, "http://gpu-box:8080/"),
        ({"PUBLIC_URL": "https://llm.example.com/"}, "https://llm.example.com/"),
    ],
)
def test_the_url_is_one_that_can_be_opened(tmp_path: Path, given: dict[str, str], url: str) -> None:
    assert supervisor_module._url(settings(tmp_path, **given)) == url


# Children


def test_a_child_is_told_its_role(tmp_path: Path) -> None:
    path = tmp_path / "role"
    made = child(f"import os; open({str(path)!r}, 'w').write(os.environ['ROUTERDASH_ROLE'])", role="control")
    made.start({"ROUTERDASH_ROLE": "of somebody else"})
    assert made.process is not None
    assert made.process.wait(30) == 0
    assert path.read_text() == "control"


def test_a_child_has_a_session_of_its_own() -> None:
    made = child("import os, sys; sys.exit(os.getsid(0) != os.getpid())")
    made.start({})
    assert made.process is not None
    assert made.process.wait(30) == 0


def test_what_a_child_forked_is_killed_with_it() -> None:
    made = child("import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read()")
    made.process = subprocess.Popen(made.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert made.process.stdout is not None
    grandchild = int(made.process.stdout.readline())
    made.kill_group()
    made.process.communicate()
    until(lambda: not os.path.exists(f"/proc/{grandchild}") or "Z" in state(grandchild))


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_signalling_what_is_gone_is_no_matter() -> None:
    made = child()
    made.signal(signal.SIGTERM)
    made.kill_group()
    made.start({})
    assert made.process is not None
    made.process.wait(30)
    made.signal(signal.SIGTERM)
    made.kill_group()


def bury(supervisor: Supervisor, *, lived: float, backoff: float = RESTART_SECONDS) -> tuple[float, float]:
    """How long a child waits for its next start, and its new backoff, after it died at the age `lived`."""
    dead = child("import os; os.kill(os.getpid(), 9)", backoff=backoff)
    dead.start({})
    assert dead.process is not None
    dead.process.wait(30)
    now = dead.started_at + lived
    supervisor._bury(dead, now)
    assert dead.process is None
    return dead.start_at - now, dead.backoff


def test_a_child_that_ran_is_started_again_at_once(made: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert bury(made(), lived=SETTLED_SECONDS + 1, backoff=5) == (0, RESTART_SECONDS)
    assert "child ended by itself (SIGKILL); it is started again" in caplog.text


@pytest.mark.parametrize(("before", "after"), [(0.2, 0.4), (0.4, 0.8), (7, 10), (10, 10)])
def test_a_child_that_dies_young_waits_longer_each_time(made: Any, before: float, after: float) -> None:
    waits, backoff = bury(made(), lived=1, backoff=before)
    assert backoff == after <= MAX_RESTART_SECONDS
    assert waits == pytest.approx(after)


def test_a_dead_child_is_started_when_its_time_has_come(made: Any) -> None:
    supervisor = made()
    waiting, due = child(start_at=time.monotonic() + 600), child()
    supervisor._children = [waiting, due]
    supervisor._look_after()
    assert waiting.process is None
    assert due.process is not None
    due.process.wait(30)


def test_who_does_not_stop_is_killed(made: Any, caplog: pytest.LogCaptureFixture) -> None:
    stubborn = child("import time; time.sleep(600)")
    stubborn.start({})
    assert made()._wait([stubborn], 0) is False
    assert stubborn.process is not None
    assert stubborn.process.poll() == -signal.SIGKILL
    assert "child did not stop in time and is killed" in caplog.text


def test_who_stopped_or_never_ran_makes_a_clean_end(made: Any) -> None:
    stopped = child()
    stopped.start({})
    assert stopped.process is not None
    stopped.process.wait(30)
    assert made()._wait([stopped, child()], 0) is True


def test_a_fork_that_fails_is_tried_again(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = made()
    child = supervisor._children[0]

    def no_room(*args: object, **options: object) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", no_room)
    supervisor._look_after()
    assert child.process is None
    assert child.start_at > time.monotonic()
