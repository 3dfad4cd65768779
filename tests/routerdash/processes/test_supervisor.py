"""Parts of the supervisor that need no running system: plan, messages, resources, restarts."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.base.config import Config, load, secret_names
from gateway.ipc.live_page import LivePage
from routerdash.processes import supervisor as supervisor_module
from routerdash.processes.data_directory import CannotStart
from routerdash.processes.signals import SignalPipe
from routerdash.processes.supervisor import MAX_RESTART_SECONDS, RESTART_SECONDS, SETTLED_SECONDS, Child, Supervisor
from tests.router import ROOT, free_port, until

URL = "postgres://me:hunter2@db/main"


def settings(data_dir: Path, **given: str) -> Config:
    named = {f"ROUTERDASH_{name}": value for name, value in given.items()}
    return load({"ROUTERDASH_DATA_DIR": str(data_dir), "ROUTERDASH_PORT": str(free_port()), **named})


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Any]:
    """Make supervisors that never run; all are closed at the end."""
    supervisors: list[Supervisor] = []

    def make(**given: str) -> Supervisor:
        supervisors.append(Supervisor(settings(tmp_path, **given), str(ROOT)))
        return supervisors[-1]

    yield make
    for supervisor in supervisors:
        with suppress(OSError):
            supervisor.close()


def child(code: str = "pass", **fields: Any) -> Child:
    return Child("child", [sys.executable, "-c", code], str(ROOT), (), **fields)


# The plan


def test_the_plan_is_control_gateways_and_background(made: Any) -> None:
    roles = [planned_child.role for planned_child in made(WORKERS="3")._children]
    assert sorted(roles) == ["background", "control", "gateway", "gateway", "gateway"]


def test_each_gateway_has_its_number(made: Any) -> None:
    gateways = [planned_child for planned_child in made(WORKERS="3")._children if planned_child.role == "gateway"]
    assert [gateway.command[gateway.command.index("--worker") + 1] for gateway in gateways] == ["0", "1", "2"]
    assert [gateway.name for gateway in gateways] == ["gateway-0", "gateway-1", "gateway-2"]


def test_every_child_inherits_the_pipe_that_shows_the_supervisors_end(made: Any) -> None:
    supervisor = made()
    for planned_child in supervisor._children:
        assert supervisor._alive in planned_child.descriptors
        assert planned_child.command[planned_child.command.index("--alive") + 1] == str(supervisor._alive)


def test_only_children_that_need_a_socket_get_it(made: Any) -> None:
    supervisor = made()
    public, control = supervisor._public.fileno(), supervisor._control.fileno()
    given = {
        planned_child.role: set(planned_child.descriptors) & {public, control} for planned_child in supervisor._children
    }
    assert given == {"gateway": {public}, "control": {control}, "background": set()}


GATEWAY = """
import sys
from pathlib import Path
from gateway.ipc.live_page import LivePage
row = LivePage(Path(sys.argv[1])).claim_row()
row.cells(5)[0] = 7  # in flight
row.set_unrecorded(5)
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def gateway_row(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process with seven in-flight requests."""
    command = [sys.executable, "-c", GATEWAY, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_start_clears_the_requests_of_killed_gateways(made: Any, tmp_path: Path) -> None:
    page = LivePage(settings(tmp_path).live_page_path)
    with gateway_row(settings(tmp_path).live_page_path):
        pass
    assert (page.in_flight(5), page.unrecorded) == (7, 5)
    made(WORKERS="1")
    assert (page.in_flight(5), page.unrecorded) == (0, 0)


def test_a_start_keeps_the_requests_of_gateways_that_still_drain(made: Any, tmp_path: Path) -> None:
    with gateway_row(settings(tmp_path).live_page_path):
        made(WORKERS="1")
        assert LivePage(settings(tmp_path).live_page_path).in_flight(5) == 7


def test_requests_of_a_dead_gateway_are_cleared(made: Any) -> None:
    supervisor = made(WORKERS="2")
    path = supervisor.config.live_page_path
    with gateway_row(path) as dead, gateway_row(path):
        dead.kill()
        dead.wait()
        next(planned_child for planned_child in supervisor._children if planned_child.name == "gateway-1").died()
        assert LivePage(path).in_flight(5) == 7


def test_a_live_page_without_room_on_the_disk_is_reported(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(CannotStart, match=r"live-page cannot be allocated \(No space left on device\); make room"):
        made()


# Resources


def test_one_supervisor_holds_a_data_directory(made: Any) -> None:
    made()
    with pytest.raises(CannotStart, match=r"another RouterDash runs on .*; stop it, or set ROUTERDASH_DATA_DIR"):
        made()


def test_a_closed_supervisor_releases_the_directory(made: Any) -> None:
    made().close()
    assert made()._public.fileno() > 0


def test_a_port_in_use_is_reported(made: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotStart, match=rf"^127\.0\.0\.1 port {port} cannot be used \(.*ROUTERDASH_PORT$"):
            made(PORT=str(port))


def test_ollamas_port_in_use_is_reported(made: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotStart, match=rf"^127\.0\.0\.1 port {port} cannot be used .*ROUTERDASH_OLLAMA_PORT$"):
            made(OLLAMA_PORT=str(port))


def test_gateways_alone_get_ollamas_port(made: Any) -> None:
    supervisor = made(OLLAMA_PORT=str(free_port()), WORKERS="2")
    assert supervisor._ollama is not None
    ollama = supervisor._ollama.fileno()
    given = [planned_child.role for planned_child in supervisor._children if ollama in planned_child.descriptors]
    assert given == ["gateway", "gateway"]
    assert all(
        planned_child.command[planned_child.command.index("--ollama") + 1] == str(ollama)
        for planned_child in supervisor._children
        if planned_child.role == "gateway"
    )


def test_a_foreign_host_is_reported(made: Any) -> None:
    with pytest.raises(CannotStart, match="ROUTERDASH_HOST"):
        made(HOST="192.0.2.1")


def test_an_ipv6_host_is_listened_on(made: Any) -> None:
    assert made(HOST="::1")._public.family == socket.AF_INET6


def test_only_our_user_can_use_controls_socket(made: Any) -> None:
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
    secrets = inherited(made, monkeypatch, role)
    assert "hunter2" not in secrets["ROUTERDASH_ADMIN_PASSWORD"] + secrets["ROUTERDASH_BOOTSTRAP_API_KEY"]


@pytest.mark.parametrize(("role", "url"), [("gateway", ""), ("control", URL), ("background", URL)])
def test_a_gateway_does_not_inherit_the_databases_password(
    made: Any, monkeypatch: pytest.MonkeyPatch, role: str, url: str
) -> None:
    assert inherited(made, monkeypatch, role)["DATABASE_URL"] == url


def inherited(made: Any, monkeypatch: pytest.MonkeyPatch, role: str) -> dict[str, str]:
    """Return each secret, or its placeholder, in the environment of a child with this role."""
    monkeypatch.setenv("ROUTERDASH_ADMIN_PASSWORD", "hunter2 of the first administrator")
    monkeypatch.setenv("ROUTERDASH_BOOTSTRAP_API_KEY", "sk_" + "hunter2" * 6)
    monkeypatch.setenv("DATABASE_URL", URL)
    supervisor = made()
    given: dict[str, str] = {}
    child_of_role = next(planned_child for planned_child in supervisor._children if planned_child.role == role)
    monkeypatch.setattr(Child, "start", lambda self, environment: given.update(environment))
    supervisor._start(child_of_role)
    assert given["ROUTERDASH_DATA_DIR"] == str(supervisor.config.data_dir)
    assert given["PATH"] == os.environ["PATH"]
    return {name: given.get(name, "") for name in secret_names()}


def test_a_child_receives_secrets_on_its_standard_input() -> None:
    made = child(
        "import sys; sys.exit(sys.stdin.read() != 'what no environment shows')",
        standard_input=b"what no environment shows",
    )
    made.start({})
    assert made.process is not None
    assert made.process.wait(30) == 0


def test_a_child_that_ends_before_it_reads_is_no_error() -> None:
    made = child("import os; os.close(0)", standard_input=b"x" * 1_000_000)
    made.start({})
    assert made.process is not None
    assert made.process.wait(30) == 0


# Preparation


def prepared(made: Any, code: str) -> tuple[int | None, Child]:
    """Return the result of the preparation by a child that runs this code, and the child."""
    supervisor, preparing = made(), child(f"import os, signal, sys, time; {code}")
    with SignalPipe(supervisor._stop.set) as signals:
        result = supervisor._prepare(preparing, signals)
    assert preparing.process is not None
    preparing.process.kill()
    preparing.process.wait()
    return result, preparing


def test_a_start_waits_until_the_database_is_prepared(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "prepared"
    code = f"time.sleep(0.2); open({str(path)!r}, 'w'); os.write(int(sys.argv[2]), b'x'); time.sleep(600)"
    result, preparing = prepared(made, code)
    assert (result, path.exists()) == (None, True)
    assert preparing.prepared is None  # a later start prepares nothing


@pytest.mark.parametrize(
    ("code", "expected", "message"),
    [
        ("sys.exit(2)", 2, ""),  # it has reported the reason
        ("sys.exit(7)", 7, "control could not prepare the database (code 7)"),
        ("os.kill(os.getpid(), 9)", 1, "control could not prepare the database (SIGKILL)"),
    ],
)
def test_a_failed_preparation_ends_the_start(
    made: Any, caplog: pytest.LogCaptureFixture, code: str, expected: int, message: str
) -> None:
    result, _ = prepared(made, code)
    assert result == expected
    assert message in caplog.text
    assert bool(message) == bool(caplog.text)


def test_a_stop_interrupts_the_preparation(made: Any) -> None:
    result, _ = prepared(made, "os.kill(os.getppid(), signal.SIGTERM); time.sleep(600)")
    assert result is None


# Messages


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


def test_a_child_receives_its_role(tmp_path: Path) -> None:
    path = tmp_path / "role"
    made = child(f"import os; open({str(path)!r}, 'w').write(os.environ['ROUTERDASH_ROLE'])", role="control")
    made.start({"ROUTERDASH_ROLE": "of somebody else"})
    assert made.process is not None
    assert made.process.wait(30) == 0
    assert path.read_text() == "control"


def test_a_child_has_its_own_process_session() -> None:
    made = child("import os, sys; sys.exit(os.getsid(0) != os.getpid())")
    made.start({})
    assert made.process is not None
    assert made.process.wait(30) == 0


def test_processes_forked_by_a_child_are_killed_with_it() -> None:
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


def test_signalling_a_process_that_ended_is_no_error() -> None:
    made = child()
    made.signal(signal.SIGTERM)
    made.kill_group()
    made.start({})
    assert made.process is not None
    made.process.wait(30)
    made.signal(signal.SIGTERM)
    made.kill_group()


def bury(supervisor: Supervisor, *, lived: float, backoff: float = RESTART_SECONDS) -> tuple[float, float]:
    """Return the pause before the next start and the new backoff of a child that died at the age `lived`."""
    dead = child("import os; os.kill(os.getpid(), 9)", backoff=backoff)
    dead.start({})
    assert dead.process is not None
    dead.process.wait(30)
    now = dead.started_at + lived
    supervisor._clean_up(dead, now)
    assert dead.process is None
    return dead.start_at - now, dead.backoff


def test_a_child_that_ran_long_is_restarted_at_once(made: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert bury(made(), lived=SETTLED_SECONDS + 1, backoff=5) == (0, RESTART_SECONDS)
    assert "child exited unexpectedly (SIGKILL); it is restarted" in caplog.text


@pytest.mark.parametrize(("before", "after"), [(0.2, 0.4), (0.4, 0.8), (7, 10), (10, 10)])
def test_a_child_that_dies_young_waits_longer_each_time(made: Any, before: float, after: float) -> None:
    waits, backoff = bury(made(), lived=1, backoff=before)
    assert backoff == after <= MAX_RESTART_SECONDS
    assert waits == pytest.approx(after)


def test_a_dead_child_is_restarted_after_its_backoff(made: Any) -> None:
    supervisor = made()
    waiting, due = child(start_at=time.monotonic() + 600), child()
    supervisor._children = [waiting, due]
    supervisor._check_children()
    assert waiting.process is None
    assert due.process is not None
    due.process.wait(30)


def test_a_child_that_does_not_stop_is_killed(made: Any, caplog: pytest.LogCaptureFixture) -> None:
    stubborn = child("import time; time.sleep(600)")
    stubborn.start({})
    assert made()._wait([stubborn], 0) is False
    assert stubborn.process is not None
    assert stubborn.process.poll() == -signal.SIGKILL
    assert "child did not stop in time; it is killed" in caplog.text


def test_children_that_stopped_or_never_ran_end_cleanly(made: Any) -> None:
    stopped = child()
    stopped.start({})
    assert stopped.process is not None
    stopped.process.wait(30)
    assert made()._wait([stopped, child()], 0) is True


def test_a_failed_fork_is_retried(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = made()
    child = supervisor._children[0]

    def no_room(*args: object, **options: object) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", no_room)
    supervisor._check_children()
    assert child.process is None
    assert child.start_at > time.monotonic()
