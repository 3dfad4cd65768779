"""System checks."""

import io
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command

from routerdash import checks


def pool(monkeypatch: pytest.MonkeyPatch, role: str, options: dict[str, Any]) -> list[str | None]:
    monkeypatch.setattr(settings, "ROUTERDASH_ROLE", role)
    monkeypatch.setitem(settings.DATABASES["default"], "OPTIONS", options)
    return [message.id for message in checks.no_pool_where_we_fork()]


@pytest.mark.parametrize("options", [{"pool": True}, {"pool": {"min_size": 2}}])
def test_the_background_process_has_no_pool(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    assert pool(monkeypatch, "background", options) == ["routerdash.E001"]


@pytest.mark.parametrize(("role", "options"), [("background", {}), ("control", {"pool": True}), ("", {"pool": True})])
def test_everything_else_may_have_one(monkeypatch: pytest.MonkeyPatch, role: str, options: dict[str, Any]) -> None:
    assert pool(monkeypatch, role, options) == []


def test_the_project_passes_its_checks() -> None:
    output = io.StringIO()
    call_command("check", fail_level="WARNING", stdout=output)
    assert output.getvalue().startswith("System check identified no issues")


@pytest.mark.django_db
def test_no_migration_is_missing() -> None:
    output = io.StringIO()
    call_command("makemigrations", check=True, dry_run=True, stdout=output)
    assert output.getvalue() == "No changes detected\n"
