"""The journal: append-only segments, one directory per writer, and the only code that knows how they look.

    <journal>/<writer>/00000001.seg, 00000002.seg, ...

Rules that readers and writers rely on:
 1. A writer is one process lifetime. Its name is never used again and its segments are never opened for writing again,
    so a torn tail stays where it is and "who wrote this" has one answer.
 2. The directory's flock is held by its writer while that lives. Whoever gets the lock knows that it is dead.
 3. Only the last segment grows. Segment n + 1 is created after the last byte of n: who has seen n + 1 may read n to
    its end.
 4. A position is (segment, offset of the first byte not read). Positions only grow.
 5. A good frame after a bad one proves the bad one to be damage; a bad one with nothing good behind it may still be
    being written, unless its segment is not the last.

A frame is F5 'R' 'J' · version · length · CRC32 of what came before and the payload · payload (JSON). The byte F5 never
occurs in UTF-8, so the marker never occurs in a payload, and the next frame is found by searching for it.
"""

import fcntl
import logging
import os
import re
import secrets
import shutil
import struct
import time
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import msgspec

from gateway.record import Entry, SegmentHead, Unrecorded, decode, encode

log = logging.getLogger(__name__)

MAGIC = b"\xf5RJ"
VERSION = 1
HEAD = struct.Struct("<3sBI")
CRC = struct.Struct("<I")
WHOLE_HEAD = struct.Struct("<3sBII")  # both
FRAME_BYTES = WHOLE_HEAD.size
MAX_PAYLOAD = 1 << 20
CHUNK = 4 << 20  # larger than any frame
SEGMENT_BYTES = 8 << 20
RETRY_SECONDS = 0.1

_SEGMENT = re.compile(r"\d{8}\.seg")

Position = tuple[int, int]
START: Position = (1, 0)


class Gone(Exception):
    """The segment at this position is no longer there."""


class UnknownVersion(Exception):
    """Written by a newer release: not ours to skip."""


def frame(entry: Entry) -> bytes:
    payload = encode(entry)
    head, crc = _head(len(payload))
    return head + CRC.pack(zlib.crc32(payload, crc)) + payload


@lru_cache(maxsize=4096)
def _head(length: int) -> tuple[bytes, int]:
    """Of a frame, and its CRC."""
    packed = HEAD.pack(MAGIC, VERSION, length)
    return packed, zlib.crc32(packed)


