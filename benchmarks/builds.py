"""CPU time of gateways of different builds, in alternation: `python -m benchmarks.builds FOLDER …`.

Each folder has a package `gateway`: a checkout, or a build of packaging/compile_gateway.py. One gateway process of each
runs without control. They take turns in short bursts of the same load, so that other load on the machine disturbs them
alike. CPU time is that of the whole process, user and system, by its clock in ns. Prints the median, the least, and the
median of the ratios to the first folder within the rounds; also the memory (PSS) after the start. Needs gcc and wrk.
"""

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from unittest import mock

from benchmarks.bench import proc
from benchmarks.bench.servers import Upstreams
from benchmarks.bench.tools import MODEL, PROXY_CORE, Load, chat_body
from benchmarks.limit_cost import CPUCLOCK_SCHED
from tests.gateway import process
from tests.gateway.samples import make_endpoint

CASES = {  # connections, events of each stream (0: plain requests), µs between events
    "plain1": (1, 0, 0),
    "plain32": (32, 0, 0),
    "streams96": (96, 64, 10_000),
    "streams384": (384, 64, 10_000),
    "burst512": (8, 512, 0),
}


class Gateway(process.GatewayProcess):
    """A gateway process of one build, pinned to the core of proxies."""

    def __init__(self, directory: Path, folder: Path, upstreams: Upstreams) -> None:
        directory.mkdir()
        super().__init__(directory, ROUTERDASH_MAX_CONNECTIONS_PER_CLIENT="20000", ROUTERDASH_LOG_LEVEL="warning")
        for port in upstreams.ports:
            endpoint = make_endpoint("", MODEL, base_url=f"http://127.0.0.1:{port}")
            self.endpoints[endpoint.id] = endpoint
        with mock.patch.object(process, "GATEWAY", folder):
            self.start()
        assert self.process is not None
        self.pid = self.process.pid
        proc.pin([self.pid], PROXY_CORE)

    def cpu_time(self) -> float:
        """Return the CPU time that the process has used, user and system, in seconds."""
        return time.clock_gettime(~self.pid << 3 | CPUCLOCK_SCHED)

    def pss_mib(self) -> float:
        """Return its memory: pages that several processes map are divided among them."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024

    def microseconds(self, load: Load, case: str, seconds: float) -> float:
        """Return the CPU time for each request or event of a burst."""
        connections, events, pace_us = CASES[case]
        before = self.cpu_time()
        if events:
            options = f"events={events} pace_us={pace_us}"
            body = load.body(case, 1500, stream=True, options=options)
            streams = load.streams(self.port, body, connections, seconds, events)
            units, wrong = streams.events, streams.wrong
        else:
            plain = load.plain(self.port, load.file("plain", chat_body(1500)), connections, seconds)
            units, wrong = plain.requests, plain.wrong
        assert not wrong, f"{wrong} wrong responses"
        return (self.cpu_time() - before) / units * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--cases", default="plain1,streams96")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--hold", action="store_true", help="wait for the end of the input first")
    options = parser.parse_args()
    with ExitStack() as opened:
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="routerdash-builds-")))
        load = Load(directory, process.KEY)
        upstreams = Upstreams(directory)
        opened.callback(upstreams.stop)
        gateways = []
        for number, folder in enumerate(options.folders):
            gateways.append(Gateway(directory / str(number), folder.resolve(), upstreams))
            opened.callback(gateways[-1].end)
        time.sleep(2)  # until they rest
        for gateway, folder in zip(gateways, options.folders, strict=True):
            print(f"{folder}: process {gateway.pid}, {gateway.pss_mib():.1f} MiB", flush=True)
        if options.hold:
            sys.stdin.read()
        for case in options.cases.split(","):
            compare(gateways, load, case, options.rounds, options.seconds)


def compare(gateways: list[Gateway], load: Load, case: str, rounds: int, seconds: float) -> None:
    """Print the CPU times of a case."""
    times: list[list[float]] = [[] for _ in gateways]
    for number in range(-1, rounds):  # the first round is not counted
        order = list(range(len(gateways)))
        for at in order if number % 2 else reversed(order):
            found = gateways[at].microseconds(load, case, seconds)
            if number >= 0:
                times[at].append(found)
    for found_times in times:
        ratios = [one / other for one, other in zip(found_times, times[0], strict=True)]
        print(
            f"{case}: {median(found_times):.2f} µs (least {min(found_times):.2f}), × {median(ratios):.3f}", flush=True
        )


if __name__ == "__main__":
    main()
