import os
import resource
import shutil
import subprocess
import sys
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ipc import journal
from gateway.ipc.journal import (
    CHUNK,
    CRC,
    HEAD,
    MAGIC,
    START,
    VERSION,
    SegmentDeleted,
    UnknownVersion,
    Writer,
    frame,
    read,
)
from gateway.ipc.record import AttemptRecord, RequestRecord, SegmentHead, Unrecorded
from tests.gateway.samples import make_record
from tests.router import ROOT

DATABASE = "database-1"
ATTEMPT = AttemptRecord("a", "failed", 500, 12, "it fell over")


@pytest.fixture
def make_writer(tmp_path):
    made = []

    def make(**options):
        made.append(Writer(tmp_path / "journal", DATABASE, **options))
        return made[-1]

    yield make
    for writer in made:
        writer.close()


@pytest.fixture
def writer(make_writer):
    return make_writer()


def place(writer: Writer) -> Path:
    assert writer.name is not None
    return writer.journal / writer.name


def write(writer, count, **fields):
    """Append `count` records, and return them."""
    records = [make_record(**fields) for _ in range(count)]
    assert all(writer.append(record) for record in records)
    return records


def head(writer):
    """The first entry of each segment of a writer."""
    return SegmentHead(DATABASE, writer.name)


def requests(batch):
    return [entry for entry in batch.entries if isinstance(entry, RequestRecord)]


def segment_of(directory, *pieces, number=1):
    """Create a segment with these bytes."""
    directory.mkdir(exist_ok=True)
    journal.segment_path(directory, number).write_bytes(b"".join(pieces))
    return directory


# Appending and reading


def test_appended_records_are_read(writer):
    records = write(writer, 3)
    assert read(place(writer), START, 100).entries == [head(writer), *records]


def test_reading_continues_from_a_position(writer):
    write(writer, 2)
    batch = read(place(writer), START, 100)
    later = write(writer, 2)
    assert read(place(writer), batch.position, 100).entries == later


def test_without_new_records_a_batch_is_empty_at_the_same_position(writer):
    write(writer, 2)
    end = read(place(writer), START, 100).position
    assert read(place(writer), end, 100) == journal.Batch(end)


def test_long_records_end_a_batch_at_the_start_of_the_next(writer):
    write(writer, 30, request_body="x" * 300_000)
    first = read(place(writer), START, 100, enough=1 << 20)
    rest = read(place(writer), first.position, 100)
    assert 4 <= len(requests(first)) < 30
    assert len(requests(first)) + len(requests(rest)) == 30


def test_a_limit_ends_a_batch_at_the_start_of_the_next(writer):
    records = write(writer, 5)
    first = read(place(writer), START, 2)
    second = read(place(writer), first.position, 100)
    assert [*first.entries, *second.entries] == [head(writer), *records]
    assert len(first.entries) == 2


def test_a_position_counts_the_bytes_of_its_segment(writer):
    write(writer, 4)
    size = journal.segment_path(place(writer), 1).stat().st_size
    assert read(place(writer), START, 100).position == (1, size)


def test_each_entry_is_read_again_where_it_starts(make_writer):
    writer = make_writer(segment_bytes=300)
    write(writer, 5)
    batch = read(place(writer), START, 100)
    assert batch.starts[0] == START
    assert len({segment for segment, _ in batch.starts}) > 1
    assert [read(place(writer), start, 1).entries[0] for start in batch.starts] == batch.entries


def test_a_batch_is_cut_where_entries_begin_and_end(make_writer):
    writer = make_writer(segment_bytes=300)
    write(writer, 5)
    batch = read(place(writer), START, 100)
    for count in range(1, len(batch.entries)):
        first = read(place(writer), START, count)
        assert batch.before(first.position).entries == batch.before(batch.starts[count]).entries == first.entries
        assert batch.before(first.position).position == first.position


def test_the_bytes_of_entries_are_counted_without_damage(tmp_path):
    good = frame(Unrecorded(1))
    directory = segment_of(tmp_path / "w", b"garbage", good, frame(Unrecorded(2))[:-1], good)
    assert read(directory, START, 100).size == 2 * len(good)


