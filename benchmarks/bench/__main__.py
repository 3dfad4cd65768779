"""`python -m benchmarks.bench`: see benchmarks/README.md."""

import argparse
import random
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from benchmarks.bench import results, tools
from benchmarks.bench.cases import CASES, Case, Context, Sample
from benchmarks.bench.servers import Direct, Haproxy, Nginx, Ours, Server, Upstreams
from tests.router import KEY


def say(text: str) -> None:
    print(text, flush=True)


class Bench:
    """Servers started when a case needs them, and stopped at the end however that comes."""

    def __init__(self, directory: Path, stack: ExitStack, options: argparse.Namespace) -> None:
        self.directory = directory
        self.stack = stack
        self.options = options
        self.context = Context(tools.Load(directory, KEY), options.seconds)
        self.upstreams = Upstreams(directory)
        stack.callback(self.upstreams.stop)
        self.servers: dict[str, Server] = {}

    def server(self, name: str) -> Server:
        if name not in self.servers:
            server = self._make(name)
            self.servers[name] = server
        return self.servers[name]

    def _make(self, name: str) -> Server:
        place = self.directory / name
        place.mkdir()
        if name == "direct":
            return Direct(self.upstreams)
        if name == "nginx":
            server: Server = Nginx(place, self.upstreams)
        elif name == "HAProxy":
            server = Haproxy(place, self.upstreams)
        else:
            server = Ours(place, self.upstreams)
            self.stack.callback(server.stop)
            server.start()
            return server
        self.stack.callback(server.stop)
        return server

    def run(self, case: Case) -> list[dict[str, Sample]]:
        names = case.servers or tuple(self.options.servers.split(","))
        rounds = []
        for name in names:
            self.server(name).place(tools.PROXY_CORE)
            case.run(Context(self.context.load, 1), self.server(name))  # warm
        for _ in range(self.options.rounds):
            order = random.sample(names, len(names))
            samples = {name: case.run(self.context, self.server(name)) for name in order}
            results.add_differences(samples)
            rounds.append({name: samples[name] for name in names})
        return rounds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="RouterDash beside others.")
    parser.add_argument("--cases", default="plain32,streams384")
    parser.add_argument("--servers", default="direct,nginx,HAProxy,RouterDash")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    with tempfile.TemporaryDirectory(prefix="routerdash-bench-") as directory, ExitStack() as stack:
        try:
            tools.check()
            bench = Bench(Path(directory), stack, options)
            for case in CASES:
                if case.name in options.cases.split(","):
                    say(f"\n## {case.title} (`{case.name}`)\n")
                    say("\n".join(results.table(case, bench.run(case))))
        except tools.CannotMeasure as error:
            say(str(error))
            sys.exit(2)
        for text in bench.context.wrong:
            say(f"WRONG: {text}")
        if bench.context.wrong:
            sys.exit(1)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(1)


if __name__ == "__main__":
    main()
