"""What a plain request and a streamed event cost the gateway's event loop, in instructions counted by callgrind.

    python -m benchmarks.instructions [--against CHECKOUT]

Instructions are repeatable where times are not, so this decides about differences below 5 %. Runs the gateway of
`tests/gateway/test_budget.py` under valgrind with few and with many requests; the difference of the two is the cost of
a request, without what a start costs. With `--against`, another checkout of RouterDash is counted, too, and the ratio
of this one to it is printed. Needs valgrind; takes some two minutes for each checkout.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FEW, MANY = 400, 1400
STREAMS = 5
PROGRAM = """
import gc, hashlib, sys, tempfile
from pathlib import Path
import tests.gateway.test_budget as budget
from gateway import snapshot
from gateway.config import load
from tests.gateway.conftest import Control
from tests.gateway.samples import make_endpoint

requests, events = int(sys.argv[1]), int(sys.argv[2])
config = load({"ROUTERDASH_DATA_DIR": tempfile.mkdtemp(prefix="routerdash-instructions-")})
upstream = budget.Upstream()
key = snapshot.ApiKey(
    budget.SECRET[3:11], hashlib.sha256(budget.SECRET.encode()).hexdigest(), budget.ALL, None
)
Control(config).publish(make_endpoint("", budget.MODEL, base_url=upstream.url), api_keys=(key,))
running = budget.Running(config, upstream)
running.plain(50)
running.stream(10)
gc.collect()
gc.freeze()  # as gateway.main does
gc.set_threshold(50_000, 20, 20)
running.plain(requests)
for _ in range(5 if events else 0):
    running.stream(events)
running.connection.close()
upstream.close()
running.close()
"""


def count(checkout: Path, requests: int, events: int) -> dict[str, int]:
    """Instructions of each thread, by its number."""
    with tempfile.TemporaryDirectory() as directory:
        command = ["valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={directory}/out",
                   sys.executable, "-c", PROGRAM, str(requests), str(events)]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONHASHSEED": "0",
                       "DJANGO_SETTINGS_MODULE": "tests.settings"}  # fmt: skip
        subprocess.run(command, check=True, cwd=checkout, env=environment, capture_output=True)  # noqa: S603
        return {path.name: _total(path) for path in Path(directory).glob("out-*")}


def _total(path: Path) -> int:
    """The sum that a profile ends with; 0 for one without, such as that of a process's start."""
    match = re.search(r"^(?:summary|totals): (\d+)", path.read_text(errors="replace"), re.MULTILINE)
    return int(match[1]) if match else 0


def _dearest(few: dict[str, int], many: dict[str, int]) -> int:
    """The growth of the thread that grew most: that of the event loop. The others are client and upstream."""
    return max(many[thread] - few[thread] for thread in many.keys() & few.keys())


def costs(checkout: Path) -> dict[str, float]:
    """Instructions a plain request and a streamed event."""
    few, many = count(checkout, FEW, 0), count(checkout, MANY, 0)
    short, long = count(checkout, 50, 10), count(checkout, 50, 210)
    return {
        "plain request": _dearest(few, many) / (MANY - FEW),
        "streamed event": _dearest(short, long) / (STREAMS * 200),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout, to compare with")
    options = parser.parse_args()
    here = costs(ROOT)
    there = costs(options.against.resolve()) if options.against else {}
    for name, value in here.items():
        beside = f", {there[name]:,.0f} there: × {value / there[name]:.3f}" if there else ""
        print(f"{name}: {value:,.0f} instructions{beside}")


if __name__ == "__main__":
    main()
