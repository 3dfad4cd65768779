"""Saturation for minutes: no error, figures exact, memory flat.

    python -m benchmarks.saturated --seconds 600

wrk sends requests as fast as it gets responses, over 32 connections. RouterDash runs in a new data directory on
SQLite. Prints the results and exits with 1 if any of them is wrong. Takes half a gigabyte of disk for each
million of requests.
"""

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.bench import tools
from benchmarks.bench.servers import RouterDashServer, Upstreams, audit
from benchmarks.sustained import memory, report_memory
from tests.router import KEY

CONNECTIONS = 32


def run(seconds: float) -> list[str]:
    """Run the test. Return a text for each wrong result."""
    tools.check()
    with tempfile.TemporaryDirectory(prefix="routerdash-saturated-") as directory:
        load, upstreams = tools.Load(Path(directory), KEY), Upstreams(Path(directory))
        ours = RouterDashServer(Path(directory) / "ours", upstreams)
        try:
            ours.start()
            return _measure(ours, load, seconds)
        finally:
            ours.stop()
            upstreams.stop()


def _measure(ours: RouterDashServer, load: tools.Load, seconds: float) -> list[str]:
    samples: dict[str, list[int]] = {}
    done = threading.Event()
    watching = threading.Thread(target=_watch, args=(ours, samples, done))
    before = ours.counted()
    assert before is not None
    watching.start()
    found = load.plain(ours.port, load.body("saturated", 1500), CONNECTIONS, seconds)
    done.set()
    watching.join()
    started = time.monotonic()
    ours.settle()
    drained = time.monotonic() - started
    after = ours.counted()
    assert after is not None
    print(
        f"{found.requests:,} requests, {found.requests / found.seconds:,.0f} a second, p99 {found.p99_us / 1000:.1f} ms"
    )
    print(f"the database had every record {drained:.1f} s after the last request")
    wrong = [text for text in (audit(before, after, found.requests, CONNECTIONS),) if text]
    if found.wrong:
        wrong.append(f"{found.wrong} responses were missing or errors")
    return wrong + report_memory(dict(sorted(samples.items())))


def _watch(ours: RouterDashServer, samples: dict[str, list[int]], done: threading.Event) -> None:
    assert ours.router.process is not None
    while not done.wait(1.0):
        for role, kilobytes in memory(ours.router.process.pid).items():
            samples.setdefault(role, []).append(kilobytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    wrong = run(parser.parse_args().seconds)
    for text in wrong:
        print(f"WRONG: {text}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
