"""`serve` names variables of llmlb that are set, so that none is ignored silently."""

from dataclasses import fields
from pathlib import Path

import pytest

from gateway.base.config import Config
from routerdash.processes.llmlb_variables import COUNTERPARTS, REASONS, warn

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "llmlb.md"


def test_each_counterpart_is_a_setting() -> None:
    assert set(COUNTERPARTS.values()) <= {item.metadata["name"] for item in fields(Config)}


def test_a_variable_is_named_with_its_counterpart(caplog: pytest.LogCaptureFixture) -> None:
    warn({"LLMLB_PORT": "8080", "PATH": "/bin", "ROUTERDASH_PORT": "1"})
    assert [record.getMessage() for record in caplog.records] == ["LLMLB_PORT has no effect; use ROUTERDASH_PORT"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("LLMLB_LOG_DIR", "logs go to standard error"), ("LLMLB_AUDIT_ARCHIVE_PATH", "there is no such setting")],
)
def test_a_variable_without_counterpart_is_named(caplog: pytest.LogCaptureFixture, name: str, reason: str) -> None:
    warn({name: "secret-value"})
    assert caplog.text.endswith(f"{name} has no effect: {reason}\n")
    assert "secret-value" not in caplog.text


def test_without_them_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    warn({"OPENAI_API_KEY": "sk-secret"})
    assert caplog.records == []


def test_the_documentation_names_each() -> None:
    text = PAGE.read_text()
    for name, other in COUNTERPARTS.items():
        assert f"| `{name}` | `{other}` |" in text
    for name in REASONS:
        assert f"| `{name}` |" in text
