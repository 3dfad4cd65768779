"""Which gateways the installations of tests run: those in Python, unless TEST_COMPILED asks for compiled ones."""

from pathlib import Path

import pytest

from gateway.base.config import COMPILED_AUTO, COMPILED_OFF
from tests import router as router_module
from tests.router import RouterDash


def made(directory: Path) -> RouterDash:
    return RouterDash(directory)


def test_gateways_of_tests_run_in_python_whatever_was_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_COMPILED", raising=False)
    monkeypatch.setattr(router_module, "compiled_gateway", lambda: tmp_path)
    assert made(tmp_path).environment["ROUTERDASH_COMPILED"] == COMPILED_OFF


def test_test_compiled_makes_installations_run_compiled_gateways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_COMPILED", str(tmp_path))
    monkeypatch.setattr(router_module, "compiled_gateway", lambda: tmp_path)
    monkeypatch.setattr(router_module, "compiled_control", lambda: tmp_path / "control")
    assert made(tmp_path).environment["ROUTERDASH_COMPILED"] == COMPILED_AUTO


@pytest.mark.parametrize(("used", "of_control"), [(None, "control"), ("other", "control"), (".", "other")])
def test_a_folder_that_routerdash_would_not_use_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: str | None, of_control: str
) -> None:
    monkeypatch.setenv("TEST_COMPILED", str(tmp_path))
    monkeypatch.setattr(router_module, "compiled_gateway", lambda: used and tmp_path / used)
    monkeypatch.setattr(router_module, "compiled_control", lambda: tmp_path / of_control)
    with pytest.raises(RuntimeError, match="make compile"):
        made(tmp_path)


@pytest.mark.parametrize(("setting", "count"), [(COMPILED_AUTO, 1), (COMPILED_OFF, 0)])
def test_a_compiled_gateway_that_fell_back_to_python_is_found(tmp_path: Path, setting: str, count: int) -> None:
    router = RouterDash(tmp_path, ROUTERDASH_COMPILED=setting)
    router.log_path.write_text("started\nthe compiled gateway 0 does not run; it runs in Python from now on\n")
    assert len(router.in_python()) == count
