"""Instructions of the gateway's event loop for a plain request and for a streamed event, counted by callgrind.

    python -m benchmarks.instructions [--against CHECKOUT] [--shape NAME] [--size BYTES]
    python -m benchmarks.instructions --endpoints 1000 --keys 1000000
    python -m benchmarks.instructions --balancers [--alike NUMBER …] [--size BYTES]
    python -m benchmarks.instructions --balancers --cpu [--alike NUMBER …] [--size BYTES] [--rounds NUMBER]
    python -m benchmarks.instructions --names
    python -m benchmarks.instructions --limits [--against CHECKOUT]

Instruction counts are repeatable and times are not, so use this for differences below 5 %. Runs the gateway of
`tests/gateway/running.py` under valgrind with few and with many requests; the difference of the two is the cost
of a request, without what a start costs. Requests come one after the other from one client. Each event is sent when
the client has received the one before, so that it is an iteration of the event loop of its own. With `--against`,
another checkout of RouterDash is counted, too, and the ratio of this one to it is printed. With `--shape`, only a
plain request with a body of this shape is counted (see `bench/bodies.py`). With `--endpoints` or `--keys`, the
gateway knows so many, and the ratio to a gateway with one of each is printed. With `--balancers`, a plain request
with a chat of this size and so many measured endpoints of its model is counted with each balancer. With `--cpu`, its
CPU time is measured instead, with the kernel's part, in rounds in which the balancers take turns. With `--names`, a
plain request is counted without model names, with 100 that it does not use, and as one for a name with two steps.
With `--limits`, a plain request is counted without limits, with three limits on another API key, and on its own; these
states take turns in one process, so that differences of 0.5 % mean something. `--against` is a checkout without limits
then, and gcc is needed, too. Needs valgrind; takes some three minutes for each checkout or size.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.bench.bodies import SHAPES
from benchmarks.bench.tools import chat_body
from benchmarks.process import build_switch
from gateway.base.config import ADAPTIVE, LEAST_INFLIGHT

ROOT = Path(__file__).resolve().parent.parent
FEW, MANY = 400, 1400
UNUSED, CHAIN = "unused", "chain"
NONE, OTHER, OWN = "none", "other", "own"  # which API key has limits
ROUNDS, REQUESTS = 3, 100  # of the states of limits
FEW_WITH_BODY = 50, 250
FEW_STREAMS, MANY_STREAMS = 5, 105
EVENTS, MORE_EVENTS = 10, 210
POLL = "uv__io_poll"  # only the event loop calls it
RUN = """
running.plain(requests)
for _ in range(streams):
    running.stream(events)
"""
# Each state is counted several times. Only the event loop's thread is.
RUN_WITH_LIMITS = """
import ctypes, os
switch = ctypes.CDLL(os.environ["CALLGRIND_SWITCH"])
states = os.environ["STATES"].split(",")
if len(states) > 1:  # else the checkout may have no limits
    # A request costs more if it is the first of its key in a cell. Under callgrind, many would be.
    from gateway.ipc.counters import counter_file, plan as plans
    counter_file.CELL_SECONDS = plans.CELL_SECONDS = 3600.0

def apply(state):
    from gateway.registry.limits import LimitFacts
    from gateway.registry.writer import Changes
    subjects = {"own": ("key", key.id), "other": ("key", "another")}
    limits = LimitFacts(concurrency=100, requests=10_000_000, tokens=1_000_000_000)
    changes = {subject: limits if name == state else None for name, subject in subjects.items()}
    control.registry.writer.apply(Changes(limits=changes))
    running._in_loop(gateways[0].services.refresh)

for number in range(ROUNDS):
    for state in states:
        if len(states) > 1:
            apply(state)
        running.plain(50)
        if not number and state == states[0]:
            switch.start()
            running.plain(50)  # callgrind translates the code
        running._in_loop(switch.zero)
        running.plain(requests)
        running._in_loop(lambda: switch.dump(f"state {state};".encode()))
"""
# A round for each line of the input. Other threads have CPU clocks of their own.
RUN_ROUNDS = """
import time
clock = time.pthread_getcpuclockid(running.ident)
print("ready", flush=True)
for _ in sys.stdin:
    before = time.clock_gettime_ns(clock)
    running.plain(requests)
    print(time.clock_gettime_ns(clock) - before, flush=True)
"""
PROGRAM = r"""
import gc, hashlib, sys, tempfile
try:
    import tests.gateway.running as budget  # which imports all names from the modules of the checkout
except ImportError:  # an earlier checkout
    import tests.gateway.test_budget as budget

