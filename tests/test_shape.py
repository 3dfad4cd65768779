"""The shape of the project that is fixed: its folders, its four packages, signals that fill caches, and `ready`.

tests/routerdash/test_seeds.py shows that only control seeds its trackers in AppConfig.ready.
"""

import ast
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import get_commands
from django.db.models.signals import post_delete, post_save

from endpoints.models import Endpoint, EndpointModel, EndpointOptions, merge_latency
from endpoints.registry import registry
from tests.endpoints.conftest import make_endpoint
from tests.router import ROOT

# At the top level: what the project was asked to have, and the packages of the data plane and of users beside it.
ASKED = {"manage.py", "routerdash", "endpoints", "metrics", "templates", "requirements.txt"}
PACKAGES = {"access", "benchmarks", "endpoints", "gateway", "metrics", "routerdash", "tests"}
APPS = ("endpoints", "metrics", "access", "routerdash")

# The packages that the project was asked to be made of, and where each is selected.
OF_REQUIREMENTS = {"django", "djangorestframework", "django-q2"}
OF_TESTS = {"pytest-django"}


def test_the_top_level_has_the_names_that_were_asked_for() -> None:
    assert {name for name in ASKED if (ROOT / name).exists()} == ASKED
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py") if not path.parent.name.startswith(".")}
    assert packages == PACKAGES


def test_each_app_is_a_folder_at_the_top_level() -> None:
    assert [apps.get_app_config(label).path for label in APPS] == [str(ROOT / label) for label in APPS]
    models = {model._meta.app_label for model in apps.get_models()}
    assert {"endpoints", "metrics", "access"} <= models


def test_pages_are_in_templates() -> None:
    (engine, *_) = settings.TEMPLATES
    assert engine["DIRS"] == [ROOT / "templates"]


def pinned(name: str) -> set[str]:
    """Return the packages that a file of requirements pins."""
    lines = (ROOT / name).read_text().splitlines()
    return {line.split("==")[0].split("[")[0].strip().lower() for line in lines if "==" in line and line[0] not in " #"}


def test_requirements_have_the_four_packages() -> None:
    assert pinned("requirements.txt") >= OF_REQUIREMENTS
    assert pinned("requirements-dev.txt") >= OF_TESTS
    selected = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {text.split(">")[0].split("[")[0].lower() for text in selected}
    assert names >= OF_REQUIREMENTS


def test_the_packages_are_in_use() -> None:
    assert {"rest_framework", "django_q"} <= set(settings.INSTALLED_APPS)
    assert get_commands()["qcluster"] == "django_q"


# Signals after saves refresh the cache of the process


@pytest.mark.django_db
def test_saves_and_deletions_refresh_the_cache(django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        endpoint = make_endpoint()
    assert registry.get(str(endpoint.pk)) is not None
    with django_capture_on_commit_callbacks(execute=True):
        endpoint.name = "renamed"
        endpoint.save()
        EndpointModel.objects.create(endpoint=endpoint, model_id="new")
    entry = registry.get(str(endpoint.pk))
    assert entry is not None
    assert (entry.name, [model.id for model in entry.models]) == ("renamed", ["new"])
    with django_capture_on_commit_callbacks(execute=True):
        endpoint.delete()
    assert registry.get(str(entry.id)) is None


def test_the_handlers_are_those_of_saves_and_deletions() -> None:
    for model in (Endpoint, EndpointModel, EndpointOptions):
        assert post_save.has_listeners(model)
        assert post_delete.has_listeners(model)


@pytest.mark.parametrize(
    ("new", "old", "merged"), [(5, 9, 5), (None, 9, 9), (5, None, 5), (None, None, None), (0, 9, 0)]
)
def test_a_latency_is_merged_as_coalesce_does(new: int | None, old: int | None, merged: int | None) -> None:
    assert merge_latency(new, old) == merged


@pytest.mark.django_db
def test_a_missing_latency_overwrites_none_in_database_and_cache(django_capture_on_commit_callbacks: Any) -> None:
    moment = datetime(2026, 4, 15, 12, tzinfo=UTC)
    with django_capture_on_commit_callbacks(execute=True):
        endpoint = make_endpoint()
    latencies = []
    for success, latency in ((True, 80), (False, None), (True, None), (True, 95), (False, None)):
        with django_capture_on_commit_callbacks(execute=True):
            Endpoint.record_check(endpoint.pk, success=success, latency_ms=latency, error=None, checked_at=moment)
        entry = registry.get(str(endpoint.pk))
        assert entry is not None
        latencies.append((Endpoint.objects.get(pk=endpoint.pk).latency_ms, entry.latency_ms))
    assert latencies == [(80, 80), (80, 80), (80, 80), (95, 95), (95, 95)]


# AppConfig.ready


def calls_in(path: Path, name: str) -> Iterator[str]:
    """Yield the names that a function calls, or a method of this name, without those that these call."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            for part in ast.walk(node):
                if isinstance(part, ast.Call):
                    yield ast.unparse(part.func)


def test_ready_seeds_the_trackers_and_connects_the_signals() -> None:
    assert "_seed_trackers" in calls_in(ROOT / "routerdash/apps.py", "ready")
    assert "seeding.seed_at_start" in calls_in(ROOT / "routerdash/apps.py", "_seed_trackers")
    commands = (ROOT / "routerdash/management/commands").glob("*.py")
    assert not [path.name for path in commands if "seed_at_start" in path.read_text()]
    assert "import signals" in (ROOT / "endpoints/apps.py").read_text()
