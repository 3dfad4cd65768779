"""The journal: append-only segments, one directory per writer, and the only code that knows their format.

    <journal>/<writer>/00000001.seg, 00000002.seg, ...

Rules that readers and writers rely on:
 1. A writer is one process lifetime. Its name is never used again and its segments are never opened for writing again,
    so a torn tail stays where it is, and each segment has exactly one writer.
 2. The directory's flock is held by its writer while that lives. A process that gets the lock knows that it is dead.
 3. Only the last segment grows. Segment n + 1 is created after the last byte of n: a reader that has seen n + 1 may
    read n to its end.
 4. A position is (segment, offset of the first byte not read). Positions only grow.
 5. A valid frame after an invalid one proves the invalid one to be damage. An invalid one without a valid one after it
    may still be being written, unless its segment is not the last.

A frame is F5 'R' 'J' · version · length · CRC32 of the bytes before it and the payload · payload, an entry of
gateway.ipc.record. After damage, the next frame is found by searching for the marker. The byte F5 never occurs in
UTF-8, so no text in a payload has the marker. A number may have it by chance, but the checksum does not match there.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path

import msgspec

from gateway.ipc.record import Entry, SegmentHead, Unrecorded, decode, decode_packed, encode

log = logging.getLogger(__name__)

MAGIC = b"\xf5RJ"
VERSION = 2  # 1: payloads in JSON
HEAD = struct.Struct("<3sBI")
CRC = struct.Struct("<I")
WHOLE_HEAD = struct.Struct("<3sBII")  # header and CRC
FRAME_BYTES = WHOLE_HEAD.size
MAX_PAYLOAD = 1 << 20
CHUNK = 4 << 20  # larger than any frame
SEGMENT_BYTES = 8 << 20
RETRY_SECONDS = 0.1

_SEGMENT = re.compile(r"\d{8}\.seg")

Position = tuple[int, int]
START: Position = (1, 0)


class SegmentDeleted(Exception):
    """The segment at this position no longer exists."""


class UnknownVersion(Exception):
    """A newer release wrote this segment, so it must not be skipped."""


def frame(entry: Entry) -> bytes:
    payload = encode(entry)
    head, crc = _head(len(payload))
    return head + CRC.pack(zlib.crc32(payload, crc)) + payload


@lru_cache(maxsize=4096)
def _head(length: int) -> tuple[bytes, int]:
    """Return the header of a frame, and its CRC32."""
    packed = HEAD.pack(MAGIC, VERSION, length)
    return packed, zlib.crc32(packed)


def frames(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the valid frames of `data` as (start, end, payload); damage is skipped. Raises UnknownVersion."""
    position, size = 0, len(data)
    unpack, crc32 = WHOLE_HEAD.unpack_from, zlib.crc32
    while position != -1 and position + FRAME_BYTES <= size:
        magic, version, length, crc = unpack(data, position)
        body = position + FRAME_BYTES
        end = body + length
        if magic == MAGIC and length <= MAX_PAYLOAD and end <= size:
            payload = data[body:end]
            # In frames of this version, the length determines the whole header.
            start = _head(length)[1] if version == VERSION else crc32(data[position : position + HEAD.size])
            if crc == crc32(payload, start):
                if version > VERSION:
                    raise UnknownVersion(f"format {version}")
                yield position, end, payload
                position = end
                continue
        position = data.find(MAGIC, position + 1)


def segment_path(directory: Path, segment: int) -> Path:
    return directory / _file_name(segment)


def _file_name(segment: int) -> str:
    return f"{segment:08d}.seg"


def segments(directory: Path | str) -> list[int]:
    try:
        return sorted(int(name[:8]) for name in os.listdir(directory) if _SEGMENT.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):  # a file that was put beside the directories by hand
        return []


def writers(journal: Path | str) -> list[str]:
    """Return the names of the writers' directories; hidden ones are being created or removed."""
    try:
        return sorted(name for name in os.listdir(journal) if not name.startswith("."))
    except FileNotFoundError:
        return []


def end(directory: Path | str) -> Position:
    """Return the last segment of a writer and its size; (0, 0) if there is none.

    It is called many times a second, mostly with a text: a `Path` costs as much as the look itself.
    """
    last = max(segments(directory), default=0)
    try:
        return last, os.stat(f"{directory}/{_file_name(last)}").st_size if last else 0
    except FileNotFoundError:
        return last, 0


Chunk = tuple[int, int, Sequence[int]]  # segment, offset of the chunk, and where entries begin in the chunk


