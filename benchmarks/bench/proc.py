"""Processes of this machine from /proc: trees, CPU time, memory; and facts about the machine."""

import os
import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def stat_of(pid: int) -> tuple[int, float]:
    """Return parent and CPU seconds of a process and its ended children; (0, 0.0) when it has exited."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except OSError:
        return 0, 0.0


def parse_stat(line: str) -> tuple[int, float]:
    """Parse a stat line. Its second field is a name in parentheses that may contain any characters."""
    fields = line.rpartition(")")[2].split()
    return int(fields[1]), sum(map(int, fields[11:15])) / TICKS


def tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            children.setdefault(stat_of(int(entry))[0], []).append(int(entry))
    pids = [root]
    for pid in pids:
        pids += children.get(pid, [])
    return pids


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time so far, in seconds."""
    return sum(stat_of(pid)[1] for pid in pids)


def pin(pids: Iterable[int], core: int | None) -> None:
    """Pin all present and future threads of these processes to one core, or with None to any core."""
    cores = range(os.cpu_count() or 1) if core is None else [core]
    for pid in pids:
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with suppress(OSError):
                    os.sched_setaffinity(int(thread), cores)


def prefer(pids: Iterable[int], nice: int) -> None:
    """Set the niceness of processes and of their sessions, to which Linux may assign CPU time first."""
    for pid in pids:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, nice)
        with suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def session_niceness() -> int:
    """The niceness of the own session; 0 if Linux has no session niceness."""
    with suppress(OSError):
        return int(Path("/proc/self/autogroup").read_text().rpartition("nice")[2])
    return 0


def resident_kib(pid: int, field: str = "VmRSS") -> int:
    """Memory in KiB: VmRSS is current, VmHWM the peak since `forget_peak`. 0 when the process has exited."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(match[1]) if match else 0


def forget_peak(pid: int) -> None:
    """Reset VmHWM."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def machine() -> str:
    """CPU, cores and kernel, in one line."""
    with suppress(OSError):
        cpu = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        name = cpu[1] if cpu else platform.machine()
        memory = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
        gib = int(memory[1]) / (1 << 20) if memory else 0.0
        return f"{name}, {os.cpu_count()} cores, {gib:.0f} GiB; Linux {platform.release()}"
    return platform.platform()
