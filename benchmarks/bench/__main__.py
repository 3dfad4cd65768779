"""`python -m benchmarks.bench`: RouterDash beside others, in one run. See benchmarks/README.md."""

import argparse
import os
import platform
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from benchmarks.bench import proc, results, tools
from benchmarks.bench.cases import CASES, TWO_NGINX, TWO_OURS, Case, Context, Sample
from benchmarks.bench.peers import ALL_PEERS, PEERS, install
from benchmarks.bench.servers import (
    Adopted,
    Direct,
    GatewayAlone,
    Haproxy,
    Nginx,
    OnPostgres,
    RouterDashServer,
    Server,
    Unaccounted,
    Upstreams,
    Watched,
)
from gateway.base.config import COMPILED_OFF
from tests.router import KEY

USUAL = ("direct", "nginx", "HAProxy", "RouterDash")
IN_PYTHON = "RouterDash in Python"  # its gateway is not compiled
RESULTS = Path(__file__).parent.parent / "RESULTS.md"
FRESH_ROUNDS = 3


@dataclass(frozen=True)
class Options:
    cases: Sequence[Case]
    servers: Sequence[str]
    rounds: int
    seconds: float
    out: Path | None
    nice: int


class Bench:
    """The usual servers run from their first case to the end, others only during their case."""

    def __init__(self, directory: Path, stack: ExitStack, options: Options) -> None:
        self.directory = directory
        self.options = options
        self.load = tools.Load(directory, KEY)
        self.upstreams = Upstreams(directory)
        stack.callback(self.upstreams.stop)
        if options.nice:
            proc.prefer(self.upstreams.pids(), options.nice)
        self.context = Context(self.load, options.seconds)
        self.shown: dict[str, results.Shown] = {}
        self.omitted: list[str] = []
        self.failed: list[str] = []  # cases that could not be measured
        self._stack = stack
        self._usual: dict[str, Server] = {}
        self._number = 0

    def run(self, case: Case) -> list[dict[str, Sample]] | None:
        """Return samples by round and server, or None if the case cannot be measured. Later cases still run."""
        try:
            return self._run(case)
        except tools.CannotMeasure as error:
            self.failed.append(f"`{case.name}` could not be measured: {error}")
            return None

    def _run(self, case: Case) -> list[dict[str, Sample]]:
        names = [name for name in case.servers or self.options.servers if case.name not in _cannot(name)]
        core = tools.LOAD_CORE if case.pinned else None
        self.context.core = core
        self.upstreams.place(core)
        if case.fresh:
            return [self._fresh(case, names) for _ in range(min(FRESH_ROUNDS, self.options.rounds))]
        with ExitStack() as stack:
            servers = {name: server for name in names if (server := self._server(name, stack)) is not None}
            for server in servers.values():
                server.place(tools.PROXY_CORE if case.pinned else None)
                case.run(Context(self.load, 1, core), server)  # warm
            rounds = [self._round(case, servers) for _ in range(self.options.rounds)]
            for server in servers.values():
                self._reconcile(server)
            return rounds

    def _reconcile(self, server: Server) -> None:
        if wrong := server.reconcile():
            self.context.fault(server, wrong)

    def _round(self, case: Case, servers: dict[str, Server]) -> dict[str, Sample]:
        order = random.sample(sorted(servers), len(servers))
        samples = {name: case.run(self.context, servers[name]) for name in order}
        results.add_differences(samples)
        return {name: samples[name] for name in servers}

    def _fresh(self, case: Case, names: Sequence[str]) -> dict[str, Sample]:
        samples = {}
        for name in names:
            with ExitStack() as stack:
                server = self._make(name, stack)
                self.load.plain(
                    server.port, self.load.body("plain1500", 1500), 4, 1
                )  # warmed up without large requests
                server.settle()
                samples[name] = case.run(self.context, server)
                self._reconcile(server)
        return samples

    def _server(self, name: str, stack: ExitStack) -> Server | None:
        if name not in self.options.servers:
            try:
                return self._make(name, stack)
            except tools.MissingHere as error:
                self.omitted.append(f"{name} was left out: {error}")
                return None
        if name not in self._usual:
            self._usual[name] = self._make(name, self._stack)
        return self._usual[name]

    def _make(self, name: str, stack: ExitStack) -> Server:
        self._number += 1
        directory = self.directory / str(self._number)
        directory.mkdir()
        server = self._makers()[name](directory)
        server.name = name
        stack.callback(server.stop)
        if isinstance(server, RouterDashServer):
            server.start()
        if self.options.nice:
            proc.prefer(server.everything(), self.options.nice)
        where = {str(self.directory): "…", str(Path(__file__).parent.parent.parent): "…"}
        configuration = server.configuration
        for path, short in where.items():
            configuration = configuration.replace(path, short)
        self.shown.setdefault(name, results.Shown(name, server.version, configuration, server.strengths))
        return server

    def _makers(self) -> dict[str, Callable[[Path], Server]]:
        up = self.upstreams
        return {
            "direct": lambda directory: Direct(up),
            "nginx": lambda directory: Nginx(directory, up),
            TWO_NGINX: lambda directory: Nginx(directory, up, workers=2),
            "HAProxy": lambda directory: Haproxy(directory, up),
            "RouterDash": lambda directory: RouterDashServer(directory, up),
            IN_PYTHON: lambda directory: RouterDashServer(directory, up, ROUTERDASH_COMPILED=COMPILED_OFF),
            TWO_OURS: lambda directory: RouterDashServer(directory, up, ROUTERDASH_WORKERS="2"),
            OnPostgres.name: lambda directory: OnPostgres(directory, up),
            Adopted.name: lambda directory: Adopted(directory, up),
            Watched.name: lambda directory: Watched(directory, up, self.load),
            GatewayAlone.name: lambda directory: GatewayAlone(directory, up),
            Unaccounted.name: lambda directory: Unaccounted(directory, up),
            **{name: lambda directory, peer=peer: peer(directory, up) for name, peer in ALL_PEERS.items()},  # type: ignore[misc]
        }


