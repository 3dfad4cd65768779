"""Tests without their program are skipped with the command that installs it, or fail where nothing may be missing."""

import pytest

from tests import programs


@pytest.fixture
def without_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)


def test_a_missing_program_skips_with_the_command_that_installs_it(
    without_programs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "REQUIRED", False)
    with pytest.raises(
        pytest.skip.Exception, match="node and nginx not found; install by: apt-get install nodejs npm n"
    ):
        programs.need("node", "nginx")


def test_a_missing_program_fails_where_all_are_required(
    without_programs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "REQUIRED", True)
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"):
        programs.need("chromium")


@pytest.mark.parametrize(
    ("message", "offline"),
    [
        ("npm error code EAI_AGAIN", True),
        ("NewConnectionError: [Errno -3] Temporary failure in name resolution", True),
        ("npm error code EINTEGRITY", False),
        ("THESE PACKAGES DO NOT MATCH THE HASHES", False),
    ],
)
def test_a_missing_network_is_told_from_other_errors(message: str, offline: bool) -> None:
    assert programs.is_offline(message) is offline
