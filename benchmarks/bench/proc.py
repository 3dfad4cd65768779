"""Processes of this machine as /proc tells of them: trees, CPU time, memory; and the machine itself."""

import os
import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def stat_of(pid: int) -> tuple[int, float]:
    """(parent, CPU seconds of it and of its children that have ended). (0, 0.0) when it is gone."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except OSError:
        return 0, 0.0


def parse_stat(line: str) -> tuple[int, float]:
    """The same from the line itself; its second field is a name in parentheses that may hold anything."""
    fields = line.rpartition(")")[2].split()
    return int(fields[1]), sum(map(int, fields[11:15])) / TICKS


def tree(root: int) -> list[int]:
    """A process and everything below it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            children.setdefault(stat_of(int(entry))[0], []).append(int(entry))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time until now."""
    return sum(stat_of(pid)[1] for pid in pids)


def pin(pids: Iterable[int], core: int | None) -> None:
    """All threads of these processes, and those to come, to one core; None: to any."""
    cores = range(os.cpu_count() or 1) if core is None else [core]
    for pid in pids:
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with suppress(OSError):
                    os.sched_setaffinity(int(thread), cores)


def prefer(pids: Iterable[int], nice: int) -> None:
    """The niceness of processes, and of their sessions, among which Linux may share out the time first."""
    for pid in pids:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, nice)
        with suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def session_niceness() -> int:
    """Of the session that we are part of; 0 where Linux has no such thing."""
    with suppress(OSError):
        return int(Path("/proc/self/autogroup").read_text().rpartition("nice")[2])
    return 0


def resident_kib(pid: int, field: str = "VmRSS") -> int:
    """VmRSS is now, VmHWM the most since `forget_peak`. KiB; 0 when the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) if found else 0


def forget_peak(pid: int) -> None:
    """VmHWM begins anew."""
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
