import re
import subprocess
import sys

from benchmarks.process import ROOT, clean_environment
from tests.conftest import SERVER


def test_what_a_record_costs_is_measured() -> None:
    command = [sys.executable, "-m", "benchmarks.accounting", "--variant", "wide", "--records", "60", "--batch", "20"]
    database = ["--database", SERVER] if SERVER else []
    done = subprocess.run([*command, *database], env=clean_environment({}), cwd=ROOT, capture_output=True, check=True)
    told = re.match(r"(\w+), wide: fold [\d.]+ \+ write [\d.]+ = [\d.]+ µs of CPU a record", done.stdout.decode())
    assert told is not None
    assert told[1] == ("postgresql" if SERVER else "sqlite")
