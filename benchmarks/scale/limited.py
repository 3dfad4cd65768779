"""A large installation whose API keys all have limits: memory, the file of counters, and edits of limits.

    python -m benchmarks.scale.limited [--keys 1000000 --used 10000] [--database postgres://…/postgres]

Each key, each user and everyone have three limits. Some keys send one request to each gateway, so that each gateway
counts for all of these keys. Then limits are edited over the API; each gateway must name the new ones in the headers of
a response. At last, pages and API paths of limits are read. Prints a table and exits with 1 if a value exceeds its
bound. Takes some twenty minutes with a million keys.
"""

import argparse
import math
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks import filled
from benchmarks.scale import arguments, installation
from benchmarks.scale.connections import GatewayConnections, answer_of, seconds_until_everywhere
from benchmarks.scale.fleet import EVERYWHERE_MS, START_SECONDS, memory
from benchmarks.scale.installation import KEYS_OF_A_USER, STEADY, FleetSize, key_id, say, secret
from benchmarks.scale.verdicts import Verdict, over, percentile, table
from tests.router import PASSWORD, RouterDash

COUNTERS_MB, PAGE_MS = 64.0, 300.0
LISTED = 100  # subjects on a page of limits
MUCH = 1_000_000  # of each limit, so that none is reached
ENDPOINTS, MODELS = 3, 1
LIMIT_HEADER = "x-ratelimit-limit-requests"


