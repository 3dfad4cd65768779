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

from benchmarks.bench.servers import Upstreams
from benchmarks.bench.tools import Load, chat_body
from benchmarks.builds import Gateway
from benchmarks.process import ROOT
from tests.gateway import process

SECONDS = 4.0
WARM_UP = 300  # requests; valgrind makes a gateway fifty times slower, its start too
VALGRIND = """#!/bin/sh
exec valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file={out} {python} "$@"
"""
OBJECT = re.compile(r"c?ob=\((\d+)\)(?: (.*))?")


def run(gateway: Gateway, load: Load) -> int:
    """Send requests, and return how many had a response."""
    found = load.plain(gateway.port, load.file("plain", chat_body(1500)), 1, SECONDS)
    assert not found.wrong, f"{found.wrong} wrong responses"
    return found.requests


def by_library(profile: Path) -> Counter[str]:
    """Return the instructions of each library in a profile of callgrind, without those that it calls."""
    found: Counter[str] = Counter()
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
                found[library] += int(line.split()[1])
            is_call = False
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT)
    parser.add_argument("--out", type=Path, default=Path("callgrind.out"), help="file of the profile")
    options = parser.parse_args()
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


def switch(gateway: Gateway, option: str) -> None:
    subprocess.run(["callgrind_control", option, str(gateway.pid)], check=True, capture_output=True)  # noqa: S603, S607


if __name__ == "__main__":
    main()
