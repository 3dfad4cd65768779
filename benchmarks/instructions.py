"""Instructions of the gateway's event loop for a plain request and for a streamed event, counted by callgrind.

    python -m benchmarks.instructions [--against CHECKOUT] [--shape NAME] [--size BYTES]
    python -m benchmarks.instructions --endpoints 1000 --keys 1000000

Instruction counts are repeatable and times are not, so use this for differences below 5 %. Runs the gateway of
`tests/gateway/test_budget.py` under valgrind with few and with many requests; the difference of the two is the cost of
a request, without what a start costs. Requests come one after the other from one client. Each event is sent when the
client has received the one before, so that it is an iteration of the event loop of its own. With `--against`, another
checkout of RouterDash is counted, too, and the ratio of this one to it is printed. With `--shape`, only a plain request
with a body of this shape is counted (see `bench/bodies.py`). With `--endpoints` or `--keys`, the gateway knows so many,
and the ratio to a gateway with one of each is printed. Needs valgrind; takes some three minutes for each checkout or
size.
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

from benchmarks.bench.bodies import SHAPES

ROOT = Path(__file__).resolve().parent.parent
FEW, MANY = 400, 1400
FEW_WITH_BODY = 50, 250
FEW_STREAMS, MANY_STREAMS = 5, 105
EVENTS, MORE_EVENTS = 10, 210
POLL = "uv__io_poll"  # only the event loop calls it
PROGRAM = r"""
import gc, hashlib, sys, tempfile
import tests.gateway.test_budget as budget  # which imports all names from the modules of the checkout

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

requests, streams, events, endpoints, keys = map(int, sys.argv[1:6])
body = sys.argv[6:]
config = budget.load({"ROUTERDASH_DATA_DIR": tempfile.mkdtemp(prefix="routerdash-instructions-")})
upstream = Upstream() if body else budget.Upstream()
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
budget.Control(config).publish(
    budget.make_endpoint("", budget.MODEL, base_url=upstream.url), *others, api_keys=(key, *other_keys)
)
del others, other_keys
running = budget.Running(config, upstream)
running.plain(50)
if not body:
    running.stream(10)
gc.collect()
gc.freeze()  # as gateway.main does
gc.set_threshold(50_000, 20, 20)
running.plain(requests)
for _ in range(streams):
    running.stream(events)
running.connection.close()
upstream.close()
running.close()
"""


@dataclass(frozen=True, slots=True)
class Known:
    """Numbers of endpoints (with 50 models each, but for the first) and API keys that the gateway knows."""

    endpoints: int = 1
    keys: int = 1


ONE = Known()


def count(
    checkout: Path, requests: int, streams: int = 0, events: int = 0, *, body: str | None = None, known: Known = ONE
) -> int:
    """Instructions of the event loop's thread. `body`: a file with the body of plain requests."""
    numbers = (requests, streams, events, known.endpoints, known.keys)
    with tempfile.TemporaryDirectory() as directory:
        command = ["valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={directory}/out",
                   sys.executable, "-c", PROGRAM, *map(str, numbers), *([] if body is None else [body])]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONHASHSEED": "0",
                       "DJANGO_SETTINGS_MODULE": "tests.settings"}  # fmt: skip
        subprocess.run(command, check=True, cwd=checkout, env=environment, capture_output=True)  # noqa: S603
        profiles = [path.read_text(errors="replace") for path in Path(directory).glob("out-*")]
    (profile,) = (text for text in profiles if POLL in text)
    match = re.search(r"^(?:summary|totals): (\d+)", profile, re.MULTILINE)
    assert match is not None
    return int(match[1])


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


def costs_with_body(checkout: Path, name: str, body: bytes) -> dict[str, float]:
    """Instructions a plain request with this body."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        few, many = (count(checkout, requests, body=file.name) for requests in FEW_WITH_BODY)
    return {f"request with {name} of {len(body):,} bytes": (many - few) / (FEW_WITH_BODY[1] - FEW_WITH_BODY[0])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout, to compare with")
    parser.add_argument("--shape", choices=SHAPES, help="count a plain request with a body of this shape")
    parser.add_argument("--size", type=int, default=200_000, help="bytes of this body")
    parser.add_argument("--endpoints", type=int, default=1, help="endpoints that the gateway knows")
    parser.add_argument("--keys", type=int, default=1, help="API keys that the gateway knows")
    options = parser.parse_args()
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
