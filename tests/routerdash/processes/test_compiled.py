"""Which gateway and control are started: compiled ones if they were built from these sources, else those in Python."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.base.config import load
from routerdash.processes import supervisor as supervisor_module
from routerdash.processes.compiled import DIGEST, compiled_control, compiled_gateway, digest
from routerdash.processes.signals import SignalPipe
from routerdash.processes.supervisor import SETTLED_SECONDS, Supervisor
from tests.router import ROOT, free_port


@pytest.fixture
def package(tmp_path: Path) -> Path:
    package = tmp_path / "gateway"
    (package / "inner").mkdir(parents=True)
    (package / "a.py").write_text("A = 1\n")
    (package / "inner" / "b.py").write_text("B = 1\n")
    return package


@pytest.fixture
def built(tmp_path: Path, package: Path) -> Path:
    folder = tmp_path / "compiled"
    folder.mkdir()
    (folder / DIGEST).write_text(digest(package))
    return folder


def test_a_compiled_gateway_of_these_sources_is_used(built: Path, package: Path) -> None:
    assert compiled_gateway(built, package) == built


def test_without_one_gateways_run_in_python(tmp_path: Path, package: Path) -> None:
    assert compiled_gateway(tmp_path / "compiled", package) is None


@pytest.mark.parametrize("change", ["edit", "add", "remove", "rename"])
def test_a_compiled_gateway_of_other_sources_is_not_used(
    built: Path, package: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    match change:
        case "edit":
            (package / "inner" / "b.py").write_text("B = 2\n")
        case "add":
            (package / "c.py").touch()
        case "remove":
            (package / "a.py").unlink()
        case "rename":
            (package / "a.py").rename(package / "z.py")
    assert compiled_gateway(built, package) is None
    assert "make compile" in caplog.text


def test_compiled_code_of_control_is_used_if_both_its_packages_are_those(tmp_path: Path, package: Path) -> None:
    built, metrics = tmp_path / "control", tmp_path / "metrics"
    assert compiled_control(built, tmp_path) is None
    metrics.mkdir()
    built.mkdir()
    (built / DIGEST).write_text(digest(metrics, package))
    assert compiled_control(built, tmp_path) == built
    (package / "a.py").write_text("A = 2\n")
    assert compiled_control(built, tmp_path) is None


@pytest.fixture
def supervisor(tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A supervisor with a compiled gateway, which never runs; another one with settings of its own can be made."""
    monkeypatch.setattr(supervisor_module, "compiled_gateway", lambda: built)
    monkeypatch.setattr(supervisor_module, "compiled_control", lambda: built / "control")
    made: list[Supervisor] = []

    def make(**settings: str) -> Supervisor:
        environment = {"ROUTERDASH_DATA_DIR": str(tmp_path), "ROUTERDASH_PORT": str(free_port()), **settings}
        made.append(Supervisor(load(environment), str(ROOT)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def directories(supervisor: Supervisor) -> dict[str, str]:
    return {child.role: child.directory for child in supervisor._children}


def test_only_gateways_start_in_its_folder(supervisor: Any, built: Path) -> None:
    assert directories(supervisor()) == {"control": str(ROOT), "gateway": str(built), "background": str(ROOT)}


def test_only_control_finds_its_compiled_package(supervisor: Any, built: Path) -> None:
    paths = {child.role: child.python_path for child in supervisor()._children}
    assert paths == {"control": f"{built}/control:{ROOT}", "gateway": "", "background": ""}


def test_control_imports_the_compiled_package(
    supervisor: Any, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of its script has the package too."""
    (built / "control" / "metrics").mkdir(parents=True)
    (built / "control" / "metrics" / "__init__.py").touch()
    (control,) = [child for child in supervisor()._children if child.role == "control"]
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    index = control.command.index("control")
    script = tmp_path / "script.py"
    script.write_text("import os, sys, metrics, routerdash; print(metrics.__file__, os.environ['PYTHONPATH'])")
    control.command = ["sh", "-c", '"$@" > found', "sh", *control.command[: index - 1], str(script)]
    control.directory = str(tmp_path)
    control.start(dict(os.environ))
    assert control.process.wait(30) == 0
    printed = (tmp_path / "found").read_text().split()
    assert printed == [f"{built}/control/metrics/__init__.py", f"{built}/control:{ROOT}:/elsewhere"]


def test_it_can_be_turned_off(supervisor: Any) -> None:
    one = supervisor(ROUTERDASH_COMPILED="off")
    assert directories(one)["gateway"] == str(ROOT)
    assert not any(child.python_path for child in one._children)


@pytest.mark.parametrize(
    ("end", "after", "falls_back"),
    [
        ("sys.exit(1)", 0.1, True),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 0.1, True),
        ("os.kill(os.getpid(), signal.SIGKILL)", 0.1, False),
        ("sys.exit(1)", SETTLED_SECONDS + 1, False),
    ],
)
def test_a_compiled_gateway_that_does_not_run_is_replaced(
    supervisor: Any, built: Path, end: str, after: float, falls_back: bool, caplog: pytest.LogCaptureFixture
) -> None:
    one = supervisor()
    gateway = next(child for child in one._children if child.role == "gateway")
    gateway.command = [sys.executable, "-c", f"import os, signal, sys; {end}"]
    gateway.start({})
    assert gateway.process is not None
    gateway.process.wait(30)
    with caplog.at_level(logging.ERROR):
        one._clean_up(gateway, gateway.started_at + after)
    assert gateway.directory == str(ROOT if falls_back else built)
    assert ("runs in Python from now on" in caplog.text) == falls_back


@pytest.mark.parametrize("is_first", [True, False])
def test_compiled_control_that_does_not_run_is_replaced(supervisor: Any, is_first: bool) -> None:
    """At the first start, while the supervisor waits for the database, and later."""
    one = supervisor()
    (control,) = [child for child in one._children if child.role == "control"]
    command, directory = control.in_python
    prepare = [sys.executable, "-c", "import os, sys; os.write(int(sys.argv[-1]), b'.'); sys.stdin.read()"]
    control.in_python = (prepare, directory)
    control.command = [sys.executable, "-c", "import os; os.abort()"]
    if is_first:
        with SignalPipe(one._stop.set) as signals:
            assert one._prepare(control, signals) is None
        assert control.process.wait(30) == 0
    else:
        control.start({})
        control.process.wait(30)
        one._clean_up(control, control.started_at + 0.1)
    assert "control" in command
    assert (control.command, control.python_path, control.in_python) == (prepare, "", None)
