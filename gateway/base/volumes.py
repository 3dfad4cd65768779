"""Check, by the kernel's list of mounts, if a directory outlives its container."""

import re
from functools import cache
from pathlib import Path, PurePath

MOUNTS = Path("/proc/self/mountinfo")
IN_MEMORY = ("tmpfs", "ramfs")


@cache  # mounts do not change while a container runs
def is_lost_with_container(directory: Path) -> bool:
    """Return True if no volume, or only one in memory, is mounted at `directory` or above it.

    Return False if that cannot be determined.
    """
    try:
        return without_volume(directory.resolve(), MOUNTS.read_text())
    except (OSError, RuntimeError):
        return False


def without_volume(directory: PurePath, mounts: str) -> bool:
    """Do the same for a list of mounts as in /proc/self/mountinfo, the later above the earlier."""
    file_systems = {}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        file_systems[PurePath(point)] = after.split()[0]
    mounted = next((path for path in (directory, *directory.parents) if path in file_systems), None)
    return mounted is None or mounted == PurePath("/") or file_systems[mounted] in IN_MEMORY
