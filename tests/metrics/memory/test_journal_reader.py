"""Selection of journals, and reading of damaged or missing ones."""

import random
import zlib
from pathlib import Path

import pytest

from gateway.ipc import journal
from gateway.ipc.journal import CRC, HEAD, MAGIC, START
from gateway.ipc.record import Entry, SegmentHead
from metrics.counting.totals import DAMAGED
from metrics.memory import journal_reader as reader_module
from metrics.memory.journal_reader import JournalReader, Part
from tests.metrics.records import load, request
from tests.metrics.world import DATABASE, UTC_ZONE, World


@pytest.fixture
def journals(world: World) -> JournalReader:
    return world.follower.reader


def test_without_a_folder_there_are_no_writers(tmp_path: Path) -> None:
    nowhere = JournalReader(tmp_path / "nowhere")
    assert nowhere.writers(DATABASE) == []
    assert nowhere.size() == 0


def test_only_writers_of_this_database_are_read(world: World, journals: JournalReader) -> None:
    ours = world.gateway(request())
    world.gateway(request(), database_id="another")
    assert journals.writers(DATABASE) == [ours.name]


def test_directories_being_created_or_removed_are_ignored(world: World, journals: JournalReader) -> None:
    gateway = world.gateway(request())
    world.path(gateway).rename(world.root / f".{gateway.name}")
    assert journals.writers(DATABASE) == []


def test_a_file_next_to_the_writers_is_ignored(world: World, journals: JournalReader) -> None:
    ours = world.gateway(request())
    (world.root / "notes.txt").write_text("kept for the audit")
    assert journals.writers(DATABASE) == [ours.name]
    assert world.figures().totals["requests_ok"] == 1


def test_reading_continues_from_a_position(world: World, journals: JournalReader) -> None:
    gateway = world.gateway(request(), request())
    assert gateway.name is not None
    first = journals.read(gateway.name, START, 2)  # the header of the segment is an entry, too
    rest = journals.read(gateway.name, first.position, 10)
    assert [len(first.entries), len(rest.entries)] == [2, 1]
    assert journals.read(gateway.name, rest.position, 10).entries == []


def test_a_writer_without_a_header_is_read_again_later(world: World, journals: JournalReader) -> None:
    directory = world.root / "just-born"
    directory.mkdir(parents=True)
    segment = journal.segment_path(directory, 1)
    segment.write_bytes(b"")
    assert journals.writers(DATABASE) == []
    segment.write_bytes(journal.frame(SegmentHead(DATABASE)))
    assert journals.writers(DATABASE) == ["just-born"]


def test_a_segment_without_a_header_is_ignored(
    world: World, journals: JournalReader, caplog: pytest.LogCaptureFixture
) -> None:
    directory = world.root / "headless"
    directory.mkdir(parents=True)
    journal.segment_path(directory, 1).write_bytes(journal.frame(request()))
    assert journals.writers(DATABASE) == []
    assert journals.writers(DATABASE) == []
    assert [line.message for line in caplog.records] == [
        "journal headless is not read: its first segment has no readable head"
    ]


