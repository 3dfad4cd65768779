"""Whose journals are read, and what happens where they are damaged or gone."""

import random
import zlib
from pathlib import Path

import pytest

from gateway import journal
from gateway.journal import CRC, HEAD, MAGIC, START
from gateway.record import Entry, SegmentHead
from metrics import journals as journals_module
from metrics.fold import DAMAGED
from metrics.journals import Journals, Part
from tests.metrics.records import load, request
from tests.metrics.world import DATABASE, UTC_ZONE, World


@pytest.fixture
def journals(world: World) -> Journals:
    return world.folder.journals


def test_no_folder_is_no_writer(tmp_path: Path) -> None:
    nowhere = Journals(tmp_path / "nowhere")
    assert nowhere.writers(DATABASE) == []
    assert nowhere.size() == 0


def test_only_writers_of_this_database_are_ours(world: World, journals: Journals) -> None:
    ours = world.gateway(request())
    world.gateway(request(), database_id="another")
    assert journals.writers(DATABASE) == [ours.name]


def test_what_is_being_made_or_taken_away_is_hidden(world: World, journals: Journals) -> None:
    gateway = world.gateway(request())
    world.path(gateway).rename(world.root / f".{gateway.name}")
    assert journals.writers(DATABASE) == []


def test_a_file_beside_the_writers_is_none(world: World, journals: Journals) -> None:
    ours = world.gateway(request())
    (world.root / "notes.txt").write_text("kept for the audit")
    assert journals.writers(DATABASE) == [ours.name]
    assert world.figures().totals["requests_ok"] == 1


def test_reading_goes_on_from_a_position(world: World, journals: Journals) -> None:
    gateway = world.gateway(request(), request())
    assert gateway.name is not None
    first = journals.read(gateway.name, START, 2)  # the segment's head is an entry, too
    rest = journals.read(gateway.name, first.position, 10)
    assert [len(first.entries), len(rest.entries)] == [2, 1]
    assert journals.read(gateway.name, rest.position, 10).entries == []


def test_a_writer_without_a_head_yet_is_looked_at_again(world: World, journals: Journals) -> None:
    directory = world.root / "just-born"
    directory.mkdir(parents=True)
    segment = journal.segment_path(directory, 1)
    segment.write_bytes(b"")
    assert journals.writers(DATABASE) == []
    segment.write_bytes(journal.frame(SegmentHead(DATABASE)))
    assert journals.writers(DATABASE) == ["just-born"]


def test_a_segment_that_begins_with_a_record_is_left_alone(
    world: World, journals: Journals, caplog: pytest.LogCaptureFixture
) -> None:
    directory = world.root / "headless"
    directory.mkdir(parents=True)
    journal.segment_path(directory, 1).write_bytes(journal.frame(request()))
    assert journals.writers(DATABASE) == []
    assert journals.writers(DATABASE) == []
    assert [line.message for line in caplog.records] == [
        "journal headless: its first segment has no readable head: left alone"
    ]