@dataclass(slots=True)
class Batch:
    """Entries that were read at once, and the position after all bytes read."""

    position: Position
    entries: list[Entry] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    damaged: int = 0  # skipped bytes
    size: int = 0  # bytes of the entries, at most

    @property
    def starts(self) -> list[Position]:
        """The position of each entry. It is rarely needed, and a tuple for each would make work for the collector."""
        return [(segment, offset + start) for segment, offset, starts in self.chunks for start in starts]

    def before(self, position: Position) -> "Batch":
        """Return the part before a position at which an entry begins or ends. Only for a batch without damage."""
        chunks: list[Chunk] = [
            (segment, offset, [start for start in starts if (segment, offset + start) < position])
            for segment, offset, starts in self.chunks
        ]
        count = sum(len(starts) for _, _, starts in chunks)
        return Batch(position, self.entries[:count], chunks, size=self.size)


def read(directory: Path, position: Position, limit: int, *, enough: int = 1 << 62) -> Batch:
    """Read at most `limit` entries from `position` on, fewer if their size reaches `enough` bytes.

    They are a prefix of the writer's entries, without gaps. Raises SegmentDeleted if the position's segment was
    deleted, and UnknownVersion if a newer release wrote the segment.
    """
    present = segments(directory)  # listed before any is read: rule 3
    if position[0] not in present:
        raise SegmentDeleted(f"{directory.name} segment {position[0]}")
    batch = Batch(position)
    for segment in present[present.index(position[0]) :]:
        if segment != batch.position[0]:
            batch.position = (segment, 0)
        if not _read_segment(directory, batch, limit, enough, sealed=segment != present[-1]):
            break
    return batch


def head(directory: Path) -> SegmentHead | None:
    """Return the first entry of the first existing segment; None if it is no SegmentHead. Raises as `read` does."""
    first = next(iter(segments(directory)), 0)
    entries = read(directory, (first, 0), 1).entries
    return entries[0] if entries and isinstance(entries[0], SegmentHead) else None


def _read_segment(directory: Path, batch: Batch, limit: int, enough: int, *, sealed: bool) -> bool:
    """Extend the batch from its position. Return True when the segment holds no more entries."""
    segment, offset = batch.position
    try:
        file = os.open(segment_path(directory, segment), os.O_RDONLY)
    except FileNotFoundError:
        raise SegmentDeleted(f"{directory.name} segment {segment}") from None
    try:
        while True:
            left = os.fstat(file).st_size - offset  # mostly little: memory for a whole chunk would be new each time
            data = os.pread(file, min(CHUNK, max(left, 0)), offset)
            used, full = _read_frames(data, batch, limit)
            last = len(data) < CHUNK
            if not used and not last:
                used = CHUNK - FRAME_BYTES - MAX_PAYLOAD  # so many bytes without one valid frame are damage
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
    """Decode the frames of a chunk at the batch's position.

    Return the number of bytes that the valid frames use, and whether the limit was reached.
    """
    entries = batch.entries
    valid_frames = list(islice(frames(data), max(1, limit - len(entries))))
    if not valid_frames:
        return 0, len(entries) >= limit
    starts, ends, payloads = zip(*valid_frames, strict=True)
    try:
        decoded = list(map(decode_packed, payloads))
    except msgspec.DecodeError:
        return _read_other_frames(data, batch, limit)
    entries += decoded
    batch.chunks.append((*batch.position, starts))
    used = int(ends[-1])
    good = sum(ends) - sum(starts)
    batch.size += good
    batch.damaged += used - good
    return used, len(entries) >= limit


def _read_other_frames(data: bytes, batch: Batch, limit: int) -> tuple[int, bool]:
    """Do the same where entries are JSON, or cannot be decoded and are skipped."""
    used = good = 0
    entries = batch.entries
    starts: list[int] = []
    for start, end, payload in frames(data):
        used = end
        try:
            entries.append(decode(payload))
        except msgspec.DecodeError:
            continue
        starts.append(start)
        good += end - start
        if len(entries) >= limit:
            break
    batch.chunks.append((*batch.position, starts))
    batch.size += good
    batch.damaged += used - good
    return used, len(entries) >= limit