def test_a_missing_segment_is_skipped_and_logged(
    world: World, journals: JournalReader, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = world.gateway(*[request() for _ in range(9)], segment_bytes=600)
    directory = world.path(gateway)
    last = journal.segments(directory)[-1]
    for segment in journal.segments(directory)[:-1]:
        journal.segment_path(directory, segment).unlink()
    batch = journals.read(directory.name, START, 100)
    assert batch.position[0] == last
    assert batch.entries
    assert "is missing; reading continues at" in caplog.text


def test_a_missing_last_segment_ends_the_reading(world: World, journals: JournalReader) -> None:
    gateway = world.gateway(request())
    journal.segment_path(world.path(gateway), 1).unlink()
    assert journals.read(world.path(gateway).name, START, 10).position == START


def newer_frame() -> bytes:
    payload = b'["n"]'
    head = HEAD.pack(MAGIC, journal.VERSION + 1, len(payload))
    return head + CRC.pack(zlib.crc32(payload, zlib.crc32(head))) + payload


def test_a_journal_of_a_newer_release_is_ignored(
    world: World, journals: JournalReader, caplog: pytest.LogCaptureFixture
) -> None:
    path = world.path(world.gateway(request()))
    with journal.segment_path(path, 1).open("ab") as segment:
        segment.write(newer_frame())
    assert journals.read(path.name, START, 10) == journal.Batch(START)
    assert "newer release" in caplog.text


def test_the_size_is_the_sum_of_all_segments(world: World, journals: JournalReader) -> None:
    path = world.path(world.gateway(request(), request()))
    world.gateway(request(), database_id="another")
    sizes = [file.stat().st_size for file in world.root.glob("*/*.seg")]
    assert journals.size() == sum(sizes)
    assert len(sizes) == 2
    assert path.exists()


# Each part is read twice: by the follower and by the database writer


def parts(journals: JournalReader, writer: str, *limits: int) -> list[Part]:
    """Read parts from the start, with a maximum number of entries each."""
    read_parts: list[Part] = []
    for limit in limits:
        position = read_parts[-1].batch.position if read_parts else START
        read_parts.append(journals.part(writer, position, limit, UTC_ZONE))
    return read_parts


def test_the_second_reader_takes_the_parts_of_the_first(world: World) -> None:
    gateway = world.gateway(*load(1, 20), segment_bytes=1000)
    journals, name = world.follower.reader, world.path(gateway).name
    first, second, third = (parts(journals, name, 9, 9, 9) for _ in range(3))
    assert all(one is other for one, other in zip(first, second, strict=True))
    assert all(one is not other for one, other in zip(first, third, strict=True))  # no part was kept any longer
    assert [part.batch for part in first] == [part.batch for part in third]
    assert [part.fold for part in first] == [part.fold for part in third]


def test_unused_parts_are_dropped(world: World) -> None:
    gateway = world.gateway(*load(1, 20))
    journals, name = world.follower.reader, world.path(gateway).name
    first = parts(journals, name, 8, 8)
    journals.part(name, first[0].batch.position, 8, UTC_ZONE)
    assert (journals._cache, journals._cache_bytes) == ({}, 0)


def test_a_kept_part_over_the_batch_size_is_read_again(world: World) -> None:
    gateway = world.gateway(*load(1, 20))
    journals, name = world.follower.reader, world.path(gateway).name
    parts(journals, name, 10)
    assert [len(part.batch.entries) for part in parts(journals, name, 4, 4)] == [4, 4]


def test_a_slow_reader_reads_up_to_the_kept_parts(world: World) -> None:
    gateway = world.gateway(*load(1, 20))
    journals, name = world.follower.reader, world.path(gateway).name
    first = parts(journals, name, 8, 8, 8)
    journals._take((name, START, UTC_ZONE))  # it was too long ago
    second = parts(journals, name, 5, 50, 8, 8)
    assert [len(part.batch.entries) for part in second] == [5, 3, 8, 5]
    assert (second[2], second[3]) == (first[1], first[2])
    assert [entry for part in second for entry in part.batch.entries] == [
        entry for part in first for entry in part.batch.entries
    ]


def test_a_damaged_part_is_not_cut(world: World) -> None:
    gateway = world.gateway(*load(1, 3))
    with journal.segment_path(world.path(gateway), 1).open("ab") as segment:
        segment.write(b"garbage")
    gateway.append(request())
    journals, name = world.follower.reader, world.path(gateway).name
    parts(journals, name, 2, 9)
    journals._take((name, START, UTC_ZONE))
    (whole,) = parts(journals, name, 9)
    assert (whole.batch.damaged, whole.fold.totals[DAMAGED], whole.records) == (7, 7, 4)


def test_the_size_of_kept_parts_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "CACHE_BYTES", 2000)
    gateway = world.gateway(*load(1, 50))
    journals, name = world.follower.reader, world.path(gateway).name
    parts(journals, name, *[3] * 17)
    assert 0 < journals._cache_bytes == sum(part.batch.size for part in journals._cache.values()) <= 2000


@pytest.mark.parametrize("seed", range(20))
def test_readers_at_any_speed_read_all_entries(world: World, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(reader_module, "CACHE_BYTES", rng.choice((0, 1000, 10_000)))
    gateway = world.gateway(request(), segment_bytes=rng.choice((600, 5000)))
    journals, name = world.follower.reader, world.path(gateway).name
    readers: list[list[Entry]] = [[], [], []]
    positions = [START] * len(readers)
    for entry in [*load(seed, 60), *[None] * 60]:
        if entry is not None:
            gateway.append(entry)
        for number in rng.sample(range(len(readers)), rng.randrange(len(readers))):
            part = journals.part(name, positions[number], rng.choice((2, 5, 5, 5)), UTC_ZONE)
            readers[number] += part.batch.entries
            positions[number] = part.batch.position
    assert readers == [journal.read(world.path(gateway), START, 200).entries] * len(readers)
