import re
import subprocess
import sys

from benchmarks.process import ROOT, clean_environment
from tests.conftest import SERVER


def test_the_cpu_time_of_a_record_is_measured() -> None:
    command = [sys.executable, "-m", "benchmarks.accounting", "--variant", "wide", "--records", "60", "--batch", "20"]
    database = ["--database", SERVER] if SERVER else []
    done = subprocess.run([*command, *database], env=clean_environment({}), cwd=ROOT, capture_output=True, check=True)
    found = re.match(r"(\w+), wide: fold [\d.]+ \+ write [\d.]+ = [\d.]+ µs of CPU a record", done.stdout.decode())
    assert found is not None
    assert found[1] == ("postgresql" if SERVER else "sqlite")
