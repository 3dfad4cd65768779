"""The journal follower reads each byte of all journals once, from the positions of the database to the last record."""

import time
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.ipc import journal, record
from gateway.ipc.journal import START
from gateway.ipc.record import AttemptRecord, Entry, SegmentHead, Unrecorded
from metrics.counting.cells import Counters
from metrics.memory import journal_follower as follower_module
from metrics.memory.journal_reader import Part
from metrics.memory.state import FiguresState
from tests.metrics.records import A, B, load, request
from tests.metrics.world import DATABASE, UTC_ZONE, World, reported


def test_nothing_is_read_before_the_database_is_known(world: World) -> None:
    world.gateway(request())
    world.follower.database_id = None
    assert world.follower.catch_up() == 0
    assert world.follower.figures().endpoints == {}


def test_figures_include_the_last_record_of_every_gateway(world: World) -> None:
    gateways = [world.gateway(request()) for _ in range(3)]
    assert world.follower.figures().endpoints == {A: Counters(3, 3)}
    gateways[1].append(request(record.FAILED))
    assert world.follower.figures().endpoints == {A: Counters(4, 3, 1)}


def test_each_record_is_read_once(world: World) -> None:
    gateway = world.gateway(request(), request())
    assert world.follower.catch_up() == 2
    assert world.follower.catch_up() == 0
    gateway.append(request())
    assert world.follower.catch_up() == 1
    assert world.figures().endpoints == {A: Counters(3, 3)}


def test_news_are_new_records_new_segments_and_new_gateways(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "FOLLOW_SECONDS", 600.0)
    assert world.follower.has_news()
    assert not world.follower.has_news()
    gateway = world.gateway(request(), segment_bytes=600)
    assert world.follower.has_news()
    for _ in range(20):
        gateway.append(request())
        assert world.follower.has_news()
        assert not world.follower.has_news()


