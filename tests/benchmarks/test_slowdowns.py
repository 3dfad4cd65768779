"""The simulation of slow-downs is deterministic, and fails beyond its bound."""

import pytest

from benchmarks import slowdowns


def test_it_reports_each_endpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert slowdowns.main(["--days", "10", "--cases", "1", "--only", "few"]) == 0
    first = capsys.readouterr().out
    assert "few requests     0.000  × 1.5: 1/1 " in first
    assert "all together     0.000 a week" in first
    slowdowns.main(["--days", "10", "--cases", "1", "--only", "few"])
    assert capsys.readouterr().out == first


def test_more_false_alarms_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(slowdowns, "MOST_A_WEEK", -1.0)
    assert slowdowns.main(["--days", "3", "--cases", "0", "--only", "rare"]) == 1
