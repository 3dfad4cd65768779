"""Names of modules, functions and models that databases, scripts and process lists hold survive every move of code."""

import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import pytest
from django.apps import apps
from django.db.models import Model
from django.test import override_settings
from django.utils.module_loading import import_string

from benchmarks.process import ROOT
from endpoints import edit_versions
from endpoints.fields import LineField
from routerdash.processes import schedules
from tests.endpoints.conftest import make_endpoint

PACKAGES = ("gateway", "endpoints", "access", "metrics", "routerdash")

# Rows of django-q2 hold these names: schedules, and queued tasks.
TASKS = {"endpoints.tasks.prune_health_checks", "endpoints.tasks.sync_models", "metrics.tasks.prune_history"}

# The modules that run as processes: of the supervisor, of the image and its health check, of the command.
PROCESSES = {"gateway.main", "routerdash", "routerdash.healthcheck"}

# All that migrations import from the product. A migration holds a copy of anything else that it needs.
IN_MIGRATIONS = {"access.models", "endpoints.fields", "endpoints.models", "endpoints.text"}

# Rows of django_content_type, auth_permission, django_admin_log and django_migrations name apps and models.
TABLES = {
    "access.apikey": "api_keys",
    "access.budgetrow": "budgets",
    "access.deletedkey": "deleted_keys",
    "access.limitrow": "limits",
    "access.user": "users",
    "endpoints.changecounter": "change_counters",
    "endpoints.endpoint": "endpoints",
    "endpoints.endpointmodel": "endpoint_models",
    "endpoints.endpointoptions": "endpoint_options",
    "endpoints.healthcheck": "endpoint_health_checks",
    "endpoints.namedmodel": "model_names",
    "endpoints.namestep": "model_name_steps",
    "endpoints.nametarget": "model_name_targets",
    "endpoints.registrychange": "registry_changes",
    "endpoints.registryposition": "registry_position",
    "metrics.adoptedday": "adopted_days",
    "metrics.adoptedhistory": "adopted_history",
    "metrics.allclientsrollup": "rollup_all_clients",
    "metrics.baseline": "endpoint_baselines",
    "metrics.clientdayrollup": "rollup_client_days",
    "metrics.clienthourrollup": "rollup_client_hours",
    "metrics.currencyrate": "currency_rates",
    "metrics.dailystat": "endpoint_daily_stats",
    "metrics.costdayrollup": "rollup_cost_days",
    "metrics.costkey": "rollup_cost_keys",
    "metrics.costsum": "rollup_cost_sums",
    "metrics.dayrollup": "rollup_days",
    "metrics.hardwarebatch": "hardware_batches",
    "metrics.hardwaredayrollup": "rollup_hardware_days",
    "metrics.hardwaredue": "hardware_due",
    "metrics.hardwarehour": "hardware_hours",
    "metrics.hardwareposition": "hardware_positions",
    "metrics.hardwareraterow": "hardware_rates",
    "metrics.hardwarework": "hardware_work",
    "metrics.installation": "installation",
    "metrics.journalposition": "journal_positions",
    "metrics.lastuse": "api_key_last_uses",
    "metrics.lengthwindow": "learning_lengths",
    "metrics.minuterollup": "rollup_minutes",
    "metrics.monthrollup": "rollup_months",
    "metrics.movingaverage": "moving_averages",
    "metrics.pastspeeds": "learning_past",
    "metrics.pricerow": "prices",
    "metrics.refuseddayrollup": "rollup_refused_days",
    "metrics.requesthistory": "request_history",
    "metrics.serveddayrollup": "rollup_served_days",
    "metrics.setting": "settings",
    "metrics.slowstart": "learning_starts",
    "metrics.speedwindow": "learning_speeds",
    "metrics.loadwindow": "learning_loads",
    "metrics.total": "metric_totals",
}
PERMISSIONS = {"metrics.view_bodies"}  # besides Django's own four of each model


def sources() -> Iterator[Path]:
    return chain.from_iterable(sorted((ROOT / package).rglob("*.py")) for package in PACKAGES)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_stored_task_is_a_function(name: str) -> None:
    assert callable(import_string(name))


def test_no_task_is_stored_under_another_name() -> None:
    assert {function for function, _ in schedules.SCHEDULES.values()} <= TASKS
    assert {name for path in sources() for name in re.findall(r'"(\w+\.tasks\.\w+)"', path.read_text())} == TASKS


@pytest.mark.django_db
@override_settings(SECRET_KEY="of an installation")
def test_an_etag_of_an_earlier_release_still_matches() -> None:
    endpoint = make_endpoint("basement", "http://10.0.0.5:8000", api_key_encrypted="sk-old", notes="n")
    assert edit_versions.of(endpoint) == "ba44d4bc4680ebad-67620c3b7f353387"


def test_only_loggers_take_the_name_of_their_module() -> None:
    """A key, a salt or a stored name that is derived from `__name__` changes when its module moves."""
    for path in sources():
        for line in path.read_text().splitlines():
            if re.search(r"(?<!\.)__name__", line):
                assert re.match(r'log = logging.getLogger\(__name__\)$|if __name__ == "__main__":$', line), (path, line)


def test_processes_are_modules() -> None:
    files = (*sources(), ROOT / "Dockerfile", ROOT / "compose.yaml")
    pattern = re.compile(r'(?:python"|executable|\[)(?:, )?"-m", "([\w.]+)"')
    named = {name for file in files for name in pattern.findall(file.read_text())}
    assert named - {"build", "compileall"} == PROCESSES
    assert all(find_spec(name) is not None for name in PROCESSES)


def test_the_installed_command_is_a_function() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"routerdash": "routerdash.cli:main"}
    assert callable(import_string(scripts["routerdash"].replace(":", ".")))


def test_migrations_import_only_modules_that_stay() -> None:
    pattern = re.compile(rf"^(?:from|import) ((?:{'|'.join(PACKAGES)})\b[\w.]*)", re.MULTILINE)
    imported = {
        name for path in sources() if path.parent.name == "migrations" for name in pattern.findall(path.read_text())
    }
    assert imported == IN_MIGRATIONS


def test_a_field_in_migrations_has_a_name_that_stays() -> None:
    assert LineField().deconstruct()[1] == "endpoints.fields.LineField"


def test_models_keep_their_names_and_tables() -> None:
    models = [model for package in PACKAGES for model in _models(package)]
    assert {model._meta.label_lower: model._meta.db_table for model in models} == TABLES
    assert {f"{model._meta.app_label}.{name}" for model in models for name, _ in model._meta.permissions} == PERMISSIONS


def _models(label: str) -> Iterator[type[Model]]:
    if label in apps.app_configs:
        yield from apps.get_app_config(label).get_models(include_auto_created=True)