def fill_limits(database: str, keys: int) -> None:
    """Write limits of keys, of their users, and of everyone."""
    users = -(-keys // KEYS_OF_A_USER)
    subjects = (
        *(("key", key_id(number)) for number in range(keys)),
        *(("user", filled.user(number)) for number in range(users)),
        ("everyone", ""),
    )
    with filled.opened(database) as sink, sink.without_triggers():
        sink.many(
            "limits",
            ("level", "subject_id", "concurrency", "requests", "tokens"),
            (
                # The headers name the level with the least left: that of the key.
                (level, subject_id, MUCH // 10, MUCH if level == "key" else 10 * MUCH, MUCH * MUCH)
                for level, subject_id in subjects
            ),
        )


def counter_mb(router: RouterDash) -> float:
    """Return the space on disk of the files of counters in MiB."""
    files = [path for path in router.data_dir.rglob("*-counters*") if path.is_file()]
    assert files, f"no file of counters in {router.data_dir}"
    return sum(path.stat().st_blocks for path in files) * 512 / 2**20


def use(connections: GatewayConnections, model: str, used: int) -> int:
    """Send one request of each of these keys to each gateway. Return how many were not served."""

    def send(pid: int) -> int:
        answers = (connections.chat(pid, model, secret(number)) for number in range(used))
        return sum(it.status != 200 or LIMIT_HEADER not in it.headers for it in answers)

    with ThreadPoolExecutor(len(connections.pids)) as pool:
        return sum(pool.map(send, list(connections.pids)))


def pages(router: RouterDash, keys: int, times: int = 5) -> list[Verdict]:
    """Read pages and API paths of limits several times. Return the median duration of each."""
    last = -(-keys // LISTED)
    key = key_id(keys // 2)
    _, browser = router.log_in("admin", PASSWORD)
    browsed = {
        "/limits": "/limits",
        "/limits, last page": f"/limits?page={last}",
        "form of a key's limits": f"/limits/key/{key}",
        "page of a key": f"/admin/access/apikey/{key}/change/",
        "list of keys": "/admin/access/apikey/",
        "overview": "/",
    }
    called = {"/api/limits": "/api/limits", "/api/limits, last part": f"/api/limits?limit=50&offset={keys}"}
    found = []
    for name, read in (
        *((name, partial(browser.open, f"{router.url}{path}", timeout=120)) for name, path in browsed.items()),
        *((name, partial(router.request, "GET", path)) for name, path in called.items()),
    ):
        took = []
        for _ in range(times):
            try:
                _, seconds, answer = answer_of(read)
                took.append(seconds * 1000 if answer.status == 200 else math.nan)
            except urllib.error.HTTPError as error:
                say(f"{name}: {error}")
                took.append(math.nan)
        found.append(Verdict(f"{name}, median of {times}", percentile(took, 0.5), "ms", PAGE_MS))
    return found


def edit(router: RouterDash, connections: GatewayConnections, model: str, number: int) -> tuple[float, float]:
    """Edit the limits of a key. Return the seconds to the response, and from the start until it is in effect."""
    limit = MUCH - 1 - number
    body = {"concurrency": MUCH // 10, "requests": limit, "tokens": MUCH * MUCH}
    send = partial(router.request, "PUT", f"/api/limits/key/{key_id(number)}", body)
    started, took, answer = answer_of(send)
    assert answer.status == 200, answer

    def seen(pid: int) -> bool:
        return connections.chat(pid, model, secret(number)).headers[LIMIT_HEADER] == str(limit)

    return took, seconds_until_everywhere(connections, seen, started)


def run(options: argparse.Namespace) -> list[Verdict]:
    size = FleetSize(ENDPOINTS, MODELS, options.keys)
    servers = installation.server_list(size)
    model = servers[STEADY].models[0]
    settings = {"ROUTERDASH_WORKERS": str(options.workers)}
    with ExitStack() as stack:
        stack.enter_context(installation.simulated(servers))
        router = stack.enter_context(installation.installed(size, servers, options.database, settings))
        database = router.database_url or str(Path(router.data_dir) / "routerdash.sqlite3")
        _, took, _ = answer_of(lambda: fill_limits(database, options.keys))
        say(f"limits written in {took:.0f} s")
        first, first_cpu = installation.start(router)
        router.stop(120)
        second, second_cpu = installation.start(router)
        say(f"starts: {first:.1f} s, {second:.1f} s")
        time.sleep(options.rest)
        found = [
            Verdict("first start, until ready", first, "s"),
            Verdict("first start, CPU time", first_cpu, "s"),
            Verdict("second start, until ready", second, "s", START_SECONDS),
            Verdict("second start, CPU time", second_cpu, "s"),
            *memory(router, "after the start"),
        ]
        connections = GatewayConnections(router)
        stack.callback(connections.close)
        _, took, failed = answer_of(lambda: use(connections, model, options.used))
        say(f"{options.used} keys used at {len(connections.pids)} gateways in {took:.0f} s")
        found += [Verdict(f"{options.used:,} keys in use: requests without their limits", failed, "", 0)]
        found += memory(router, f"with {options.used:,} keys in use")
        found.append(Verdict("file of counters", counter_mb(router), "MiB", COUNTERS_MB))
        times = [edit(router, connections, model, number) for number in range(options.times)]
        for name, values in zip(("answered", "in effect everywhere"), zip(*times, strict=True), strict=True):
            ms = [value * 1000 for value in values]
            bound = EVERYWHERE_MS if name == "in effect everywhere" else None
            found.append(Verdict(f"edit of limits, {name}, median of {len(ms)}", percentile(ms, 0.5), "ms", bound))
            found.append(Verdict(f"edit of limits, {name}, p95", percentile(ms, 0.95), "ms"))
        found += pages(router, options.keys)
        return [*found, *memory(router, "at the end")]


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = arguments.parser(__doc__, keys=1_000_000, workers=4)
    parser.add_argument("--used", type=int, default=10_000, help="API keys that send requests")
    parser.add_argument("--times", type=int, default=100, help="number of edits")
    parser.add_argument("--rest", type=float, default=15.0, help="seconds between the start and the measurements")
    options = parser.parse_args(given)
    if options.quick:
        options.keys, options.used, options.times, options.workers, options.rest = 100, 20, 3, 2, 0.0
    return options


def main() -> None:
    options = parse()
    installation.measure(options, run, table, over, may_fail=options.quick)


if __name__ == "__main__":
    main()
