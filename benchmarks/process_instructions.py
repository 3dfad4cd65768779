"""Instructions of a whole gateway process: `python -m benchmarks.process_instructions [FOLDER]`.

With a folder, it is that of a build of packaging/compile_gateway.py: `… .cache/compiled/*`. Unlike
`benchmarks.instructions`, this counts the process as it runs, with uvloop and in compiled code. Requests have 1.5 KB,
and two endpoints have all of their prompt in their caches. Prints the instructions in user mode, in all and by library,
and keeps the profile (`callgrind_annotate --inclusive=yes FILE`). Needs gcc, wrk and valgrind; takes half a minute.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from benchmarks.bench import proc, tools
from benchmarks.bench.servers import Upstreams
from benchmarks.bench.tools import MODEL, PROXY_CORE, Load, chat_body
from benchmarks.process import ROOT
from tests.gateway import process
from tests.gateway.samples import make_endpoint

NEEDED = {"cc": "gcc libc6-dev", "taskset": "util-linux", "valgrind": "valgrind", "wrk": "wrk"}
SECONDS = 4.0
WARM_UP = 300  # requests; valgrind makes a gateway fifty times slower, its start too
VALGRIND = """#!/bin/sh
exec valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file={out} {python} "$@"
"""
OBJECT = re.compile(r"c?ob=\((\d+)\)(?: (.*))?")


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


def run(gateway: Gateway, load: Load) -> int:
    """Send requests, and return how many had a response."""
    outcome = load.plain(gateway.port, load.file("plain", chat_body(1500)), 1, SECONDS)
    assert not outcome.wrong, f"{outcome.wrong} wrong responses"
    return outcome.requests


def by_library(profile: Path) -> Counter[str]:
    """Return the instructions of each library in a profile of callgrind, without those that it calls."""
    instructions: Counter[str] = Counter()
    names: dict[str, str] = {}
    library, is_call = "", False
    for line in profile.read_text().splitlines():
        if match := OBJECT.match(line):
            name = names.setdefault(match[1], Path(match[2] or "").name)
            library = library if line.startswith("c") else name
        elif line.startswith("calls="):
            is_call = True  # the next line has the instructions of the called function
        elif line[:1].isdigit() or line[:1] in ("+", "-", "*"):
            if not is_call:
                instructions[library] += int(line.split()[1])
            is_call = False
    return instructions


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT)
    parser.add_argument("--most", type=int, help="fail if a request takes more instructions")
    parser.add_argument("--out", type=Path, default=Path("callgrind.out"), help="file of the profile")
    options = parser.parse_args()
    if missing := [package for program, package in NEEDED.items() if tools.find(program) is None]:
        sys.exit(f"programs are missing; install by: apt-get install {' '.join(missing)}")
    with ExitStack() as opened:
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="routerdash-instructions-")))
        python = directory / "python"
        python.write_text(VALGRIND.format(out=directory / "profile", python=sys.executable))
        python.chmod(0o700)
        load = Load(directory, process.KEY)
        upstreams = Upstreams(directory)
        opened.callback(upstreams.stop)
        with mock.patch.object(sys, "executable", str(python)):
            gateway = Gateway(directory / "gateway", options.folder.resolve(), upstreams)
        opened.callback(gateway.end)
        while run(gateway, load) < WARM_UP:
            pass
        switch(gateway, "--instr=on")
        number = run(gateway, load)
        switch(gateway, "--dump")
        (directory / "profile.1").rename(options.out)
    libraries = by_library(options.out)
    print(f"{libraries.total() / number:,.0f} instructions for a request, of {number}")
    for name, instructions in libraries.most_common(8):
        print(f"{instructions / number:9,.0f} {name}")
    print(f"the profile is in {options.out}")
    if options.most is not None and libraries.total() / number > options.most:
        sys.exit(
            f"more than {options.most:,}: find the reason, or give it in the commit that raises the bound (Makefile)"
        )


def switch(gateway: Gateway, option: str) -> None:
    subprocess.run(["callgrind_control", option, str(gateway.pid)], check=True, capture_output=True)  # noqa: S603, S607


if __name__ == "__main__":
    main()
