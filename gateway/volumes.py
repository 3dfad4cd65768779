"""Does a directory outlive its container? Read from the kernel's list of mounts."""

import re
from functools import cache
from pathlib import Path, PurePath

MOUNTS = Path("/proc/self/mountinfo")
IN_MEMORY = ("tmpfs", "ramfs")


@cache  # what is mounted at a start stays while a container runs
def goes_with_the_container(directory: Path) -> bool:
    """True if no volume, or one in memory, is mounted at `directory` or above it; False where nothing tells."""
    try:
        return without_volume(directory.resolve(), MOUNTS.read_text())
    except (OSError, RuntimeError):
        return False


def without_volume(directory: PurePath, mounts: str) -> bool:
    """The same for a list of mounts as in /proc/self/mountinfo, the later above the earlier."""
    found = {}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        found[PurePath(point)] = after.split()[0]
    mounted = next((it for it in (directory, *directory.parents) if it in found), None)
    return mounted is None or mounted == PurePath("/") or found[mounted] in IN_MEMORY
