"""The image, the compose file, the systemd unit and the pinned requirements agree with RouterDash."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.base.config import load, secret_names, table
from metrics.exports import downloads
from tests.test_docs import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = yaml.safe_load((ROOT / "compose.yaml").read_text())
COMPOSE = PROJECT["services"]["routerdash"]
WITH_SECRETS = yaml.safe_load((ROOT / "compose.secrets.yaml").read_text())
UNIT = (ROOT / "packaging" / "routerdash.service").read_text()
LOCKS = [*ROOT.glob("requirements*.txt"), *ROOT.glob("tests/*/requirements.txt"), *ROOT.glob("tests/*/weights.txt")]
SETTINGS = {name for name, _, _ in table()} | {f"{name}_FILE" for name in secret_names()} | {"TZ", "PATH", "HOME"}

needs_systemd = pytest.mark.needs("systemd-analyze")


# Requirements


def pinned(path: Path) -> dict[str, list[str]]:
    """The hashes of each requirement `name==version` of a file."""
    hashes: dict[str, list[str]] = {}
    name = ""
    for line in path.read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+(?:\[[a-z,]+\])?==[^\s;]+)", line):
            name = match[1]
            hashes[name] = []
        elif line and not line.lstrip().startswith(("#", "--hash=sha256:")):
            pytest.fail(f"{path.name}: {line}")
        hashes.get(name, []).extend(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    return hashes


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_requirement_is_pinned_with_hashes(path: Path) -> None:
    requirements = pinned(path)
    assert requirements
    assert [name for name, hashes in requirements.items() if not hashes] == []


def test_tests_use_the_shipped_requirements() -> None:
    shipped, tested = (pinned(ROOT / name) for name in ("requirements.txt", "requirements-dev.txt"))
    assert {name: tested.get(name) for name in shipped} == shipped


def test_requirements_of_the_wheel_are_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[<>=]", wanted)[0].lower() for wanted in project["dependencies"]}
    assert names <= {name.split("==")[0].lower() for name in pinned(ROOT / "requirements.txt")}


def test_the_image_compiles_the_gateway_with_the_mypy_that_checks_it() -> None:
    versions = {
        next(requirement for requirement in pinned(ROOT / name) if requirement.startswith("mypy=="))
        for name in ("requirements-dev.txt", "requirements-tools.txt")
    }
    assert len(versions) == 1


def test_no_file_of_requirements_names_a_registry() -> None:
    for path in (*LOCKS, *ROOT.glob("requirements*.in"), *ROOT.glob("tests/*/requirements.in")):
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", path.read_text()), path


# The image


def test_the_images_settings_exist() -> None:
    environment = DOCKERFILE.split("\nENV PATH")[1].split("\nUSER")[0]
    names = re.findall(r"([A-Z_]+)=", environment)
    assert "ROUTERDASH_IN_CONTAINER" in names
    assert set(names) - {"PYTHONDONTWRITEBYTECODE"} <= SETTINGS


def test_the_image_exposes_the_default_port() -> None:
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE) == [str(load({}).port)]


def test_the_image_runs_as_a_numeric_user_without_a_shell() -> None:
    last = DOCKERFILE.split("\nFROM ")[-1]
    user = re.findall(r"^USER (.+)$", last, re.MULTILINE)
    assert user == ["10001:10001"]
    assert f"--chown={user[0]} /empty /data" in last
    for command in re.findall(r"^(?:ENTRYPOINT|CMD|    CMD|RUN) (.*)$", DOCKERFILE, re.MULTILINE):
        assert isinstance(json.loads(command), list)


def test_the_image_declares_no_anonymous_volume() -> None:
    assert not re.search(r"^VOLUME", DOCKERFILE, re.MULTILINE)


def test_the_build_context_has_the_sources_of_the_wheel_and_no_secret() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines  # and from there on the included files
    given = {line[1:] for line in lines if line.startswith("!")}
    assert {"access", "endpoints", "gateway", "metrics", "routerdash", "locale", "static", "templates"} <= given
    assert {named.partition("/")[0] for named in re.findall(r"python\S* (packaging/\S+)", DOCKERFILE)} <= given
    assert all((ROOT / name).exists() for name in given)
    assert given & {"data", "secrets", ".git", ".venv"} == set()


# The compose file


def test_the_compose_file_drops_all_privileges() -> None:
    assert COMPOSE["read_only"] is True
    assert COMPOSE["cap_drop"] == ["ALL"]
    assert COMPOSE["security_opt"] == ["no-new-privileges:true"]
    assert COMPOSE["volumes"] == ["routerdash:/data"]


def files_of_env(service: dict[str, Any]) -> list[str]:
    """Return the files of variables without which Compose refuses a service."""
    named = service.get("env_file", [])
    entries = [
        {"path": each} if isinstance(each, str) else each for each in ([named] if isinstance(named, str) else named)
    ]
    return [entry["path"] for entry in entries if entry.get("required", True)]


def needed_by(project: dict[str, Any], folder: Path) -> list[str]:
    """Return what must be there before `docker compose up`, by the rules of the Compose specification.

    These are files of secrets, configs and variables, bind mounts, variables without a default, and volumes, networks
    and secrets that another project makes.
    """
    needed: list[str] = []
    for kind in ("secrets", "configs"):
        for made in project.get(kind, {}).values():
            needed += [made[source] for source in ("file", "environment") if source in made]
    for kind in ("secrets", "configs", "volumes", "networks"):
        needed += [name for name, made in (project.get(kind) or {}).items() if (made or {}).get("external")]
    for service in project["services"].values():
        needed += files_of_env(service)
        needed += [source for volume in service.get("volumes", []) if (source := volume.split(":")[0])[0] in "./~"]
        if "build" in service:
            needed += [] if (folder / service["build"] / "Dockerfile").exists() else ["Dockerfile"]
    variables = re.findall(r"(?<!\$)\$(?:\{(\w+)([^}]*)\}|(\w+))", str(project))
    return needed + [bare or name for name, rest, bare in variables if not rest.startswith((":-", "-"))]


def test_compose_needs_no_prepared_file_and_no_variable() -> None:
    assert needed_by(PROJECT, ROOT) == []
    assert "ports" in COMPOSE
    assert PROJECT["volumes"] == {"routerdash": None}
    assert COMPOSE["build"] == "."
    # Compose would first ask a registry for an image of that name, which anybody may have put there.
    assert "image" not in COMPOSE


def test_what_compose_would_miss_is_noticed() -> None:
    service = {
        "image": "a",
        "env_file": ["a.env", {"path": "b.env"}, {"path": "c.env", "required": False}],
        "volumes": ["./local:/data", "named:/other"],
        "environment": {"A": "${TZ:-UTC}", "B": "${KEY}", "C": "$$literal", "D": "$PLAIN"},
    }
    project = {"services": {"one": service}, "secrets": {"s": {"file": "./s"}}, "volumes": {"v": {"external": True}}}
    assert needed_by(project, ROOT) == ["./s", "v", "a.env", "b.env", "./local", "KEY", "PLAIN"]
    assert needed_by({"services": {"one": {"env_file": "a.env"}}}, ROOT) == ["a.env"]


def test_a_server_of_the_host_has_a_name_in_the_container() -> None:
    assert COMPOSE["extra_hosts"] == ["host.docker.internal:host-gateway"]


def test_the_compose_files_have_secrets_only_in_files() -> None:
    given = WITH_SECRETS["services"]["routerdash"]
    for environment in (COMPOSE["environment"], given["environment"]):
        assert set(environment) <= SETTINGS
        assert not set(environment) & set(secret_names())
    assert list(given["environment"].values()) == [f"/run/secrets/{name}" for name in given["secrets"]]
    assert list(WITH_SECRETS["secrets"]) == given["secrets"]


def test_the_compose_file_and_the_image_check_health_alike() -> None:
    command = json.loads(re.findall(r"^    CMD (.+)$", DOCKERFILE, re.MULTILINE)[0])
    assert COMPOSE["healthcheck"]["test"] == ["CMD", *command]


def test_the_compose_file_waits_for_a_graceful_stop() -> None:
    assert int(COMPOSE["stop_grace_period"].rstrip("s")) >= load({}).drain_secs + 5


# The systemd unit


def test_the_units_settings_exist() -> None:
    assert set(re.findall(r"^Environment=([A-Z_]+)=", UNIT, re.MULTILINE)) <= SETTINGS


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the unit with an existing program."""
    path = tmp_path / "routerdash.service"
    path.write_text(UNIT.replace("/opt/routerdash/bin/routerdash", "/bin/true"))
    return path


@needs_systemd
def test_systemd_accepts_the_unit(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if unit.name in line]) == (0, [])


@needs_systemd
def test_the_unit_has_a_low_exposure(unit: Path) -> None:
    """Ten is the maximum exposure; the test fails above two (20 tenths)."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:]


def test_the_unit_limits_memory_and_does_not_restart_after_a_bad_setting() -> None:
    assert re.search(r"^MemoryMax=2G$", UNIT, re.MULTILINE)
    assert re.search(r"^RestartPreventExitStatus=2$", UNIT, re.MULTILINE)


# Processes of downloads


def test_the_process_of_a_download_inherits_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in secret_names():
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("DATABASE_URL_FILE", "/run/secrets/hunter2")
    environment = downloads.worker_environment()
    assert "PATH" in environment
    assert not any("hunter2" in value for value in environment.values())
