import re
import subprocess
import sys

import pytest

from benchmarks.process import ROOT, clean_environment
from tests.conftest import SERVER


@pytest.mark.slow
def test_the_cpu_time_of_a_record_is_compared_without_and_with_prices() -> None:
    sizes = ["--variants", "wide", "--batches", "1", "--size", "20", "--rounds", "1", "--no-instructions"]
    command = [sys.executable, "-m", "benchmarks.priced", *sizes, *(["--database", SERVER] if SERVER else [])]
    done = subprocess.run(command, env=clean_environment({}), cwd=ROOT, capture_output=True, check=True)
    assert re.match(
        r"wide, µs of CPU a record: without [\d.]+, unpriced [\d.]+ \(× [\d.]+\), priced [\d.]+ \(× [\d.]+\), "
        r"rated [\d.]+ \(× [\d.]+\)\n$",
        done.stdout.decode(),
    )