def test_damaged_entries_have_no_position(tmp_path):
    good = frame(Unrecorded(1))
    directory = segment_of(tmp_path / "w", b"garbage", good, frame(Unrecorded(2))[:-1], good)
    batch = read(directory, START, 100)
    assert batch.starts == [(1, 7), (1, 7 + 2 * len(good) - 1)]


def test_a_writer_is_named_in_the_head_of_its_segments(make_writer):
    writer = make_writer(segment_bytes=300)
    write(writer, 5)
    journal.segment_path(place(writer), 1).unlink()
    assert journal.head(place(writer)) == head(writer)


def test_a_segment_may_have_no_head(tmp_path):
    assert journal.head(segment_of(tmp_path / "w", frame(Unrecorded(1)))) is None
    assert journal.head(segment_of(tmp_path / "v")) is None
    with pytest.raises(SegmentDeleted):
        journal.head(tmp_path / "never")


def test_the_journal_is_accessible_by_its_owner_only(writer):
    write(writer, 1)
    modes = [path.stat().st_mode & 0o777 for path in (writer.journal, place(writer), *place(writer).iterdir())]
    assert modes == [0o700, 0o700, 0o600]


def test_no_file_is_created_before_the_first_entry(writer):
    assert not writer.journal.exists()
    assert journal.writers(writer.journal) == []


def test_the_current_segment_is_synced(writer):
    assert writer.descriptor() is None
    write(writer, 1)
    descriptor = writer.descriptor()
    assert os.fstat(descriptor).st_ino == journal.segment_path(place(writer), 1).stat().st_ino
    os.close(descriptor)


def test_a_journal_is_synced_only_after_a_write(make_writer):
    writer = make_writer(segment_bytes=1000)
    write(writer, 1)
    os.close(writer.descriptor())
    assert writer.descriptor() is None
    for _ in range(30):  # also the first of a segment
        write(writer, 1)
        os.close(writer.descriptor())
        assert writer.descriptor() is None
    assert len(journal.segments(place(writer))) > 1


def test_a_writer_reports_its_state(writer):
    assert repr(writer) == "<Writer None segment 0 at 0, 0 unrecorded>"
    write(writer, 1)
    assert "segment 1" in repr(writer)


def test_each_writer_has_its_own_directory(make_writer):
    one, other = make_writer(), make_writer()
    write(one, 1)
    write(other, 1)
    assert sorted((one.name, other.name)) == journal.writers(one.journal)


def test_unfinished_directories_are_not_listed(writer):
    write(writer, 1)
    (writer.journal / ".half-made").mkdir()
    assert journal.writers(writer.journal) == [writer.name]


# Segments


def test_a_full_segment_is_followed_by_another(make_writer):
    writer = make_writer(segment_bytes=500)
    records = write(writer, 30)
    batch = read(place(writer), START, 1000)
    assert requests(batch) == records
    assert batch.entries.count(head(writer)) == len(journal.segments(place(writer))) > 3
    assert batch.damaged == 0


def test_only_the_last_segment_grows(make_writer):
    writer = make_writer(segment_bytes=1000)
    write(writer, 10)
    sealed = [journal.segment_path(place(writer), n) for n in journal.segments(place(writer))[:-1]]
    before = [path.read_bytes() for path in sealed]
    write(writer, 10)
    assert [path.read_bytes() for path in sealed] == before


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_batches_of_any_size_cross_segments(make_writer, limit):
    writer = make_writer(segment_bytes=300)
    records = write(writer, 12)
    read_records, position = [], START
    while (batch := read(place(writer), position, limit)).entries:
        assert batch.position > position
        read_records += requests(batch)
        position = batch.position
    assert read_records == records


def test_a_deleted_segment_is_gone(make_writer):
    writer = make_writer(segment_bytes=500)
    write(writer, 10)
    journal.segment_path(place(writer), 1).unlink()
    with pytest.raises(SegmentDeleted, match="segment 1"):
        read(place(writer), START, 10)
    assert read(place(writer), (2, 0), 10).entries[0] == head(writer)


def test_a_missing_directory_is_gone(tmp_path):
    with pytest.raises(SegmentDeleted):
        read(tmp_path / "never", START, 10)


# Damage


