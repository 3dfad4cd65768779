"""Cost of an idle installation: memory, CPU time and wake-ups of each process, and the time of its second start.

    python -m benchmarks.idle --seconds 60

RouterDash runs with its default settings in a new data directory. It is started twice, and measured after the second
start once it is idle. Prints the results with their bounds, and exits with 1 if one of them is exceeded.
"""

import argparse
import http.client
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process import ROOT, clean_environment, free_port, stop

MEMORY_MIB = 150.0
CPU_PERCENT = 0.5  # of one core
START_SECONDS = 1.5
TIMEOUT_SECONDS = 120.0
SETTLED_PERCENT = 5.0  # CPU of one core: work of the start continues as long as a second takes more
SETTLED_SECONDS = 5
CPU_CLOCK = 2  # CPUCLOCK_SCHED in Linux's clock ids: the exact CPU time of a process with all its threads


@dataclass(frozen=True)
class Mapping:
    """One mapping of a process: the pages in memory, and the process's share of them."""

    file: tuple[str, str, str] | None  # device, inode and offset; None for memory without a file
    resident: int  # kB; of a file, only pages that the process did not change
    share: int  # kB: each page is divided among all processes that map it


def run(seconds: float, database: str = "") -> list[str]:
    """Measure an installation. Return a text for each exceeded bound."""
    with tempfile.TemporaryDirectory(prefix="routerdash-idle-") as directory:
        port = free_port()
        environment = clean_environment(
            {"ROUTERDASH_DATA_DIR": directory, "ROUTERDASH_PORT": str(port), "DATABASE_URL": database}
        )
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # with it, each process compiles all modules anew
        with _serving(environment, port) as (_, first):
            print(f"first start:  {first:.2f} s")
        with _serving(environment, port) as (supervisor, second):
            used = sum(map(cpu_seconds, processes(supervisor)))
            print(f"second start: {second:.2f} s until /ready returned 200 (bound {START_SECONDS} s)")
            print(f"CPU time of all processes until then: {used:.2f} s")
            _settle(supervisor)
            total_memory, total_cpu = _measure(supervisor, seconds)
    exceeded = []
    if second > START_SECONDS:
        exceeded.append(f"the second start took {second:.2f} s")
    if total_memory > MEMORY_MIB:
        exceeded.append(f"{total_memory:.1f} MiB of memory")
    if total_cpu > CPU_PERCENT:
        exceeded.append(f"{total_cpu:.2f} % of one core")
    return exceeded


