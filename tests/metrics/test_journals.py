"""Whose journals are read, and what happens where they are damaged or gone."""

import zlib
from pathlib import Path

import pytest

from gateway import journal
from gateway.journal import CRC, HEAD, MAGIC, START
from gateway.record import SegmentHead
from metrics.journals import Journals
from tests.metrics.records import request
from tests.metrics.world import DATABASE, World


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
