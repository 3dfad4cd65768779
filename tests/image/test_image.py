"""The container image in a real engine: `make test-image IMAGE=routerdash ENGINE=podman`.

Skipped without an image. Each container has a read-only root, no capability and its own volume, except where its test
changes this.
"""

import contextlib
import os
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http import Served
from tests.router import KEY, PASSWORD, free_port, until

IMAGE, ENGINE = os.environ.get("TEST_IMAGE", ""), shlex.split(os.environ.get("TEST_ENGINE", "podman"))

pytestmark = [
    pytest.mark.one_database,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not IMAGE, reason="no image is given"),
]

CONFINED = ["--read-only", "--tmpfs", "/tmp:size=64m", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
ZOMBIES = """
import os, signal, time
def found():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
            yield int(pid), fields[0], fields[1], open(f"/proc/{pid}/cmdline").read()
        except OSError:
            pass
if KILLS:
    os.kill(next(pid for pid, _, parent, line in found() if "background" in line and parent == "1"), signal.SIGKILL)
print([pid for pid, state, _, _ in found() if state == "Z"])
"""


def engine(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*ENGINE, *arguments], capture_output=True, text=True, timeout=120, check=check)


class Container(Served):
    """One container, with its volume and a port of the host."""

    def __init__(self, directory: Path) -> None:
        self.name = f"routerdash-test-{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        self.key = KEY
        self.secrets = directory / "secrets"
        self.secrets.mkdir()
        for name, value in (("password", PASSWORD), ("key", KEY)):
            (self.secrets / name).write_text(f"{value}\n")

    @property
    def volume(self) -> str:
        return f"{self.name}:/data"

    def run(self, *options: str, volume: str | None = None) -> "Container":
        volume = self.volume if volume is None else volume
        engine(
            *("run", "--detach", "--name", self.name, "--publish", f"127.0.0.1:{self.port}:32768"),
            *(["--volume", volume] if volume else []),
            *("--volume", f"{self.secrets}:/run/secrets:ro"),
            *("--env", "ROUTERDASH_ADMIN_PASSWORD_FILE=/run/secrets/password"),
            *("--env", "ROUTERDASH_BOOTSTRAP_API_KEY_FILE=/run/secrets/key"),
            *options,
            IMAGE,
        )
        return self.ready()

    def ready(self) -> "Container":
        until(self._is_ready, 60, 0.2)
        return self

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.get("/ready").status == 200
        return False

    def python(self, code: str) -> str:
        return engine("exec", self.name, "python", "-c", code).stdout.strip()

    def inspect(self, what: str) -> str:
        return engine("inspect", self.name, "--format", f"{{{{{what}}}}}").stdout.strip()

    def remove(self) -> None:
        engine("rm", "--force", self.name, check=False)
        engine("volume", "rm", "--force", self.name, check=False)


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    made = Container(tmp_path)
    yield made
    made.remove()


def refused(*options: str) -> str:
    """Return the one-line error of a start that must fail with code 2."""
    done = engine("run", "--rm", *options, IMAGE, check=False)
    assert done.returncode == 2, done
    errors = [line for line in done.stderr.splitlines() if line.startswith("routerdash: ")]
    assert len(errors) == 1, done
    assert "Traceback" not in done.stderr
    return errors[0]


def test_the_container_serves_without_privileges(container: Container) -> None:
    container.run(*CONFINED)
    assert container.get("/v1/models").status == 200
    status = container.python("print(open('/proc/1/status').read())")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Uid:\t10001\t10001" in status
    assert "volatile" not in [item["kind"] for item in container.get("/api/dashboard/attention").json()]
    check = ["exec", container.name, "/opt/routerdash/bin/python", "-m", "routerdash.healthcheck"]
    until(lambda: engine(*check, check=False).returncode == 0, 30)


def test_environments_contain_no_secret(container: Container) -> None:
    container.run(*CONFINED)
    code = "import glob; print([p for p in glob.glob('/proc/[0-9]*/environ') if SECRET in open(p).read()])"
    assert container.python(code.replace("SECRET", repr(KEY))) == "[]"


def test_process_1_reaps_orphans(container: Container) -> None:
    container.run(*CONFINED)
    container.python(ZOMBIES.replace("KILLS", "True"))
    until(lambda: container.python(ZOMBIES.replace("KILLS", "False")) == "[]")


def test_the_container_stops_in_order(container: Container) -> None:
    container.run(*CONFINED)
    engine("stop", "--time", "30", container.name)
    assert container.inspect(".State.ExitCode") == "0"


def test_a_killed_container_keeps_its_figures(container: Container) -> None:
    container.run(*CONFINED)
    assert container.post("/v1/chat/completions", {"model": "none", "messages": []}).status == 404
    engine("kill", "--signal", "KILL", container.name)
    engine("start", container.name)
    container.ready()
    until(lambda: container.get("/api/dashboard/stats").json()["rejected_requests"] == 1)
    assert engine("exec", container.name, "routerdash", "reconcile").returncode == 0


def test_a_start_without_a_volume_causes_a_warning(container: Container) -> None:
    container.run(volume="")
    assert "volatile" in [item["kind"] for item in container.get("/api/dashboard/attention").json()]
    assert "no volume is mounted for /data" in engine("logs", container.name).stderr


def test_the_time_zone_comes_from_tz(container: Container) -> None:
    container.run(*CONFINED, "--env", "TZ=Asia/Tokyo")
    code = "from django.conf import settings; print(settings.TIME_ZONE)"
    assert engine("exec", container.name, "routerdash", "shell", "-v", "0", "-c", code).stdout.strip() == "Asia/Tokyo"


def test_a_volume_of_another_owner_is_refused_with_a_hint(tmp_path: Path) -> None:
    line = refused("--volume", f"{tmp_path}:/data")
    assert "/data belongs to user " in line
    assert "Run `chown -R 10001:10001 /data`" in line


def test_a_read_only_root_without_a_volume_is_refused_with_a_hint() -> None:
    assert refused("--read-only").endswith("/data cannot be used: Read-only file system; mount a volume there")


def test_the_image_has_no_compiler_and_no_installer() -> None:
    code = f"import shutil; print([it for it in {('gcc', 'cc', 'pip', 'pip3')} if shutil.which(it)])"
    assert engine("run", "--rm", "--entrypoint", "python", IMAGE, "-c", code).stdout.strip() == "[]"