def test_a_torn_tail_waits_for_its_rest(tmp_path):
    whole, torn = frame(make_record(id="whole")), frame(make_record(id="torn"))
    directory = segment_of(tmp_path / "w", whole, torn[:-5])
    batch = read(directory, START, 10)
    assert [entry.id for entry in requests(batch)] == ["whole"]
    assert (batch.position, batch.damaged) == ((1, len(whole)), 0)
    segment_of(directory, whole, torn)
    assert [entry.id for entry in requests(read(directory, batch.position, 10))] == ["torn"]


def test_a_torn_tail_of_a_sealed_segment_is_damage(tmp_path):
    torn = frame(make_record())[:-5]
    directory = segment_of(tmp_path / "w", frame(SegmentHead(DATABASE)), torn)
    segment_of(directory, frame(SegmentHead(DATABASE)), frame(last := make_record()), number=2)
    batch = read(directory, START, 10)
    assert requests(batch) == [last]
    assert batch.damaged == len(torn)


def test_garbage_is_skipped_to_the_next_valid_frame(tmp_path):
    records = [make_record(), make_record()]
    garbage = b"\0" * 100 + MAGIC + b"junk"
    directory = segment_of(tmp_path / "w", frame(records[0]), garbage, frame(records[1]))
    batch = read(directory, START, 10)
    assert (batch.entries, batch.damaged) == (records, len(garbage))