def lock(directory: Path) -> int | None:
    """Take the directory's flock. Return a descriptor to hold, or None while another process holds it."""
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
    """Return True if a process holds the directory's flock.

    A short shared lock checks it. A living writer has held its lock since before the directory was visible, and a
    process that needs a dead writer's lock tries again.
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
    """Appends the entries of one process.

    It never raises for a full or missing disk: it counts the lost entries, and writes the count later.
    """

    def __init__(
        self,
        journal: Path,
        database_id: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        max_bytes: int = 1 << 30,
        durable: bool = False,
    ) -> None:
        """Open no file yet. `durable`: the caller syncs `descriptor()` regularly, and no segment is left unsynced."""
        self.journal = journal
        self.database_id = database_id
        self.segment_bytes = segment_bytes
        self.max_segments = max(2, max_bytes // segment_bytes)
        self.durable = durable
        self.name: str | None = None
        self.unrecorded = 0
        self.pending: list[bytes] = []  # encoded frames
        self.is_synced = True  # `descriptor()` was called after the last write; False again if the sync failed
        self._segment = 0
        self._size = 0
        self._file = self._lock = -1
        self._retry_at = 0.0

    def __repr__(self) -> str:
        return f"<Writer {self.name} segment {self._segment} at {self._size}, {self.unrecorded} unrecorded>"

    def open(self) -> bool:
        """Open a segment before the first record arrives; return True on success.

        Later, clients may have taken all descriptors.
        """
        return self._ready()

    def put(self, entry: Entry) -> int:
        """Store an entry for the next `flush`; return its size in bytes, 0 if it is too large.

        A record that is too large, or has a value that cannot be encoded, is counted as unrecorded.
        """
        try:
            data = frame(entry)
        except Exception:
            log.exception("a record cannot be encoded; its request is counted as unrecorded")
            self.unrecorded += 1
            return 0
        size = len(data)
        if size > FRAME_BYTES + MAX_PAYLOAD:
            log.error("a record of %d bytes is too large for the journal; its request is counted as unrecorded", size)
            self.unrecorded += 1
            return 0
        self.pending.append(data)
        return size

    def flush(self) -> bool:
        """Write all pending entries at once.

        Return True if any process that reads from now on sees them, even if this one is killed; otherwise some of them
        are counted as `unrecorded`.
        """
        frames, self.pending = self.pending, []
        lost = frame(Unrecorded(self.unrecorded)) if self.unrecorded else b""
        data = frames[0] if len(frames) == 1 and not lost else b"".join((lost, *frames))
        written = self._write(data) if self._ready() else 0
        if lost and written >= len(lost):
            self._report_recovery()
        if written == len(data):
            return True
        if not self.unrecorded:
            log.error("the journal in %s cannot be written; requests are served but not recorded", self.journal)
        for encoded in frames:  # count each that was not written completely
            written -= len(encoded)
            self.unrecorded += written < len(lost)
        return False

    def append(self, entry: Entry) -> bool:
        """Store and write an entry. Return True as `flush` does."""
        return bool(self.put(entry)) and self.flush()

    def check(self) -> None:
        """Write the count of lost entries if possible, and close a journal that was removed. Called regularly."""
        if self._file != -1 and not os.fstat(self._file).st_nlink:
            log.error("the journal %s was removed; its records are lost", self.name)
            self.close()
        if self.unrecorded:
            self.flush()

    def descriptor(self) -> int | None:
        """Return a copy of the current segment's descriptor, to be synced in a thread and closed.

        None if there is none, or nothing was written since the last call.
        """
        if self._file == -1 or self.is_synced:
            return None
        copy = os.dup(self._file)
        self.is_synced = True
        return copy

    def close(self) -> None:
        """Release the directory: readers then expect no more entries. A later append starts a new one."""
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

    def _report_recovery(self) -> None:
        log.warning("the journal can be written again; %d requests were not recorded", self.unrecorded)
        self.unrecorded = 0

    def _write(self, data: bytes) -> int:
        """Return how many bytes of `data` were written to the segment."""
        self.is_synced = False
        try:
            written = os.write(self._file, data)
        except OSError:
            return 0
        self._size += written
        if written == len(data):
            return written
        try:  # a full disk took part of it: no partial record may precede the next one
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            self._size -= written
            return 0
        except OSError:
            self._size = self.segment_bytes  # the partial record becomes the torn tail of a sealed segment
            return written

    def _ready(self) -> bool:
        """Return True if there is a segment with free space. After a failure, retry at most ten times a second."""
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
            # Locked and with its first segment before the rename: no process ever sees it otherwise.
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
            raise OSError("another process holds the lock of the new directory")
        self._lock = descriptor

    def _rotate(self, directory: Path) -> None:
        present = segments(directory)
        if len(present) >= self.max_segments:
            raise OSError("the journal has reached ROUTERDASH_JOURNAL_MAX_MB")
        # Any file of that name, such as one copied by hand, is skipped: this writer never opens it.
        self._open_segment(directory, max([self._segment, *present]) + 1, directory.name)

    def _open_segment(self, directory: Path, segment: int, writer: str) -> None:
        path = segment_path(directory, segment)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        head = frame(SegmentHead(self.database_id, writer))
        try:
            if os.write(file, head) != len(head):
                raise OSError("no space for a new segment")
        except OSError:
            os.close(file)
            os.unlink(path)
            raise
        if self._file != -1:
            if self.durable:
                os.fdatasync(self._file)
            os.close(self._file)
        self._file, self._segment, self._size = file, segment, len(head)
        self.is_synced = False
