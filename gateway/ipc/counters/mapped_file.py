"""Files that processes map into memory, and that are made anew after a boot of the machine or a change of their layout.

The first two words of such a file are its layout, and a number of the boot. More words of a header may follow.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from zlib import crc32

FIRST_WORDS = 2  # layout and boot


def open_or_replace(path: Path, size: int, layout: int, header: Callable[[], bytes], allocated: int) -> int:
    """Return the descriptor of the file, or of a new one that replaces it.

    `header` returns the bytes after the first two words of a new file, of which `allocated` bytes get room on the disk.
    A process of another release may still have the old file mapped. So it is left to it as it is. One process at a time
    may call this. Raises OSError if the disk has no room.
    """
    first = memoryview(bytearray(8 * FIRST_WORDS)).cast("Q")
    first[0], first[1] = layout, boot_number()
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDWR)
        if os.fstat(descriptor).st_size == size and os.pread(descriptor, 8 * FIRST_WORDS, 0) == first.tobytes():
            return descriptor
        os.close(descriptor)
    new = path.with_name(f"{path.name}.new")
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.ftruncate(descriptor, size)
        os.posix_fallocate(descriptor, 0, allocated)
        os.pwrite(descriptor, first.tobytes() + header(), 0)
        new.rename(path)
    except BaseException:
        os.close(descriptor)
        new.unlink(missing_ok=True)
        raise
    return descriptor


def boot_number() -> int:
    """Return a number that changes when the machine starts, as its monotonic clock then begins anew."""
    try:
        return crc32(Path("/proc/sys/kernel/random/boot_id").read_bytes())
    except OSError:
        return 0


def allocate(path: Path, inode: int, start: int, size: int) -> None:
    """Reserve room on the disk for a part of the mapped file. Raises OSError.

    A store into a mapped page without room would kill the process (SIGBUS). `inode` is that of the mapped file: another
    release may have replaced it.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        if os.fstat(descriptor).st_ino != inode:
            raise OSError(f"{path} was replaced by a process of another release")
        os.posix_fallocate(descriptor, start, size)
    finally:
        os.close(descriptor)