def test_garbage_larger_than_one_read_is_skipped(tmp_path):
    garbage = MAGIC * (CHUNK // 2)
    directory = segment_of(tmp_path / "w", garbage, frame(record := make_record()))
    batch = read(directory, START, 10)
    assert (batch.entries, batch.damaged) == ([record], len(garbage))


def test_frames_larger_than_one_read(tmp_path):
    records = [make_record(response_body="x" * 500_000) for _ in range(20)]
    directory = segment_of(tmp_path / "w", *map(frame, records))
    assert read(directory, START, 100).entries == records


def test_an_entry_of_an_unknown_kind_is_counted_as_damage(tmp_path):
    strange = reframed(b'["of tomorrow",1]')
    directory = segment_of(tmp_path / "w", strange, frame(record := make_record()))
    batch = read(directory, START, 10)
    assert (batch.entries, batch.damaged) == ([record], len(strange))


def test_a_segment_of_version_1_is_read(tmp_path):
    entries = [SegmentHead(DATABASE), *(make_record(attempts=(ATTEMPT,)) for _ in range(3)), Unrecorded(2)]
    torn = reframed(msgspec.json.encode(make_record()), 1)[:-1]
    directory = segment_of(tmp_path / "w", *(reframed(msgspec.json.encode(entry), 1) for entry in entries), torn)
    batch = read(directory, START, 100)
    assert (batch.entries, batch.damaged) == (entries, 0)
    assert journal.head(directory) == entries[0]
    rest = read(directory, batch.starts[2], 2)
    assert rest.entries == entries[2:4]


def test_a_record_in_json_stands_between_others(tmp_path):
    records = [make_record(), make_record(input_tokens=10**30), make_record()]
    assert read(segment_of(tmp_path / "w", *map(frame, records)), START, 100).entries == records


def test_a_number_with_the_marker_begins_no_frame(tmp_path):
    first, last = make_record(input_tokens=int.from_bytes(MAGIC + b"\x02", "big")), make_record()
    assert MAGIC in frame(first)[1:]
    assert read(segment_of(tmp_path / "v", frame(first), frame(last)), START, 10).entries == [first, last]
    broken = bytearray(frame(first))
    broken[-1] ^= 1
    batch = read(segment_of(tmp_path / "w", bytes(broken), frame(last)), START, 10)
    assert (batch.entries, batch.damaged) == ([last], len(broken))


def test_an_unknown_version_is_not_skipped(tmp_path):
    directory = segment_of(tmp_path / "w", frame(make_record()), reframed(b"{}", VERSION + 1))
    with pytest.raises(UnknownVersion, match="format 3"):
        read(directory, START, 10)


def test_a_damaged_version_is_damage(tmp_path):
    broken = bytearray(frame(make_record()))
    broken[3] = VERSION + 1
    directory = segment_of(tmp_path / "w", bytes(broken), frame(record := make_record()))
    assert read(directory, START, 10).entries == [record]


def reframed(payload: bytes, version: int = VERSION) -> bytes:
    head = HEAD.pack(MAGIC, version, len(payload))
    return head + CRC.pack(zlib.crc32(payload, zlib.crc32(head))) + payload


# The ids are drawn too: `make_record` counts across cases, and the length of a frame affects later draws.
ENTRIES = st.one_of(
    st.builds(
        make_record,
        id=st.integers(0, 1 << 40).map(str),
        completed_us=st.integers(0, 1 << 40),
        model=st.text(max_size=20),
        error=st.none() | st.text(max_size=50),
    ),
    st.builds(Unrecorded, st.integers(0, 1 << 40)),
)


@st.composite
def damaged_segments(draw):
    """Valid frames between garbage and damaged frames, and the entries of the valid ones."""
    pieces, good = [], []
    for entry in draw(st.lists(ENTRIES, max_size=8)):
        data = frame(entry)
        kind = draw(st.sampled_from(("good", "good", "garbled", "cut", "garbage")))
        if kind == "good":
            good.append(entry)
        elif kind == "garbled":
            position = draw(st.integers(0, len(data) - 1))
            data = data[:position] + bytes([data[position] ^ draw(st.integers(1, 255))]) + data[position + 1 :]
        elif kind == "cut":
            data = data[: draw(st.integers(0, len(data) - 1))]
        else:
            data = draw(st.binary(max_size=40)) + MAGIC[: draw(st.integers(0, 3))]
        pieces.append(data)
    return b"".join(pieces), good


@given(damaged_segments())
def test_every_valid_frame_is_found_between_any_bytes(segment):
    data, good = segment
    with tempfile.TemporaryDirectory() as name:
        directory = segment_of(Path(name), data)
        assert read(directory, START, 100).entries == good


@given(st.lists(ENTRIES, max_size=5), st.data())
def test_a_segment_cut_anywhere_is_read_completely_in_two_reads(entries, data):
    whole = b"".join(map(frame, entries))
    cut = data.draw(st.integers(0, len(whole)))
    with tempfile.TemporaryDirectory() as name:
        directory = segment_of(Path(name), whole[:cut])
        first = read(directory, START, 100)
        segment_of(directory, whole)
        second = read(directory, first.position, 100)
    assert first.entries + second.entries == entries
    assert (first.damaged, second.damaged) == (0, 0)


@given(st.binary(max_size=300))
def test_reading_random_bytes_finds_nothing_and_raises_nothing(data):
    assert list(journal.frames(data)) == []


# Unwritable disks


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(journal, "RETRY_SECONDS", 0.0)


def test_unrecorded_requests_are_counted_and_written_first(writer, at_once):
    writer.journal.write_text("a file where the directory should be")
    assert not writer.append(make_record())
    assert not writer.append(make_record())
    writer.journal.unlink()
    (last,) = write(writer, 1)
    assert read(place(writer), START, 10).entries == [head(writer), Unrecorded(2), last]
    assert writer.unrecorded == 0


def test_a_failed_write_is_not_repeated_at_once(writer):
    writer.journal.write_text("in the way")
    assert not writer.append(make_record())
    writer.journal.unlink()
    assert not writer.append(make_record())
    assert writer.unrecorded == 2


def test_a_failing_journal_is_logged_once(writer, at_once, caplog):
    writer.journal.write_text("in the way")
    for _ in range(3):
        writer.append(make_record())
    writer.journal.unlink()
    write(writer, 2)
    first, second = (record.message for record in caplog.records)
    assert "cannot be written" in first
    assert "3 requests were not recorded" in second


@pytest.mark.parametrize("room", [0, 10])
def test_a_failed_start_leaves_nothing_behind(writer, at_once, room):
    writer.journal.mkdir()
    descriptors = os.listdir("/proc/self/fd")
    with file_size_limit(room):
        assert not writer.append(make_record())
    assert list(writer.journal.iterdir()) == []
    assert os.listdir("/proc/self/fd") == descriptors
    assert len(write(writer, 1)) == 1


@contextmanager
def file_size_limit(size):
    """Truncate writes beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_partly_written_record_is_removed(writer):
    first = write(writer, 1, response_body="x" * 200_000)
    path = journal.segment_path(place(writer), 1)
    size = path.stat().st_size
    with file_size_limit(size + 20):
        assert not writer.append(make_record())
        assert path.stat().st_size == size
    last = write(writer, 1)
    batch = read(place(writer), START, 10)
    assert batch.entries == [head(writer), *first, Unrecorded(1), *last]
    assert batch.damaged == 0


def test_a_partial_record_that_cannot_be_removed_ends_its_segment(writer, monkeypatch):
    write(writer, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data, write=os.write: write(file, data[:9]))
        patch.setattr(os, "ftruncate", refuse)
        assert not writer.append(make_record())
    (last,) = write(writer, 1)
    batch = read(place(writer), START, 10)
    assert batch.entries[2:] == [head(writer), Unrecorded(1), last]
    assert (batch.damaged, journal.segments(place(writer))) == (9, [1, 2])


def refuse(*_: object) -> None:
    raise OSError


def test_a_count_that_cannot_be_removed_is_written_once(writer, monkeypatch):
    write(writer, 1)
    size, real = len(frame(Unrecorded(2))), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        assert [writer.append(make_record()) for _ in range(2)] == [False, False]
        patch.setattr(os, "write", lambda file, data: real(file, data[: size + 9]))
        patch.setattr(os, "ftruncate", refuse)
        assert not writer.append(make_record())
    (last,) = write(writer, 1)
    assert read(place(writer), START, 10).entries[2:] == [Unrecorded(2), head(writer), Unrecorded(1), last]


@pytest.mark.parametrize("room", [0, 10])
def test_a_segment_without_space_for_its_header_is_not_created(make_writer, at_once, room):
    writer = make_writer(segment_bytes=200_000)
    write(writer, 1, response_body="x" * 250_000)
    descriptors = os.listdir("/proc/self/fd")
    with file_size_limit(room):
        assert not writer.append(make_record())
    assert journal.segments(place(writer)) == [1]
    assert os.listdir("/proc/self/fd") == descriptors
    write(writer, 1)
    assert journal.segments(place(writer)) == [1, 2]


def test_an_existing_segment_is_skipped(make_writer, at_once):
    writer = make_writer(segment_bytes=300)
    write(writer, 1)
    journal.segment_path(place(writer), 2).write_bytes(b"")
    (*_, last) = write(writer, 3)
    assert journal.segments(place(writer))[:3] == [1, 2, 3]
    assert read(place(writer), START, 100).entries[-1] == last


def test_a_journal_that_was_removed_has_no_next_segment(make_writer, at_once):
    writer = make_writer(segment_bytes=100)
    write(writer, 1)
    shutil.rmtree(place(writer))
    assert not writer.append(make_record())
    assert writer.unrecorded == 1


def test_the_size_of_a_journal_is_limited(make_writer, at_once):
    writer = make_writer(segment_bytes=500, max_bytes=1000)
    while writer.append(make_record()):
        pass
    assert journal.segments(place(writer)) == [1, 2]
    journal.segment_path(place(writer), 1).unlink()  # control has read it
    (last,) = write(writer, 1)
    assert journal.segments(place(writer)) == [2, 3]
    assert read(place(writer), (3, 0), 10).entries == [head(writer), Unrecorded(1), last]


def test_a_record_that_is_too_long_is_counted(writer):
    assert not writer.append(make_record(response_body="x" * (1 << 20)))
    (last,) = write(writer, 1)
    assert read(place(writer), START, 10).entries == [head(writer), Unrecorded(1), last]


# Batches


def test_queued_records_are_written_by_the_flush(writer):
    records = [make_record() for _ in range(5)]
    sizes = [writer.put(record) for record in records]
    assert not journal.writers(writer.journal)
    assert writer.flush()
    assert read(place(writer), START, 10).entries == [head(writer), *records]
    assert sizes == [len(frame(record)) for record in records]


def test_a_flush_is_one_write(writer, monkeypatch):
    write(writer, 1)
    written = []

    def count(file, data):
        written.append(data)
        return len(data)

    monkeypatch.setattr(os, "write", count)
    records = [make_record() for _ in range(5)]
    for record in records:
        writer.put(record)
    writer.flush()
    assert written == [b"".join(map(frame, records))]


def test_closing_writes_queued_records(writer):
    write(writer, 1)
    writer.put(make_record())
    directory = place(writer)
    writer.close()
    assert len(requests(read(directory, START, 10))) == 2


def test_records_without_space_are_counted_one_by_one(writer, monkeypatch):
    before = write(writer, 1)
    for _ in range(3):
        writer.put(make_record())
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data, write=os.write: write(file, data[:9]))
        assert not writer.flush()
    assert writer.unrecorded == 3
    (last,) = write(writer, 1)
    assert read(place(writer), START, 10).entries == [head(writer), *before, Unrecorded(3), last]


def test_complete_records_of_a_torn_batch_are_recorded(writer, monkeypatch):
    before = write(writer, 1)
    records = [make_record() for _ in range(3)]
    room = sum(writer.put(record) for record in records[:2]) + 9
    writer.put(records[2])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data, write=os.write: write(file, data[:room]))
        patch.setattr(os, "ftruncate", refuse)
        assert not writer.flush()
    assert writer.unrecorded == 1
    (last,) = write(writer, 1)
    entries = read(place(writer), START, 20).entries
    assert entries == [head(writer), *before, *records[:2], head(writer), Unrecorded(1), last]


# The lock


def test_a_directory_is_locked_while_its_writer_lives(writer):
    write(writer, 1)
    assert journal.lock(place(writer)) is None


def test_closing_releases_the_lock(writer):
    write(writer, 1)
    directory = place(writer)
    writer.close()
    descriptor = journal.lock(directory)
    assert descriptor is not None
    os.close(descriptor)


def test_a_writer_is_alive_until_it_releases_the_lock(writer):
    write(writer, 1)
    directory = place(writer)
    assert journal.alive(directory)
    writer.close()
    assert not journal.alive(directory)
    descriptor = journal.lock(directory)  # the check leaves no lock behind
    assert descriptor is not None
    os.close(descriptor)


def test_a_missing_directory_has_no_writer(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert not journal.alive(tmp_path / "never")
    assert not journal.alive(tmp_path / "notes.txt")


def test_appending_after_closing_begins_a_new_directory(writer):
    write(writer, 1)
    first = writer.name
    writer.close()
    write(writer, 1)
    assert [first, writer.name] == journal.writers(writer.journal)


def test_a_missing_directory_cannot_be_locked(tmp_path):
    assert journal.lock(tmp_path / "never") is None


PROGRAM = """
import sys, time
from pathlib import Path
from gateway.ipc.journal import Writer
from gateway.ipc.record import Unrecorded
writer = Writer(Path(sys.argv[1]), "database-1")
writer.append(Unrecorded(7))
print(writer.name, flush=True)
time.sleep(60)
"""


def test_a_killed_writer_leaves_its_records_and_no_lock(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        directory = tmp_path / process.stdout.readline().strip()
        assert journal.lock(directory) is None
        process.kill()
    descriptor = journal.lock(directory)
    assert descriptor is not None
    os.close(descriptor)
    assert read(directory, START, 10).entries == [SegmentHead(DATABASE, directory.name), Unrecorded(7)]


def test_unrecorded_requests_are_written_without_a_new_request(writer, at_once):
    writer.journal.write_text("a file where the directory should be")
    writer.append(make_record())
    writer.journal.unlink()
    writer.check()
    assert read(place(writer), START, 10).entries == [head(writer), Unrecorded(1)]
    assert writer.unrecorded == 0


def test_a_journal_that_was_removed_is_left_for_another(writer, caplog):
    write(writer, 1)
    lost = writer.name
    shutil.rmtree(writer.journal)
    writer.check()
    assert (writer.name, f"{lost} was removed" in caplog.text) == (None, True)
    write(writer, 1)
    assert journal.writers(writer.journal) == [writer.name]


def test_an_open_writer_needs_no_descriptor_for_its_first_record(writer):
    assert writer.open()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        assert writer.append(make_record())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("durable", [False, True])
def test_a_durable_journal_leaves_nothing_unsynced(make_writer, monkeypatch, durable):
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    writer = make_writer(segment_bytes=1, durable=durable)
    write(writer, 3)
    writer.close()
    assert len(synced) == (3 if durable else 0)
