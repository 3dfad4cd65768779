"""Figures are read from the database by control alone, once."""

import pytest
from django.apps import apps
from django.conf import settings

from metrics import seeding
from tests.routerdash.processes import manage, python
from tests.routerdash.test_prepare import UP_TO_DATE

SEEDS = "from metrics import seeding; from metrics.teller import trackers\nprint(seeding.seeds, trackers.seeded)"


def test_tests_do_not_seed() -> None:
    assert seeding.seeds == 0


@pytest.mark.django_db
def test_only_the_role_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = apps.get_app_config("metrics").ready
    for role in ("", "background", "gateway", "serve"):
        monkeypatch.setattr(settings, "ROUTERDASH_ROLE", role)
        ready()
    assert seeding.seeds == 0


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("data"))
    assert python(UP_TO_DATE, ROUTERDASH_DATA_DIR=path).code == 0
    return path


@pytest.mark.parametrize("role", ["", "background", "gateway"])
def test_other_processes_do_not_seed(data_dir: str, role: str) -> None:
    assert python(SEEDS, ROUTERDASH_DATA_DIR=data_dir, ROUTERDASH_ROLE=role).out == "0 False\n"


def test_control_seeds_once(data_dir: str) -> None:
    done = python(SEEDS, ROUTERDASH_DATA_DIR=data_dir, ROUTERDASH_ROLE="control")
    assert (done.out, done.err) == ("1 True\n", "")


def test_control_without_a_database_starts_without_figures(tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    done = python(SEEDS, ROUTERDASH_DATA_DIR=str(empty), ROUTERDASH_ROLE="control")
    assert (done.code, done.out) == (0, "0 False\n")
    assert done.err.count("\n") == 1
    assert "figures could not be read from the database" in done.err
    assert list(empty.iterdir()) == []


def test_control_with_a_corrupt_database_starts_without_figures(tmp_path_factory: pytest.TempPathFactory) -> None:
    data_dir = tmp_path_factory.mktemp("corrupt")
    (data_dir / "routerdash.sqlite3").write_bytes(b"this is no database, but long enough to look at" * 100)
    done = python(SEEDS, ROUTERDASH_DATA_DIR=str(data_dir), ROUTERDASH_ROLE="control")
    assert (done.code, done.out) == (0, "0 False\n")
    assert "figures could not be read from the database" in done.err


def test_a_check_does_not_seed(data_dir: str) -> None:
    code = "from django.core.management import call_command; call_command('check'); "
    assert python(code + SEEDS, ROUTERDASH_DATA_DIR=data_dir).out.endswith("0 False\n")


def test_the_checks_command_needs_no_database(tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    done = manage("check", ROUTERDASH_DATA_DIR=str(empty))
    assert done.code == 0
    assert list(empty.iterdir()) == []