def _cannot(name: str) -> tuple[str, ...]:
    return ALL_PEERS[name].cannot if name in ALL_PEERS else ()


def report(
    bench: Bench, options: Options, measured_cases: list[tuple[Case, results.Rounds]], commit: str, busy: float
) -> results.Report:
    faults = [f"{text} ({times} times)" if times > 1 else text for text, times in bench.context.faults.items()]
    return results.Report(
        command=f"$ {_command()}",
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        machine=proc.machine(),
        versions=[f"RouterDash {commit}", *versions()],
        rounds=options.rounds,
        seconds=options.seconds,
        busy=busy,
        servers=[bench.shown[name] for name in options.servers if name in bench.shown and name != "direct"],
        cases=measured_cases,
        faults=[*bench.failed, *(text for text in faults if _is_of_routerdash(text))],
        notes=[*bench.omitted, *(text for text in faults if not _is_of_routerdash(text))],
    )


def _is_of_routerdash(fault: str) -> bool:
    return fault.startswith(("RouterDash", "gateway"))


def _command() -> str:
    return " ".join(["python -m benchmarks.bench", *sys.argv[1:]]) if len(sys.argv) > 1 else "make bench"


def versions() -> list[str]:
    packages = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "uvloop", "httptools", "msgspec", "Django"))
    return [
        f"Python {platform.python_version()} ({packages})",
        tools.version("nginx", "-v").removeprefix("nginx version: "),
        tools.version("haproxy", "-v").partition(" - ")[0],
        tools.version("wrk", "-v").partition(" Copyright")[0],
    ]


def main() -> None:
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, _end)
    commit = tools.version("git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty")
    busy = os.getloadavg()[0]
    measured_cases: list[tuple[Case, results.Rounds]] = []
    with tempfile.TemporaryDirectory(prefix="routerdash-bench-") as directory, ExitStack() as stack:
        try:
            tools.check()
            os.sched_setaffinity(0, {tools.LOAD_CORE})  # processes that start from here are pinned separately
            if options.nice:
                stack.callback(
                    proc.prefer, [os.getpid()], proc.session_niceness()
                )  # the terminal's process group receives it too
                proc.prefer([os.getpid()], options.nice)  # inherited by processes that start from here
            for name in options.servers:
                if name in ALL_PEERS:
                    install(ALL_PEERS[name].release)
            bench = Bench(Path(directory), stack, options)
            for case in options.cases:
                rounds = bench.run(case)
                if rounds is None:
                    print_lines(f"\n{bench.failed[-1]}")
                    continue
                measured_cases.append((case, rounds))
                print_lines(f"\n## {case.title} (`{case.name}`)\n", *results.table(case, rounds))
        except tools.CannotMeasure as error:
            sys.exit(str(error))
        except KeyboardInterrupt:
            sys.exit("stopped")
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C must not interrupt the stop
                signal.signal(number, signal.SIG_IGN)
        finished = report(bench, options, measured_cases, commit, busy)
    print_lines("\n## Goals\n", *results.goals(dict((case.name, rounds) for case, rounds in measured_cases)), "")
    print_lines(*(f"note: {text}" for text in finished.notes), *(f"WRONG: {text}" for text in finished.faults))
    if options.out is not None:
        options.out.write_text(finished.markdown())
        print_lines(f"written to {options.out}")
    sys.exit(1 if finished.faults else 0)


def parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench",
        description="RouterDash beside nginx, HAProxy and other routers.",
        epilog=f"Cases: {', '.join(case.name for case in CASES)}. A whole run is written to RESULTS.md.",
    )
    parser.add_argument("--cases", default="", help="measure only these cases, separated by commas")
    parser.add_argument(
        "--servers", default=",".join(USUAL), help="servers in cases that measure all (default: %(default)s)"
    )
    parser.add_argument("--peers", action="store_true", help=f"also measure {', '.join(PEERS)}, from PyPI")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="duration of each run")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 s, to check that everything works")
    parser.add_argument("--nice", type=int, default=0, help="niceness of all processes; -10 helps on a shared machine")
    parser.add_argument("--out", type=Path, help="file for the results")
    given = parser.parse_args(arguments)
    wanted = [name for name in given.cases.split(",") if name]
    if unknown := set(wanted) - {case.name for case in CASES}:
        parser.error(f"no case {', '.join(sorted(unknown))}")
    servers = [*given.servers.split(","), *(PEERS if given.peers else ())]
    if unknown := set(servers) - {*USUAL, IN_PYTHON, *ALL_PEERS}:
        parser.error(f"no server {', '.join(sorted(unknown))}")
    whole = not wanted and not given.quick
    return Options(
        cases=[case for case in CASES if not wanted or case.name in wanted],
        servers=servers,
        rounds=2 if given.quick else given.rounds,
        seconds=1 if given.quick else given.seconds,
        out=given.out or (RESULTS if whole else None),
        nice=given.nice,
    )


def print_lines(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