def test_a_segment_that_was_taken_away_is_passed_over_loudly(
    world: World, journals: Journals, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = world.gateway(*[request() for _ in range(9)], segment_bytes=600)
    directory = world.path(gateway)
    last = journal.segments(directory)[-1]
    for segment in journal.segments(directory)[:-1]:
        journal.segment_path(directory, segment).unlink()
    found = journals.read(directory.name, START, 100)
    assert found.position[0] == last
    assert found.entries
    assert "is missing; going on at" in caplog.text


def test_the_last_segment_taken_away_leaves_nothing_to_read(world: World, journals: Journals) -> None:
    gateway = world.gateway(request())
    journal.segment_path(world.path(gateway), 1).unlink()
    assert journals.read(world.path(gateway).name, START, 10).position == START


def newer_frame() -> bytes:
    payload = b'["n"]'
    head = HEAD.pack(MAGIC, journal.VERSION + 1, len(payload))
    return head + CRC.pack(zlib.crc32(payload, zlib.crc32(head))) + payload


def test_a_newer_releases_journal_is_left_alone(
    world: World, journals: Journals, caplog: pytest.LogCaptureFixture
) -> None:
    path = world.path(world.gateway(request()))
    with journal.segment_path(path, 1).open("ab") as segment:
        segment.write(newer_frame())
    assert journals.read(path.name, START, 10) == journal.Batch(START)
    assert "newer release" in caplog.text


def test_size_is_that_of_all_segments(world: World, journals: Journals) -> None:
    path = world.path(world.gateway(request(), request()))
    world.gateway(request(), database_id="another")
    sizes = [file.stat().st_size for file in world.root.glob("*/*.seg")]
    assert journals.size() == sum(sizes)
    assert len(sizes) == 2
    assert path.exists()


# Each piece is read twice: by the folder and by the database writer


def parts(journals: Journals, writer: str, *limits: int) -> list[Part]:
    """One after the other from the start on, of so many entries at most."""
    found: list[Part] = []
    for limit in limits:
        position = found[-1].batch.position if found else START
        found.append(journals.part(writer, position, limit, UTC_ZONE))
    return found


def test_who_comes_second_takes_what_the_first_has_read(world: World) -> None:
    gateway = world.gateway(*load(1, 20), segment_bytes=1000)
    journals, name = world.folder.journals, world.path(gateway).name
    first, second, third = (parts(journals, name, 9, 9, 9) for _ in range(3))
    assert all(one is other for one, other in zip(first, second, strict=True))
    assert all(one is not other for one, other in zip(first, third, strict=True))  # nothing was kept any longer
    assert [part.batch for part in first] == [part.batch for part in third]
    assert [part.fold for part in first] == [part.fold for part in third]


def test_what_nobody_comes_for_goes(world: World) -> None:
    gateway = world.gateway(*load(1, 20))
    journals, name = world.folder.journals, world.path(gateway).name
    first = parts(journals, name, 8, 8)
    journals.part(name, first[0].batch.position, 8, UTC_ZONE)
    assert (journals._kept, journals._kept_bytes) == ({}, 0)


def test_a_kept_part_that_is_too_long_is_read_again(world: World) -> None:
    gateway = world.gateway(*load(1, 20))
    journals, name = world.folder.journals, world.path(gateway).name
    parts(journals, name, 10)
    assert [len(part.batch.entries) for part in parts(journals, name, 4, 4)] == [4, 4]


def test_who_fell_behind_reads_up_to_what_is_kept(world: World) -> None:
    gateway = world.gateway(*load(1, 20))
    journals, name = world.folder.journals, world.path(gateway).name
    first = parts(journals, name, 8, 8, 8)
    journals._take((name, START, UTC_ZONE))  # it was too long ago
    second = parts(journals, name, 5, 50, 8, 8)
    assert [len(part.batch.entries) for part in second] == [5, 3, 8, 5]
    assert (second[2], second[3]) == (first[1], first[2])
    assert [it for part in second for it in part.batch.entries] == [it for part in first for it in part.batch.entries]


def test_what_has_damage_is_not_cut(world: World) -> None:
    gateway = world.gateway(*load(1, 3))
    with journal.segment_path(world.path(gateway), 1).open("ab") as segment:
        segment.write(b"garbage")
    gateway.append(request())
    journals, name = world.folder.journals, world.path(gateway).name
    parts(journals, name, 2, 9)
    journals._take((name, START, UTC_ZONE))
    (whole,) = parts(journals, name, 9)
    assert (whole.batch.damaged, whole.fold.totals[DAMAGED], whole.records) == (7, 7, 4)


def test_what_is_kept_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals_module, "KEPT_BYTES", 1000)
    gateway = world.gateway(*load(1, 50))
    journals, name = world.folder.journals, world.path(gateway).name
    parts(journals, name, *[3] * 17)
    assert 0 < journals._kept_bytes == sum(part.batch.size for part in journals._kept.values()) <= 1000


@pytest.mark.parametrize("seed", range(20))
def test_readers_at_any_pace_read_what_is_there(world: World, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(journals_module, "KEPT_BYTES", rng.choice((0, 1000, 10_000)))
    gateway = world.gateway(request(), segment_bytes=rng.choice((600, 5000)))
    journals, name = world.folder.journals, world.path(gateway).name
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
