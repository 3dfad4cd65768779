"""Which gateway is started: the compiled one if it was built from these sources, else the one in Python."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.base.config import load
from routerdash.processes import supervisor as supervisor_module
from routerdash.processes.compiled import DIGEST, compiled_gateway, digest
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


@pytest.fixture
def supervisor(tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A supervisor with a compiled gateway, which never runs; another one with settings of its own can be made."""
    monkeypatch.setattr(supervisor_module, "compiled_gateway", lambda: built)
    made: list[Supervisor] = []

    def make(**settings: str) -> Supervisor:
        environment = {"ROUTERDASH_DATA_DIR": str(tmp_path), "ROUTERDASH_PORT": str(free_port()), **settings}
        made.append(Supervisor(load(environment), str(ROOT)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def directories(supervisor: Supervisor) -> dict[str, str]:
    return {it.role: it.directory for it in supervisor._children}


def test_only_gateways_start_in_its_folder(supervisor: Any, built: Path) -> None:
    assert directories(supervisor()) == {"control": str(ROOT), "gateway": str(built), "background": str(ROOT)}


def test_it_can_be_turned_off(supervisor: Any) -> None:
    assert directories(supervisor(ROUTERDASH_COMPILED="off"))["gateway"] == str(ROOT)


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
    gateway = next(it for it in one._children if it.role == "gateway")
    gateway.command = [sys.executable, "-c", f"import os, signal, sys; {end}"]
    gateway.start({})
    assert gateway.process is not None
    gateway.process.wait(30)
    with caplog.at_level(logging.ERROR):
        one._clean_up(gateway, gateway.started_at + after)
    assert gateway.directory == str(ROOT if falls_back else built)
    assert ("runs in Python from now on" in caplog.text) == falls_back