class Upstream(budget.Upstream):
    def _request(self, connection, buffer):
        received = b""
        while b"\r\n\r\n" not in received:
            if not (piece := connection.recv(1 << 16)):
                return False
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        missing = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) - len(body)
        while missing:
            missing -= len(connection.recv(min(missing, 1 << 20)))
        return True

gateways = []
create = budget.Gateway
def remembered(*arguments):  # no subclass: the gateway may be compiled
    gateways.append(create(*arguments))
    return gateways[-1]
budget.Gateway = remembered

requests, streams, events, endpoints, keys, alike = map(int, sys.argv[1:7])
balancer, named, *body = sys.argv[7:]
config = budget.load({
    "ROUTERDASH_DATA_DIR": tempfile.mkdtemp(prefix="routerdash-instructions-"),
    **({"ROUTERDASH_BALANCER": balancer} if balancer else {}),
})
upstream = Upstream() if body else budget.Upstream()
same = [Upstream() for _ in range(alike - 1)]
for path in body:
    budget.PLAIN = budget.request(open(path, "rb").read())
# Earlier checkouts have other names.
facts = budget.schema if hasattr(budget, "schema") else budget.snapshot
make_key = facts.PublishedKey if hasattr(facts, "PublishedKey") else facts.ApiKey
key = make_key(
    budget.SECRET[3:11], hashlib.sha256(budget.SECRET.encode()).hexdigest(), budget.ALL, None
)
others = [
    budget.make_endpoint("", *(f"model-{at // 10}-{model}" for model in range(50))) for at in range(endpoints - 1)
]
other_keys = [make_key(str(number), f"{number:064x}", budget.ALL, None) for number in range(1, keys)]
alikes = [budget.make_endpoint("", budget.MODEL, base_url=it.url) for it in (upstream, *same)]
control = budget.Control(config)
control.publish(*alikes, *others, api_keys=(key, *other_keys))
if balancer:
    from gateway.registry.writer import Changes
    speeds = facts.Speeds(0.01, 0.0002, 0.01, 0.001, completions=256)
    measured = {(it.id, budget.MODEL, "chat_completions"): speeds for it in alikes}
    control.registry.writer.apply(Changes(speeds=measured, lengths={(budget.MODEL, None): facts.Lengths(180.0, 3.7)}))
if named:
    from gateway.registry.writer import Changes
    def steps(*models):
        return tuple(facts.Step((facts.Target(model),)) for model in models)
    rows = [facts.ModelName(id=str(at), name=f"name-{at}", steps=steps("x", "y")) for at in range(100)]
    if named == "chain":
        rows.append(facts.ModelName(id="chain", name=budget.MODEL, steps=steps(budget.MODEL, "y")))
    control.registry.writer.apply(Changes(model_names={row.id: row for row in rows}))
del others, other_keys
running = budget.Running(config, upstream)
running.plain(50)
if not body:
    running.stream(10)
gc.collect()
gc.freeze()  # as gateway.main does
gc.set_threshold(50_000, 20, 20)
#RUN#
running.connection.close()
for one in (upstream, *same):
    one.close()
running.close()
"""


@dataclass(frozen=True, slots=True)
class Known:
    """Numbers of endpoints (with 50 models each, but for the first) and API keys that the gateway knows; of measured
    endpoints like the first; the balancer; and model names (UNUSED or CHAIN).
    """

    endpoints: int = 1
    keys: int = 1
    alike: int = 1
    balancer: str = ""  # the default
    names: str = ""  # none


ONE = Known()


def count(
    checkout: Path, requests: int, streams: int = 0, events: int = 0, *, body: str | None = None, known: Known = ONE
) -> int:
    """Instructions of the event loop's thread. `body`: a file with the body of plain requests."""
    arguments = _arguments(known, body, requests, streams, events)
    profiles = _profiles(checkout, PROGRAM.replace("#RUN#", RUN), arguments, {})
    (profile,) = (text for text in profiles if POLL in text)
    match = re.search(r"^(?:summary|totals): (\d+)", profile, re.MULTILINE)
    assert match is not None
    return int(match[1])


def _arguments(known: Known, body: str | None, requests: int, streams: int = 0, events: int = 0) -> list[str]:
    numbers = (requests, streams, events, known.endpoints, known.keys, known.alike)
    return [*map(str, numbers), known.balancer, known.names, *([] if body is None else [body])]


def _environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout), "PYTHONHASHSEED": "0",
            "DJANGO_SETTINGS_MODULE": "tests.settings"}  # fmt: skip