def test_journals_are_read_from_time_to_time_without_news(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(follower_module, "time", SimpleNamespace(monotonic=lambda: clock.now, time=time.time))
    world.gateway(request())
    assert world.follower.has_news()
    world.follower.catch_up()
    clock.now += follower_module.REST_FOLLOW_SECONDS - 0.1
    assert not world.follower.has_news()
    clock.now += 0.1
    assert world.follower.has_news()


def test_journals_of_which_something_is_not_read_are_read_every_second(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(follower_module, "time", SimpleNamespace(monotonic=lambda: clock.now, time=time.time))
    gateway = world.gateway(request())
    database_id, world.follower.database_id = world.follower.database_id, None
    for _ in range(3):  # the database is not known
        assert world.follower.has_news()
        assert world.follower.catch_up() == 0
        assert not world.follower.has_news()
        clock.now += follower_module.FOLLOW_SECONDS
    world.follower.database_id = database_id
    assert world.follower.has_news()
    assert world.follower.catch_up() == 1
    clock.now += follower_module.FOLLOW_SECONDS
    assert not world.follower.has_news()
    with journal.segment_path(world.follower.reader.root / str(gateway.name), 1).open("ab") as segment:
        segment.write(journal.frame(request())[:-1])  # may still be being written
    for _ in range(3):
        assert world.follower.has_news()
        assert world.follower.catch_up() == 0
        clock.now += follower_module.FOLLOW_SECONDS


def test_a_reader_ends_although_records_are_added_after_each_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, added, part = world.gateway(request(), request()), count(), world.follower.reader.part

    def under_load(*arguments: Any) -> Part:
        read_part = part(*arguments)
        assert next(added) < 20, "it reads on and on"
        gateway.append(request())
        return read_part

    monkeypatch.setattr(world.follower.reader, "part", under_load)
    assert world.follower.catch_up() == 2
    step = world.writer._read({})
    # The part that the follower has read, and the new records.
    assert [read_part.records for read_part in step.parts] == [2, 2]


def test_a_backlog_over_one_batch_is_read_completely(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "BATCH", 3)
    world.gateway(*[request() for _ in range(8)])
    assert world.follower.catch_up() == 8


def test_segments_are_read_one_after_the_other(world: World) -> None:
    world.gateway(*[request() for _ in range(20)], segment_bytes=600)
    assert world.follower.catch_up() == 20


def test_records_of_another_database_are_ignored(world: World) -> None:
    world.gateway(request(), database_id="another")
    assert world.follower.catch_up() == 0


def test_the_version_grows_only_with_new_records(world: World) -> None:
    world.gateway(request())
    world.follower.catch_up()
    before = world.trackers.version
    world.follower.catch_up()
    assert world.trackers.version == before


@pytest.mark.parametrize("entry", [request(record.REJECTED, error="invalid_api_key"), Unrecorded(2)])
def test_the_version_grows_with_records_without_a_response(world: World, entry: Entry) -> None:
    gateway = world.gateway(request())
    before = world.follower.figures().version
    gateway.append(entry)
    assert world.follower.figures().version > before


def test_the_head_of_a_journal_changes_no_version(world: World) -> None:
    """A gateway writes it when it begins, before any request ends."""
    gateway = world.gateway(request())
    before = world.follower.figures().version
    gateway.append(SegmentHead(DATABASE, "another"))
    assert world.follower.has_news()
    assert world.follower.figures().version == before


def test_rejections_and_unrecorded_requests_are_counted_but_headers_are_not(world: World) -> None:
    world.gateway(request(record.REJECTED, error="unknown_key"), Unrecorded(5))
    assert world.follower.catch_up() == 1
    assert reported(world.figures())["totals"] == {"rejected:unknown_key": 1, "unrecorded": 5}


def test_garbage_is_skipped_and_counted(world: World) -> None:
    gateway = world.gateway(request())
    with (world.path(gateway) / "00000001.seg").open("ab") as segment:
        segment.write(b"garbage")
    gateway.append(request())
    assert world.follower.catch_up() == 2
    assert world.figures().totals["damaged_bytes"] == 7


def test_an_incomplete_record_waits_for_its_rest(world: World) -> None:
    path = world.path(world.gateway(request())) / "00000001.seg"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    assert world.follower.catch_up() == 0
    path.write_bytes(whole)
    assert world.follower.catch_up() == 1


def test_endpoints_that_refuse_connections_are_reported(world: World) -> None:
    named: list[str] = []
    world.follower.on_refused_connection(named.append)
    refused = AttemptRecord(B, record.FAILED, 0, 5, "connection refused")
    world.gateway(request(attempts=(refused, AttemptRecord(A, record.OK, 200, 5))))
    world.follower.catch_up()
    assert named == [B]


def test_seeding_reads_the_records_after_the_positions(world: World) -> None:
    gateway = world.gateway(request(), request())
    world.follower.catch_up()
    position = world.follower.position(world.path(gateway).name)
    gateway.append(request(record.FAILED))
    state = FiguresState(UTC_ZONE, positions={world.path(gateway).name: position}, endpoints={A: Counters(2, 2)})
    world.follower.seed(state, DATABASE)
    assert world.figures().endpoints == {A: Counters(3, 2, 1)}
    assert world.figures().seeded


def test_a_writer_without_a_position_is_read_from_its_start(world: World) -> None:
    world.gateway(request())
    world.follower.seed(FiguresState(UTC_ZONE), DATABASE)
    assert world.figures().endpoints == {A: Counters(1, 1)}


def test_an_unknown_writer_is_at_its_start(world: World) -> None:
    assert world.follower.position("nobody") == START


def test_waiting_counts_records_that_the_database_does_not_have(world: World) -> None:
    world.gateway(*load(1, 10))
    world.follower.catch_up()
    assert world.follower.waiting == 10
    world.follower.written += 4
    assert world.follower.waiting == 6


def test_waiting_is_never_below_zero(world: World) -> None:
    world.follower.written = 3  # the writer was first
    assert world.follower.waiting == 0


def test_a_new_seed_resets_the_count_of_waiting_records(world: World) -> None:
    world.gateway(request(), request())
    world.follower.catch_up()
    world.follower.seed(FiguresState(UTC_ZONE), DATABASE)
    assert world.follower.waiting == 2


def test_figures_of_a_removed_writer_stay(world: World) -> None:
    gateway = world.gateway(request())
    name = world.path(gateway).name
    world.follower.catch_up()
    world.path(gateway).rename(world.root / f".{name}")
    world.follower.remove_writer(name)
    assert world.follower.position(name) == START
    assert world.figures().endpoints == {A: Counters(1, 1)}


def test_endpoints_that_do_not_know_a_model_are_reported(world: World) -> None:
    named: list[str] = []
    world.follower.on_unknown_model(named.append)
    unknown = AttemptRecord(B, record.REFUSED, 404, 5, record.MODEL_UNKNOWN)
    world.gateway(request(attempts=(unknown, AttemptRecord(A, record.OK, 200, 5))))
    world.follower.catch_up()
    assert named == [B]
