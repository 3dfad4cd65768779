"""CPU time of a gateway for an event while many streams run, with the kernel's part.

    python -m benchmarks.many_streams [--against CHECKOUT] [--streams NUMBER] [--repeats NUMBER]

Each stream gets one event after the other streams have got theirs, so that what an event touches has partly left the
processor's caches, as in a busy gateway. `benchmarks.instructions` has one stream and does not see this. The gateway is
that of `tests/gateway/test_budget.py`; only its thread counts. With `--against`, another checkout of RouterDash is
measured in turn, and the ratio of the medians is printed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 60
PROGRAM = r"""
import gc, hashlib, os, socket, sys, tempfile, time
import tests.gateway.test_budget as budget  # which imports all names from the modules of the checkout
from tests.gateway.scripted import chunk

streams, rounds = map(int, sys.argv[1:])
config = budget.load({
    "ROUTERDASH_DATA_DIR": tempfile.mkdtemp(prefix="routerdash-streams-"),
    "ROUTERDASH_MAX_CONNECTIONS_PER_CLIENT": str(streams + 1),
})
listening = socket.create_server(("127.0.0.1", 0))
class Upstream:
    url = "http://{}:{}".format(*listening.getsockname())
digest = hashlib.sha256(budget.SECRET.encode()).hexdigest()
key = budget.schema.PublishedKey(budget.SECRET[3:11], digest, budget.ALL, None)
control = budget.Control(config)
control.publish(budget.make_endpoint("", budget.MODEL, base_url=Upstream.url), api_keys=(key,))
running = budget.Running(config, Upstream)

def read_to(connection, end):
    received = b""
    while not received.endswith(end):
        received += connection.recv(1 << 16)

def begin(number):
    client = socket.create_connection(("127.0.0.1", running.port))
    client.sendall(budget.STREAM)
    upstream, _ = listening.accept()
    read_to(upstream, b"}")
    event = budget.framed(chunk(" token", model=budget.MODEL).replace(b'"id":"', b'"id":"%06d' % number))
    upstream.sendall(budget.HEAD + event)
    read_to(client, b"\n\n\r\n")
    return client, upstream, event

def one_round():
    for client, upstream, event in begun:
        upstream.sendall(event)
        read_to(client, b"\n\n\r\n")

begun = [begin(number) for number in range(streams)]
gc.collect()
gc.freeze()  # as gateway.main does
gc.set_threshold(50_000, 20, 20)
one_round()
clock = time.pthread_getcpuclockid(running.ident)
for _ in range(rounds):
    before = time.clock_gettime(clock)
    one_round()
    print((time.clock_gettime(clock) - before) / streams * 1e6)
sys.stdout.flush()
os._exit(0)  # without waiting for the streams
"""


def measure(checkout: Path, streams: int) -> float:
    """Return the CPU time of an event in µs, the median of ROUNDS."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "DJANGO_SETTINGS_MODULE": "tests.settings"}
    command = [sys.executable, "-c", PROGRAM, str(streams), str(ROUNDS)]
    with tempfile.TemporaryDirectory() as directory:
        environment["TMPDIR"] = directory
        done = subprocess.run(command, check=True, cwd=checkout, env=environment, capture_output=True, text=True)  # noqa: S603
    return statistics.median(map(float, done.stdout.split()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout, to compare with")
    parser.add_argument("--streams", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    checkouts = [ROOT] if options.against is None else [ROOT, options.against.resolve()]
    found: list[list[float]] = [[] for _ in checkouts]
    for _ in range(options.repeats):
        for checkout, samples in zip(checkouts, found, strict=True):
            samples.append(measure(checkout, options.streams))
    here, *there = (statistics.median(samples) for samples in found)
    beside = "".join(f", {other:.2f} µs there: × {here / other:.3f}" for other in there)
    print(f"event of one of {options.streams} streams: {here:.2f} µs{beside}")


if __name__ == "__main__":
    main()
