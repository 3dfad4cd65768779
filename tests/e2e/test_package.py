"""The wheel, installed into an empty environment as users install it, and used without the checkout."""

import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.process import ROOT, clean_environment
from benchmarks.simulator import Simulator
from tests import llamacpp, programs
from tests.reference.make_reference_db import make
from tests.router import RouterDash, until
from tests.routerdash.commands import Done, manage, one_line

pytestmark = [pytest.mark.one_database, pytest.mark.timeout(300)]

PACKAGES = {"access", "endpoints", "gateway", "metrics", "routerdash"}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by `make package` once for all processes of the run."""
    folder = tmp_path_factory.getbasetemp().parent / "dist"
    with llamacpp.alone("package"):
        if not list(folder.glob("*.whl")):
            command = ["make", "--silent", "package", f"DIST={folder}", f"PYTHON={sys.executable}"]
            done = subprocess.run(command, cwd=ROOT, timeout=200, capture_output=True, text=True, check=False)
            if done.returncode:
                programs.leave_out_if_offline("pip", done.stderr)
            assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The installed program in an empty environment, without modules of the checkout."""
    return install(tmp_path_factory.mktemp("empty"), wheel, llamacpp.install)


def by_pip(directory: Path, wheel: str) -> None:
    llamacpp.pip("--python", str(directory), "install", wheel)


def install(directory: Path, wheel: Path, installer: Callable[[Path, str], None]) -> Path:
    venv.create(directory)
    installer(directory, str(wheel))
    return directory / "bin" / "routerdash"


def run(program: Path, *arguments: str, **environment: str) -> Done:
    home = program.parent.parent / "home"
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [str(program), *arguments],
        cwd=home,
        env=clean_environment({"PYTHONPATH": "", "HOME": str(home), "XDG_DATA_HOME": "", **environment}),
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def installation(tmp_path: Path, empty: Path) -> Iterator[RouterDash]:
    """An installation of the installed program with the default data directory."""
    made = of(empty, tmp_path)
    yield made
    made.kill()


def of(program: Path, directory: Path) -> RouterDash:
    made = RouterDash(directory, ROUTERDASH_DATA_DIR="", XDG_DATA_HOME=str(directory / "xdg"), PYTHONPATH="")
    made.program = [str(program)]
    made.data_dir = directory / "xdg" / "routerdash"
    return made


def test_an_installation_by_pip_serves(tmp_path: Path, wheel: Path, sim: Simulator) -> None:
    made = of(install(tmp_path / "environment", wheel, by_pip), tmp_path)
    try:
        made.start()
        made.register(sim.add(models=["tiny"]))
        until(lambda: made.chat("tiny").status == 200)
    finally:
        made.kill()


def test_an_installation_serves_counts_and_survives(installation: RouterDash, sim: Simulator) -> None:
    router = installation.start()
    endpoint = router.add(sim.add())
    assert router.chat().status == 200
    assert b"data: [DONE]" in router.chat(stream=True).body
    assert router.request("GET", "/login", headers={"Accept-Language": "ja"}, key=None).body.count("ログイン".encode())
    for path in ("/static/css/routerdash.css", "/static/js/parts.js", "/static/vendor/uplot/uPlot.min.css"):
        assert router.get(path).status == 200
    assert router.log_in("admin", router.environment["ROUTERDASH_ADMIN_PASSWORD"])[0] == 200
    assert router.get("/api/requests/export?format=csv").status == 200  # in its own process
    router.kill()
    router.start()
    until(lambda: router.counters(endpoint) == (2, 2, 0))
    assert router.manage("reconcile").returncode == 0
    assert router.stop() == 0


def test_data_is_in_the_xdg_directory_and_not_in_the_working_directory(installation: RouterDash) -> None:
    installation.start().stop()
    assert (installation.data_dir / "routerdash.sqlite3").stat().st_mode & 0o777 == 0o600
    assert installation.data_dir.stat().st_mode & 0o777 == 0o700
    assert not (installation.directory / "data").exists()


def test_no_module_comes_from_the_checkout(empty: Path) -> None:
    code = "import gateway, endpoints, metrics, access, routerdash as r; print(*(m.__file__ for m in (gateway, r)))"
    python = empty.with_name("python")
    done = subprocess.run(
        [str(python), "-c", code], env=clean_environment({"PYTHONPATH": ""}), capture_output=True, text=True, cwd="/"
    )
    assert all(path.startswith(str(empty.parent.parent)) for path in done.stdout.split()), done


def test_it_has_all_commands_of_the_checkout(empty: Path) -> None:
    commands = run(empty, "help", "--commands").out
    assert commands == manage("help", "--commands").out
    assert {"serve", "adopt", "reconcile", "journal", "check"} <= set(commands.split())


@pytest.mark.parametrize("argument", ["--help", "help", "check", "version", "--version"])
def test_commands_that_need_no_data_directory(empty: Path, argument: str) -> None:
    done = run(empty, argument)
    assert (done.code, done.err) == (0, "")
    assert not (empty.parent.parent / "home" / ".local").exists()


def test_the_version_is_that_of_the_wheel(empty: Path, wheel: Path) -> None:
    assert run(empty, "version").out.strip() == f"routerdash {wheel.name.split('-')[1]}"


def test_an_unknown_command_ends_with_an_error_and_a_hint(empty: Path) -> None:
    done = run(empty, "sevre")
    assert done.code == 1
    assert "Unknown command: 'sevre'. Did you mean serve?" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("command", ["serve", "check", "reconcile"])
def test_a_bad_setting_ends_with_one_line_and_code_2(empty: Path, command: str) -> None:
    done = run(empty, command, ROUTERDASH_PORT="http")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("routerdash: ROUTERDASH_PORT must be")
    assert one_line(done.err)


def test_errors_name_the_installed_command(installation: RouterDash, tmp_path: Path) -> None:
    path = tmp_path / "llmlb.sqlite3"
    make(path, requests=5)
    installation.environment["DATABASE_URL"] = f"sqlite:///{path}"
    done = installation.manage("serve")
    assert done.returncode == 2
    assert "adopt it with `routerdash adopt`" in done.stderr


def test_the_wheel_contains_all_files_of_pages_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("templates", "static", "locale"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file():
                assert f"routerdash/assets/{path.relative_to(ROOT)}" in names
    assert "routerdash/adoption/llmlb_schema.json" in names
    assert {name.split(os.sep)[0] for name in names} - PACKAGES == {f"{wheel.stem.split('-py3')[0]}.dist-info"}
    migrations = {
        str(migration.relative_to(ROOT)) for app in PACKAGES for migration in (ROOT / app).glob("migrations/0*.py")
    }
    assert migrations <= names
