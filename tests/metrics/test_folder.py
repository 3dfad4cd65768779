"""One folder over all journals: each byte once, live to the last record, behind the positions of the database."""

import pytest

from gateway import record
from gateway.journal import START
from gateway.record import Attempt, Entry, Unrecorded
from metrics import folder as folder_module
from metrics.fold import Counters
from metrics.trackers import State
from tests.metrics.records import A, B, load, request
from tests.metrics.world import DATABASE, UTC_ZONE, World, told


def test_nothing_is_read_before_the_database_is_known(world: World) -> None:
    world.gateway(request())
    world.folder.database_id = None
    assert world.folder.catch_up() == 0
    assert world.folder.figures().endpoints == {}


def test_figures_include_the_last_record_of_every_gateway(world: World) -> None:
    gateways = [world.gateway(request()) for _ in range(3)]
    assert world.folder.figures().endpoints == {A: Counters(3, 3)}
    gateways[1].append(request(record.FAILED))
    assert world.folder.figures().endpoints == {A: Counters(4, 3, 1)}


def test_each_record_is_read_once(world: World) -> None:
    gateway = world.gateway(request(), request())
    assert world.folder.catch_up() == 2
    assert world.folder.catch_up() == 0
    gateway.append(request())
    assert world.folder.catch_up() == 1
    assert world.figures().endpoints == {A: Counters(3, 3)}


def test_a_backlog_beyond_one_batch_is_read_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "BATCH", 3)
    world.gateway(*[request() for _ in range(8)])
    assert world.folder.catch_up() == 8


def test_segments_are_read_one_after_the_other(world: World) -> None:
    world.gateway(*[request() for _ in range(20)], segment_bytes=600)
    assert world.folder.catch_up() == 20


def test_records_of_another_database_are_left_alone(world: World) -> None:
    world.gateway(request(), database_id="another")
    assert world.folder.catch_up() == 0


def test_the_version_grows_only_when_something_came(world: World) -> None:
    world.gateway(request())
    world.folder.catch_up()
    before = world.trackers.version
    world.folder.catch_up()
    assert world.trackers.version == before


@pytest.mark.parametrize("entry", [request(record.REJECTED, error="invalid_api_key"), Unrecorded(2)])
def test_the_version_grows_with_what_is_no_answer(world: World, entry: Entry) -> None:
    gateway = world.gateway(request())
    before = world.folder.figures().version
    gateway.append(entry)
    assert world.folder.figures().version > before


def test_rejections_and_losses_count_but_a_head_does_not(world: World) -> None:
    world.gateway(request(record.REJECTED, error="unknown_key"), Unrecorded(5))
    assert world.folder.catch_up() == 1
    assert told(world.figures())["totals"] == {"rejected:unknown_key": 1, "unrecorded": 5}


def test_garbage_is_stepped_over_and_counted(world: World) -> None:
    gateway = world.gateway(request())
    with (world.path(gateway) / "00000001.seg").open("ab") as segment:
        segment.write(b"garbage")
    gateway.append(request())
    assert world.folder.catch_up() == 2
    assert world.figures().totals["damaged_bytes"] == 7


def test_a_torn_tail_waits_for_its_rest(world: World) -> None:
    path = world.path(world.gateway(request())) / "00000001.seg"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    assert world.folder.catch_up() == 0
    path.write_bytes(whole)
    assert world.folder.catch_up() == 1


def test_endpoints_that_refuse_connections_are_told_of(world: World) -> None:
    named: list[str] = []
    world.folder.on_refused_connection(named.append)
    refused = Attempt(B, record.FAILED, 0, 5, "connection refused")
    world.gateway(request(attempts=(refused, Attempt(A, record.OK, 200, 5))))
    world.folder.catch_up()
    assert named == [B]


def test_seeding_reads_what_lies_behind_the_positions(world: World) -> None:
    gateway = world.gateway(request(), request())
    world.folder.catch_up()
    position = world.folder.position(world.path(gateway).name)
    gateway.append(request(record.FAILED))
    state = State(UTC_ZONE, positions={world.path(gateway).name: position}, endpoints={A: Counters(2, 2)})
    world.folder.seed(state, DATABASE)
    assert world.figures().endpoints == {A: Counters(3, 2, 1)}
    assert world.figures().seeded


def test_a_writer_without_a_position_is_read_from_its_start(world: World) -> None:
    world.gateway(request())
    world.folder.seed(State(UTC_ZONE), DATABASE)
    assert world.figures().endpoints == {A: Counters(1, 1)}


def test_an_unknown_writer_stands_at_its_start(world: World) -> None:
    assert world.folder.position("nobody") == START


def test_waiting_counts_what_the_database_does_not_have_yet(world: World) -> None:
    world.gateway(*load(1, 10))
    world.folder.catch_up()
    assert world.folder.waiting == 10
    world.folder.written += 4
    assert world.folder.waiting == 6


def test_waiting_is_never_below_zero(world: World) -> None:
    world.folder.written = 3  # the writer was first
    assert world.folder.waiting == 0


def test_a_new_seed_begins_to_count_what_waits_anew(world: World) -> None:
    world.gateway(request(), request())
    world.folder.catch_up()
    world.folder.seed(State(UTC_ZONE), DATABASE)
    assert world.folder.waiting == 2


def test_a_forgotten_writer_keeps_its_figures(world: World) -> None:
    gateway = world.gateway(request())
    name = world.path(gateway).name
    world.folder.catch_up()
    world.path(gateway).rename(world.root / f".{name}")
    world.folder.forget(name)
    assert world.folder.position(name) == START
    assert world.figures().endpoints == {A: Counters(1, 1)}
