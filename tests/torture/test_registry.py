"""Short runs of the torture test of the registry store."""

import subprocess
import sys

import pytest

from benchmarks.process import ROOT

SEED = "5"


def torture(*options: str) -> "subprocess.CompletedProcess[str]":
    """Run it in a process of its own, which has no threads when it forks."""
    command = [sys.executable, "-m", "tests.torture", "registry", "--readers", "3", "--seed", SEED, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)


def test_torture() -> None:
    result = torture("--seconds", "6")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 readers" in result.stdout


@pytest.mark.parametrize("rule", ["lookup-does-not-follow", "deletions-are-not-logged"])
def test_a_broken_rule_is_noticed(rule: str) -> None:
    result = torture("--seconds", "20", "--broken", rule)  # until it is noticed
    assert result.returncode == 0, result.stdout + result.stderr