@contextmanager
def _serving(environment: dict[str, str], port: int) -> Iterator[tuple[int, float]]:
    """Start RouterDash; give the process id of its supervisor, and the seconds until it was ready."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "manage.py", "serve"], env=environment, cwd=ROOT)
    try:
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > started + TIMEOUT_SECONDS:
                raise SystemExit("RouterDash did not start")
            time.sleep(0.01)
        yield process.pid, time.monotonic() - started
    finally:
        stop(process, 40)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _settle(supervisor: int) -> None:
    """Wait until the work of the start and the background jobs have ended."""
    settled, until = 0, time.monotonic() + TIMEOUT_SECONDS
    while settled < SETTLED_SECONDS and time.monotonic() < until:
        before = sum(map(cpu_seconds, processes(supervisor)))
        time.sleep(1)
        used = sum(map(cpu_seconds, processes(supervisor))) - before
        has_jobs = "background (child)" in processes(supervisor).values()
        settled = settled + 1 if 0 <= used < SETTLED_PERCENT / 100 and not has_jobs else 0


def _measure(supervisor: int, seconds: float) -> tuple[float, float]:
    """Print the results of each process. Return the total memory in MiB and CPU time in percent of one core."""
    names = processes(supervisor)
    cpu, wakes = _of_each(names, cpu_seconds), _of_each(names, wake_ups)
    started = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - started
    if processes(supervisor) != names:
        raise SystemExit("processes started or ended during the measurement; measure again")
    cpu = {pid: cpu_seconds(pid) - before for pid, before in cpu.items()}
    wakes = {pid: wake_ups(pid) - before for pid, before in wakes.items()}
    shares, alone = memory(names)
    print(f"\n{'process':<24}{'threads':>8}{'PSS, MiB':>10}{f'CPU s in {elapsed:.0f} s':>16}{'wake-ups/s':>12}")
    for pid, name in names.items():
        threads = len(os.listdir(f"/proc/{pid}/task"))
        print(f"{name:<24}{threads:>8}{shares[pid] / 1024:>10.1f}{cpu[pid]:>16.3f}{wakes[pid] / elapsed:>12.1f}")
    pss, percent = sum(shares.values()) / 1024, sum(cpu.values()) / elapsed * 100
    print(f"{'all':<24}{'':>8}{pss:>10.1f}{sum(cpu.values()):>16.3f}{sum(wakes.values()) / elapsed:>12.1f}")
    print(f"\nmemory: {pss:.1f} MiB, and {alone / 1024:.1f} MiB if no other program maps the same files", end="")
    print(f" (bound {MEMORY_MIB:.0f} MiB)")
    print(f"CPU time: {percent:.2f} % of one core (bound {CPU_PERCENT} %)")
    return alone / 1024, percent


def _of_each(names: dict[int, str], figure: Callable[[int], float]) -> dict[int, float]:
    return {pid: figure(pid) for pid in names}


def processes(supervisor: int) -> dict[int, str]:
    """Return the names of the supervisor and of all its descendants by process id, in the order of their starts."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (parent := _parent(int(entry))):
            children.setdefault(parent, []).append(int(entry))
    names = {supervisor: "supervisor"}
    pending = [supervisor]
    while pending:
        parent = pending.pop(0)
        for pid in sorted(children.get(parent, ())):
            names[pid] = _name(pid) if parent == supervisor else f"{names[parent]} (child)"
            pending.append(pid)
    return names


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _name(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return next((name for name in ("gateway", "control", "background") if name in command), command)


def cpu_seconds(pid: int) -> float:
    return time.clock_gettime((~pid << 3) | CPU_CLOCK)


def wake_ups(pid: int) -> float:
    """Return how often the threads of a process have waited."""
    statuses = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status"))
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in statuses)


def memory(pids: dict[int, str]) -> tuple[dict[int, int], int]:
    """Return the PSS of each process, and the memory of all if no other program mapped the same files, both in kB.

    On a machine where other programs run on the same Python, PSS counts only a part of the pages of its files.
    """
    shares: dict[int, int] = {}
    files: dict[tuple[str, str, str], int] = {}
    alone = 0
    for pid in pids:
        mappings = list(_mappings(pid))
        shares[pid] = sum(mapping.share for mapping in mappings)
        for mapping in mappings:
            if mapping.file is None:
                alone += mapping.share
            else:
                files[mapping.file] = max(files.get(mapping.file, 0), mapping.resident)
    return shares, alone + sum(files.values())


def _mappings(pid: int) -> Iterator[Mapping]:
    """Read the mappings of a process. A mapping of a file gives two: changed pages belong to the process."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    for head, body in re.findall(r"^([0-9a-f]+-[0-9a-f]+ .*)\n((?:\w+: .*\n)+)", text, re.MULTILINE):
        _, _, offset, device, inode, *_ = head.split()
        sizes = {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB$", body, re.MULTILINE)}
        if inode == "0":
            yield Mapping(None, sizes["Rss"], sizes["Pss"])
        else:
            changed = min(sizes["Anonymous"], sizes["Pss"])
            yield Mapping(None, sizes["Anonymous"], changed)
            yield Mapping((device, inode, offset), sizes["Rss"] - sizes["Anonymous"], sizes["Pss"] - changed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of the measurement")
    parser.add_argument("--database", default="", help="DATABASE_URL of an empty PostgreSQL database (default: SQLite)")
    options = parser.parse_args()
    exceeded = run(options.seconds, options.database)
    for text in exceeded:
        print(f"EXCEEDED: {text}")
    sys.exit(1 if exceeded else 0)


if __name__ == "__main__":
    main()
