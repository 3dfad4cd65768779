"""Processes for tests of the registry store: `python -m tests.gateway.registry.child ROLE FOLDER [DAMAGE]`."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from gateway.ipc.live_page import LivePage
from gateway.registry.reader import RegistryReader, StoreUnreadable
from gateway.registry.writer import Changes, RegistryWriter
from tests.gateway.registry.conftest import digest, file_of, make_key

KEYS = 30_000  # more than the page cache has room for


def write(folder: Path, name: str) -> None:
    """Write a key, and end as control does."""
    writer = _writer_of(folder)
    writer.apply(Changes(keys={digest(name).hex(): make_key(name)}))
    writer.close()


def write_and_die(folder: Path, name: str) -> None:
    """Commit a key, and die inside the next transaction."""
    writer = _writer_of(folder)
    writer.apply(Changes(keys={digest(name).hex(): make_key(name)}))
    writer._publish = lambda version: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    writer.apply(Changes(keys={digest("unpublished").hex(): make_key("unpublished")}))


def read_damaged(folder: Path, damage: str) -> None:
    """Look up all keys of a file that is damaged meanwhile, and print how many were right, unknown and refused."""
    root = folder / "registry"
    reader = RegistryReader(root, LivePage(folder / "live-page"), lambda update: None)
    reader.follow()
    assert reader.key(digest("0")) is not None
    DAMAGES[damage](file_of(root))
    results: Counter[str] = Counter()
    for number in range(KEYS):
        try:
            results["right" if reader.key(digest(str(number))) else "unknown"] += 1
        except StoreUnreadable:
            results["refused"] += 1
    print(results["right"], results["unknown"], results["refused"])


def _writer_of(folder: Path) -> RegistryWriter:
    return RegistryWriter(folder / "registry", LivePage(folder / "live-page"))


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "overwritten": _overwrite,
}
ROLES = {"write": write, "write-and-die": write_and_die, "read-damaged": read_damaged}

if __name__ == "__main__":
    ROLES[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])