def frames(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The good frames of `data` as (start, end, payload), stepping over damage. Raises UnknownVersion."""
    at, size = 0, len(data)
    unpack, crc32 = WHOLE_HEAD.unpack_from, zlib.crc32
    while at != -1 and at + FRAME_BYTES <= size:
        magic, version, length, crc = unpack(data, at)
        body = at + FRAME_BYTES
        end = body + length
        if magic == MAGIC and length <= MAX_PAYLOAD and end <= size:
            payload = data[body:end]
            # Of what this release writes, the length tells the whole head.
            start = _head(length)[1] if version == VERSION else crc32(data[at : at + HEAD.size])
            if crc == crc32(payload, start):
                if version != VERSION:
                    raise UnknownVersion(f"format {version}")
                yield at, end, payload
                at = end
                continue
        at = data.find(MAGIC, at + 1)


def segment_path(directory: Path, segment: int) -> Path:
    return directory / f"{segment:08d}.seg"


def segments(directory: Path) -> list[int]:
    try:
        return sorted(int(name[:8]) for name in os.listdir(directory) if _SEGMENT.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):  # a file that somebody put beside the directories
        return []


def writers(journal: Path) -> list[str]:
    """Names of the writers' directories; hidden ones are being made or taken away."""
    try:
        return sorted(name for name in os.listdir(journal) if not name.startswith("."))
    except FileNotFoundError:
        return []


@dataclass(slots=True)
class Batch:
    """Entries read in one go, and the position behind everything looked at."""

    position: Position
    entries: list[Entry] = field(default_factory=list)
    starts: list[Position] = field(default_factory=list)  # of each entry
    damaged: int = 0  # bytes stepped over
    size: int = 0  # bytes of the entries, at most

    def cut(self, position: Position) -> "Batch":
        """What of it lies before a position in it that an entry begins at, or ends at. For one without damage."""
        count = bisect_left(self.starts, position)
        return Batch(position, self.entries[:count], self.starts[:count], size=self.size)


def read(directory: Path, position: Position, limit: int, *, enough: int = 1 << 62) -> Batch:
    """Up to `limit` entries from `position` on, fewer when these are `enough` bytes: a prefix of what the writer wrote,
    never with a hole.

    Raises Gone when the position's segment was deleted, UnknownVersion for a newer release's segment.
    """
    present = segments(directory)  # listed before any is read: rule 3
    if position[0] not in present:
        raise Gone(f"{directory.name} segment {position[0]}")
    batch = Batch(position)
    for segment in present[present.index(position[0]) :]:
        if segment != batch.position[0]:
            batch.position = (segment, 0)
        if not _read_segment(directory, batch, limit, enough, sealed=segment != present[-1]):
            break
    return batch


def head(directory: Path) -> SegmentHead | None:
    """Of the first segment that is there; None when it does not begin with one. Raises as `read` does."""
    first = next(iter(segments(directory)), 0)
    entries = read(directory, (first, 0), 1).entries
    return entries[0] if entries and isinstance(entries[0], SegmentHead) else None


def _read_segment(directory: Path, batch: Batch, limit: int, enough: int, *, sealed: bool) -> bool:
    """Extend the batch from its position; True when the segment holds nothing more."""
    segment, offset = batch.position
    try:
        file = os.open(segment_path(directory, segment), os.O_RDONLY)
    except FileNotFoundError:
        raise Gone(f"{directory.name} segment {segment}") from None
    try:
        while True:
            left = os.fstat(file).st_size - offset  # mostly little: memory for a whole chunk would be new each time
            data = os.pread(file, min(CHUNK, max(left, 0)), offset)
            used, full = _read_frames(data, batch, limit)
            last = len(data) < CHUNK
            if not used and not last:
                used = CHUNK - FRAME_BYTES - MAX_PAYLOAD  # so much without one good frame: damage
                batch.damaged += used
            offset += used
            batch.position = (segment, offset)
            if full or batch.size >= enough:
                return False
            if last:
                batch.damaged += len(data) - used if sealed else 0
                return True
    finally:
        os.close(file)


def _read_frames(data: bytes, batch: Batch, limit: int) -> tuple[int, bool]:
    """Decode the frames of a chunk that is at the batch's position: bytes used by good ones, and was that the limit?"""
    used = good = 0
    segment, offset = batch.position
    entries, starts = batch.entries, batch.starts
    for start, end, payload in frames(data):
        used = end
        try:
            entries.append(decode(payload))
        except msgspec.DecodeError:
            continue
        starts.append((segment, offset + start))
        good += end - start
        if len(entries) >= limit:
            break
    batch.size += good
    batch.damaged += used - good
    return used, len(entries) >= limit


def lock(directory: Path) -> int | None:
    """Take the directory's flock: a descriptor to hold, or None while another process has it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if directory.exists():
        return descriptor
    os.close(descriptor)  # its last holder removed it between our open and our lock
    return None


def alive(directory: Path) -> bool:
    """Does somebody hold the directory's flock? Asked by a shared lock of a moment: a living writer has its own since
    before the directory could be seen, and whoever wants a dead one's lock asks again.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class Writer:
    """Appends entries of one process. Never raises for a full or missing disk: it counts, and writes the count then."""

    def __init__(
        self,
        journal: Path,
        database_id: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        max_bytes: int = 1 << 30,
        durable: bool = False,
    ) -> None:
        """`durable`: somebody syncs `descriptor()` now and then, and no segment is left behind unsynced."""
        self.journal = journal
        self.database_id = database_id
        self.segment_bytes = segment_bytes
        self.max_segments = max(2, max_bytes // segment_bytes)
        self.durable = durable
        self.name: str | None = None
        self.unrecorded = 0
        self.pending: list[bytes] = []  # frames
        self._segment = 0
        self._size = 0
        self._file = self._lock = -1
        self._retry_at = 0.0

    def __repr__(self) -> str:
        return f"<Writer {self.name} segment {self._segment} at {self._size}, {self.unrecorded} unrecorded>"

    def open(self) -> bool:
        """Have a segment before the first record comes: later on, clients may have taken all descriptors."""
        return self._ready()

    def put(self, entry: Entry) -> int:
        """To be written by the next `flush`; its size in bytes."""
        data = frame(entry)
        size = len(data)
        if size > FRAME_BYTES + MAX_PAYLOAD:
            log.error("a record of %d bytes is too long for the journal", size)
            self.unrecorded += 1
            return 0
        self.pending.append(data)
        return size

    def flush(self) -> bool:
        """One write of all that was put. True: any process that reads from now on sees it, whatever happens to this
        one; else some of it is `unrecorded`.
        """
        frames, self.pending = self.pending, []
        lost = frame(Unrecorded(self.unrecorded)) if self.unrecorded else b""
        data = b"".join((lost, *frames))
        stands = self._write(data) if self._ready() else 0
        if stands >= len(lost):
            self._told()
        if stands == len(data):
            return True
        if not self.unrecorded:
            log.error("the journal in %s cannot be written; requests go on, unrecorded", self.journal)
        for made in frames:  # those of which not every byte stands
            stands -= len(made)
            self.unrecorded += stands < len(lost)
        return False

    def append(self, entry: Entry) -> bool:
        """`put` and `flush` in one."""
        return bool(self.put(entry)) and self.flush()

    def check(self) -> None:
        """Now and then: what could not be recorded is told as soon as that is possible, and a journal that was removed
        is left.
        """
        if self._file != -1 and not os.fstat(self._file).st_nlink:
            log.error("the journal %s was removed; what it held is lost", self.name)
            self.close()
        if self.unrecorded:
            self.flush()

    def descriptor(self) -> int | None:
        """A copy of the present segment's, to be synced in a thread, and closed."""
        return None if self._file == -1 else os.dup(self._file)

    def close(self) -> None:
        """Let go of the directory: readers then know that nothing more comes. Appending afterwards starts a new one."""
        if self.pending:
            self.flush()
        if self._file != -1 and self.durable:
            os.fdatasync(self._file)
        for descriptor in (self._file, self._lock):
            if descriptor != -1:
                os.close(descriptor)
        self._file = self._lock = -1
        self.name = None
        self._segment = self._size = 0

    def _told(self) -> None:
        if self.unrecorded:
            log.warning("the journal can be written again; %d requests were not recorded", self.unrecorded)
        self.unrecorded = 0

    def _write(self, data: bytes) -> int:
        """How many bytes of it stand in the segment now."""
        try:
            written = os.write(self._file, data)
        except OSError:
            return 0
        self._size += written
        if written == len(data):
            return written
        try:  # a full disk took part of it: no half record may stand before the next one
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            self._size -= written
            return 0
        except OSError:
            self._size = self.segment_bytes  # then let it be the torn tail of a sealed segment
            return written

    def _ready(self) -> bool:
        """Is there a segment with room? While opening one fails, it is tried at most ten times a second."""
        if self.name is not None and self._size < self.segment_bytes:
            return True
        now = time.monotonic()
        if now < self._retry_at:
            return False
        try:
            if self.name is None:
                self._start()
            else:
                self._rotate(self.journal / self.name)
        except OSError:
            self._retry_at = now + RETRY_SECONDS
            return False
        return True

    def _start(self) -> None:
        name = f"{time.time_ns():x}-{os.getpid():x}-{secrets.token_hex(3)}"
        hidden = self.journal / f".{name}"
        self.journal.mkdir(mode=0o700, parents=True, exist_ok=True)
        hidden.mkdir(mode=0o700)
        try:
            # Locked and with its first segment before the rename: nobody ever sees it otherwise.
            self._hold(lock(hidden))
            self._open_segment(hidden, 1, name)
            hidden.rename(self.journal / name)
        except OSError:
            self.close()
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        self.name = name

    def _hold(self, descriptor: int | None) -> None:
        if descriptor is None:
            raise OSError("somebody else holds the new directory")
        self._lock = descriptor

    def _rotate(self, directory: Path) -> None:
        present = segments(directory)
        if len(present) >= self.max_segments:
            raise OSError("the journal has reached ROUTERDASH_JOURNAL_MAX_MB")
        # Whatever is in the way (copied there by hand, say) is stepped over: this writer never opens it.
        self._open_segment(directory, max([self._segment, *present]) + 1, directory.name)

    def _open_segment(self, directory: Path, segment: int, writer: str) -> None:
        path = segment_path(directory, segment)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        head = frame(SegmentHead(self.database_id, writer))
        try:
            if os.write(file, head) != len(head):
                raise OSError("no room for a new segment")
        except OSError:
            os.close(file)
            os.unlink(path)
            raise
        if self._file != -1:
            if self.durable:
                os.fdatasync(self._file)
            os.close(self._file)
        self._file, self._segment, self._size = file, segment, len(head)
