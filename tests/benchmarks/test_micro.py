"""The benchmarks of single steps run without errors."""

import subprocess
import sys

from tests.router import ROOT, clean_environment


def test_every_benchmark_of_a_single_step_runs() -> None:
    command = [sys.executable, "-m", "pytest", "benchmarks/micro", "-q", "-p", "no:xdist", "--benchmark-disable"]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment({}), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