def _profiles(checkout: Path, program: str, arguments: list[str], extra: dict[str, str], *options: str) -> list[str]:
    """Run a program under callgrind, and return the profiles of its threads."""
    with tempfile.TemporaryDirectory() as directory:
        valgrind = ["valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={directory}/out"]
        environment = {**_environment(checkout), **extra}
        command = [*valgrind, *options, sys.executable, "-c", program, *arguments]
        subprocess.run(command, check=True, cwd=checkout, env=environment, capture_output=True)  # noqa: S603
        return [path.read_text(errors="replace") for path in Path(directory).glob("out*")]


def count_limits(checkout: Path, *states: str) -> dict[str, list[float]]:
    """Instructions of a plain request in each round of each state, which take turns in one process."""
    with tempfile.TemporaryDirectory() as directory:
        switch = Path(directory) / "switch.so"
        build_switch(switch)
        run = RUN_WITH_LIMITS.replace("ROUNDS", str(ROUNDS))
        extra = {"CALLGRIND_SWITCH": str(switch), "STATES": ",".join(states)}
        arguments = [str(REQUESTS), "0", "0", "1", "1", "1", "", ""]
        profiles = _profiles(checkout, PROGRAM.replace("#RUN#", run), arguments, extra, "--instr-atstart=no")
    counted: dict[str, list[float]] = {state: [] for state in states}
    for profile in profiles:
        if match := re.search(r"Client Request: state (\w+);.*?^(?:summary|totals): (\d+)", profile, re.DOTALL | re.M):
            counted[match[1]].append(int(match[2]) / REQUESTS)
    return counted


def per_unit(checkout: Path, known: Known = ONE) -> dict[str, float]:
    """Instructions for each plain request, each streamed event, and each stream beside its events."""
    few, many = (count(checkout, requests, known=known) for requests in (FEW, MANY))
    short, long = (count(checkout, 50, FEW_STREAMS, events, known=known) for events in (EVENTS, MORE_EVENTS))
    event = (long - short) / FEW_STREAMS / (MORE_EVENTS - EVENTS)
    more = count(checkout, 50, MANY_STREAMS, EVENTS, known=known)
    return {
        "plain request": (many - few) / (MANY - FEW),
        "streamed event": event,
        "stream beside its events": (more - short) / (MANY_STREAMS - FEW_STREAMS) - EVENTS * event,
    }


def costs_with_body(checkout: Path, name: str, body: bytes, known: Known = ONE) -> dict[str, float]:
    """Instructions a plain request with this body."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        few, many = (count(checkout, requests, body=file.name, known=known) for requests in FEW_WITH_BODY)
    return {f"request with {name} of {len(body):,} bytes": (many - few) / (FEW_WITH_BODY[1] - FEW_WITH_BODY[0])}


def compare_balancers(checkout: Path, alike: int, size: int) -> None:
    """Print the instructions of a plain request with each balancer."""
    counted: dict[str, float] = {}
    for balancer in (LEAST_INFLIGHT, ADAPTIVE):
        known = Known(alike=alike, balancer=balancer)
        (counted[balancer],) = costs_with_body(checkout, balancer, chat_body(size), known).values()
    ratio = counted[ADAPTIVE] / counted[LEAST_INFLIGHT]
    print(
        f"request of {size:,} bytes, {alike} endpoints: {counted[LEAST_INFLIGHT]:,.0f} instructions with "
        f"{LEAST_INFLIGHT}, {counted[ADAPTIVE]:,.0f} with {ADAPTIVE}: × {ratio:.3f}"
    )


class Rounds:
    """A gateway in a process of its own that runs rounds of plain requests."""

    def __init__(self, checkout: Path, known: Known, body: str, requests: int) -> None:
        program = PROGRAM.replace("#RUN#", RUN_ROUNDS)
        command = [sys.executable, "-c", program, *_arguments(known, body, requests)]
        self._process = subprocess.Popen(  # noqa: S603
            command, cwd=checkout, env=_environment(checkout), text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._requests = requests
        self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line: str = self._process.stdout.readline()
        assert line, "the process has ended"
        return line

    def microseconds(self) -> float:
        """Run a round, and return the CPU time of the event loop's thread for each request."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        return int(self._line()) / self._requests / 1e3

    def close(self) -> None:
        self._process.communicate("")


