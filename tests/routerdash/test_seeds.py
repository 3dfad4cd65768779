"""Only control reads figures from the database when it starts, once: in AppConfig.ready."""

from pathlib import Path

import pytest
from django.conf import settings

from metrics.memory.runtime import runtime
from metrics.storage import seeding
from tests.routerdash.commands import Done, manage, python

pytestmark = pytest.mark.every_database

PREPARE = "from routerdash.processes import prepare; prepare.create_database(config); prepare.migrate(config)\n"
SEEDS = """import os
from metrics.memory.runtime import runtime
from metrics.storage import seeding
print(seeding.seeds, runtime.trackers.seeded, os.environ.get("ROUTERDASH_ROLE"))
"""
COMMAND = "from django.core.management import call_command; call_command(*{!r})\n"
COUNTED = "from metrics.models import Total; Total.objects.create(name='requests_ok', value=7)\n"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a prepared database."""
    made = tmp_path_factory.mktemp("seeds")
    assert python(PREPARE + COUNTED, ROUTERDASH_DATA_DIR=str(made)).code == 0
    return made


def seeds(directory: Path, role: str = "", code: str = "", **environment: str) -> Done:
    return python(code + SEEDS, ROUTERDASH_DATA_DIR=str(directory), ROUTERDASH_ROLE=role, **environment)


def test_ready_fills_the_trackers_of_control(directory: Path) -> None:
    shown = "from metrics.memory.runtime import runtime; print(runtime.follower.figures().totals)\n"
    done = seeds(directory, "control", shown)
    assert done.out == "{'requests_ok': 7}\n1 True None\n", done.err
    assert done.err == ""


@pytest.mark.parametrize("role", ["", "background", "gateway"])
def test_other_processes_do_not_seed(directory: Path, role: str) -> None:
    done = seeds(directory, role)
    assert done.out == f"0 False {role or ''}\n".replace(" \n", " \n"), done.err


@pytest.mark.parametrize("command", [("migrate",), ("check",), ("jobs", "--help"), ("reconcile",)])
def test_commands_do_not_seed(directory: Path, command: tuple[str, ...]) -> None:
    ended = f"try:\n    {COMMAND.format(command).replace('; ', chr(10) + '    ')}except SystemExit:\n    pass\n"
    assert seeds(directory, code=ended).out.endswith("0 False \n")


def test_this_process_has_not_seeded() -> None:
    assert (settings.ROUTERDASH_ROLE, runtime.trackers.seeded, seeding.missed) == ("", False, None)


def test_a_database_that_is_still_to_be_made_is_left_alone(tmp_path: Path) -> None:
    done = seeds(tmp_path, "control")
    assert (done.out, done.err) == ("0 False None\n", "")
    assert not list(tmp_path.glob("*.db*")) + list(tmp_path.glob("*.sqlite3*"))


def test_a_database_that_is_still_to_be_migrated_is_read_afterwards(directory: Path, tmp_path: Path) -> None:
    """As the command `control` does it at the first start, and after an upgrade."""
    assert python(PREPARE + COUNTED, ROUTERDASH_DATA_DIR=str(tmp_path)).code == 0
    assert manage("migrate", "metrics", "0023", ROUTERDASH_DATA_DIR=str(tmp_path)).code == 0
    once = "from metrics.storage import seeding; seeding.seed_once_prepared()\n"
    done = seeds(tmp_path, "control", SEEDS + PREPARE + once + once)
    assert done.out == "0 False None\n1 True None\n", done.err


def test_requests_of_llmlb_that_are_counted_meanwhile_are_read(directory: Path) -> None:
    bump = "from endpoints.changes import counters; counters.bump(counters.FIGURES)\n"
    once = "from metrics.storage import seeding; seeding.seed_once_prepared()\n"
    assert seeds(directory, "control", once + bump + once + once).out == "2 True None\n"


def test_a_database_that_is_away_does_not_stop_the_start(tmp_path: Path) -> None:
    once = "from metrics.storage import seeding; seeding.seed_once_prepared()\n"
    done = seeds(tmp_path, "control", once, ROUTERDASH_DATABASE_URL="postgres://nobody@127.0.0.1:9/none")
    assert done.out == "0 False None\n"
    assert done.err.count("figures could not be read from the database") == 1