def cpu_times(checkout: Path, alike: int, size: int, rounds: int, requests: int = 500) -> dict[str, list[float]]:
    """Return the CPU time of a plain request in each round, in µs, by balancer. The first one of a round alternates."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(chat_body(size))
        file.flush()
        running = {
            balancer: Rounds(checkout, Known(alike=alike, balancer=balancer), file.name, requests)
            for balancer in (LEAST_INFLIGHT, ADAPTIVE)
        }
        times: dict[str, list[float]] = {balancer: [] for balancer in running}
        try:
            for number in range(-1, rounds):  # the first round is not counted
                for balancer in sorted(running, reverse=bool(number % 2)):
                    microseconds = running[balancer].microseconds()
                    if number >= 0:
                        times[balancer].append(microseconds)
        finally:
            for one in running.values():
                one.close()
    return times


def compare_cpu_times(checkout: Path, alike: int, size: int, rounds: int) -> None:
    """Print the CPU time of a plain request with each balancer, and the median of the ratios within the rounds."""
    times = cpu_times(checkout, alike, size, rounds)
    least, adaptive = times[LEAST_INFLIGHT], times[ADAPTIVE]
    ratios = sorted(ours / theirs for ours, theirs in zip(adaptive, least, strict=True))
    quarter = len(ratios) // 4
    print(
        f"request of {size:,} bytes, {alike} endpoints: {median(least):.1f} µs (least {min(least):.1f}) with "
        f"{LEAST_INFLIGHT}, {median(adaptive):.1f} ({min(adaptive):.1f}) with {ADAPTIVE}: × {median(ratios):.3f} "
        f"(quartiles {ratios[quarter]:.3f}, {ratios[-1 - quarter]:.3f}; of the least {min(adaptive) / min(least):.3f})",
        flush=True,
    )


def compare_names(checkout: Path) -> None:
    """Print the instructions of a plain request without model names, with names it does not use, and with a chain."""
    counted: dict[str, float] = {}
    for names in ("", UNUSED, CHAIN):
        few, many = (count(checkout, requests, known=Known(names=names)) for requests in (FEW, MANY))
        counted[names] = (many - few) / (MANY - FEW)
    for names, what in ((UNUSED, "100 model names, none of them used"), (CHAIN, "a model name with two steps")):
        ratio = counted[names] / counted[""]
        print(
            f"plain request with {what}: {counted[names]:,.0f} instructions, {counted['']:,.0f} without: × {ratio:.3f}"
        )


def compare_limits(checkout: Path, against: Path | None) -> None:
    """Print the instructions of a plain request without limits, with those of another API key, and with its own."""
    counted = count_limits(checkout, NONE, OTHER, OWN)
    without = median(counted[NONE])
    if against is not None:
        (there,) = count_limits(against, NONE).values()
        print(
            f"plain request without limits: {_shown(counted[NONE])} instructions, {_shown(there)} there: "
            f"× {without / median(there):.3f}"
        )
    for limits, what in ((OTHER, "three limits of another API key"), (OWN, "three limits of its API key")):
        print(
            f"plain request with {what}: {_shown(counted[limits])} instructions, {_shown(counted[NONE])} without: "
            f"× {median(counted[limits]) / without:.3f}"
        )


def _shown(counts: list[float]) -> str:
    return f"{median(counts):,.0f} ({min(counts):,.0f} to {max(counts):,.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout, to compare with")
    parser.add_argument("--shape", choices=SHAPES, help="count a plain request with a body of this shape")
    parser.add_argument("--size", type=int, default=200_000, help="bytes of this body")
    parser.add_argument("--endpoints", type=int, default=1, help="endpoints that the gateway knows")
    parser.add_argument("--keys", type=int, default=1, help="API keys that the gateway knows")
    parser.add_argument("--balancers", action="store_true", help="compare the balancers by a plain request")
    parser.add_argument("--alike", type=int, nargs="+", default=[1], help="measured endpoints of its model")
    parser.add_argument("--cpu", action="store_true", help="of the balancers compare CPU times, not instructions")
    parser.add_argument("--rounds", type=int, default=21, help="of CPU times")
    parser.add_argument("--names", action="store_true", help="count a plain request with model names")
    parser.add_argument("--limits", action="store_true", help="count a plain request with limits")
    options = parser.parse_args()
    if options.limits:
        compare_limits(ROOT, options.against and options.against.resolve())
        return
    if options.names:
        compare_names(ROOT)
        return
    if options.balancers:
        for alike in options.alike:
            if options.cpu:
                compare_cpu_times(ROOT, alike, options.size, options.rounds)
            else:
                compare_balancers(ROOT, alike, options.size)
        return
    measure = per_unit
    if options.shape:
        measure = partial(costs_with_body, name=options.shape, body=SHAPES[options.shape](options.size))
    known = Known(options.endpoints, options.keys)
    here = per_unit(ROOT, known) if known != ONE else measure(ROOT)
    there: dict[str, float] = {}
    place = "there"
    if options.against:
        there = measure(options.against.resolve())
    elif known != ONE:
        there, place = per_unit(ROOT), "with one endpoint and one key"
    for name, value in here.items():
        beside = f", {there[name]:,.0f} {place}: × {value / there[name]:.3f}" if there else ""
        print(f"{name}: {value:,.0f} instructions{beside}")


if __name__ == "__main__":
    main()
