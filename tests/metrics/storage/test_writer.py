"""The database writer: each record exactly once in spite of crashes, rows that llmlb can read, and deleted segments."""

import json
import shutil
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection

from gateway.base.request_kinds import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES
from gateway.ipc import journal, record
from gateway.ipc.record import AttemptRecord, RequestRecord, Unrecorded
from gateway.routing import balancer
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.counting.request_types import KINDS as NAMES
from metrics.models import DailyStat, DayRollUp, JournalPosition, MinuteRollUp, MovingAverage, RequestHistory, Total
from metrics.storage import database, writer_step
from metrics.storage import writer as writer_module
from metrics.storage.bulk import Upsert
from metrics.storage.history_rows import EndpointName
from metrics.storage.writer import (
    BUSY_PAUSE_SECONDS,
    IDLE_PAUSE_SECONDS,
    LOADED_PAUSE_SECONDS,
    MAX_BACKOFF_SECONDS,
    PAUSE_SECONDS,
    DatabaseWriter,
)
from metrics.storage.writer_step import PositionConflict
from tests.metrics import laws, strict
from tests.metrics.records import AT, ENDED, KEY, KINDS, NOW, A, B, attempt, load, request
from tests.metrics.world import UTC_ZONE, World, own_database, restored, rows, same, where
from tests.router import until

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

only_sqlite = pytest.mark.skipif(connection.vendor != "sqlite", reason="llmlb reads only SQLite")


@pytest.fixture(autouse=True)
def _own_database(db: None) -> None:
    own_database()


def positions() -> dict[str, tuple[int, int]]:
    return {row.writer: (row.segment, row.position) for row in JournalPosition.objects.all()}


def totals() -> dict[str, int]:
    return {row.name: row.value for row in Total.objects.all()}


def counters(endpoint_id: str = A) -> tuple[Any, ...]:
    return rows(
        "SELECT total_requests, successful_requests, failed_requests FROM endpoints WHERE id = %s", endpoint_id
    )[0]


def only_row(world: World, entry: RequestRecord) -> RequestHistory:
    world.gateway(entry)
    world.write()
    return RequestHistory.objects.get()


# What is stored


@pytest.mark.parametrize("outcome", ENDED)
def test_every_outcome_except_rejection_has_a_row(world: World, outcome: str) -> None:
    row = only_row(world, request(outcome))
    assert (row.status, row.outcome) == ("success" if outcome == record.OK else "error", outcome)


def test_a_rejection_has_no_row(world: World) -> None:
    world.gateway(request(record.REJECTED, error="unknown_key"))
    world.write()
    assert not RequestHistory.objects.exists()
    assert totals() == {"rejected:unknown_key": 1}


def test_a_row_has_the_values_of_the_record(world: World) -> None:
    entry = request(
        ago=5, api_key_id=KEY, client_ip="198.51.100.7", input_tokens=3, output_tokens=5, first_token_us=70_000,
        streamed=True, estimated=True, duration_us=1_234_567,
    )  # fmt: skip
    row = only_row(world, entry)
    assert (str(row.id), str(row.endpoint_id), row.endpoint_name, row.endpoint_ip) == (entry.id, A, "a", "192.0.2.7")
    assert (row.duration_ms, row.duration_us, row.first_token_us) == (1235, 1_234_567, 70_000)
    assert (row.input_tokens, row.output_tokens, row.total_tokens) == (3, 5, 8)
    assert (str(row.api_key_id), row.client_ip, row.streamed, row.tokens_estimated) == (KEY, "198.51.100.7", True, True)
    assert row.completed_at == row.timestamp
    assert (NOW - row.completed_at).total_seconds() == 5


def test_attempts_are_stored_with_the_row(world: World) -> None:
    row = only_row(world, request(attempts=(attempt(record.FAILED, error="HTTP 500"), attempt())))
    assert [(stored_attempt["outcome"], stored_attempt.get("error")) for stored_attempt in row.attempts or ()] == [
        ("failed", "HTTP 500"),
        ("ok", None),
    ]


def stored_attempts(world: World, *tries: AttemptRecord) -> str:
    """Return the text of the column."""
    only_row(world, request(attempts=tries))
    text: str = rows("SELECT CAST(attempts AS TEXT) FROM request_history")[0][0]
    return text.replace(" ", "")


@only_sqlite
def test_default_values_of_attempts_are_not_stored(world: World) -> None:
    reported = stored_attempts(world, AttemptRecord(A, record.OK, 200, 5, reason=balancer.ONLY, scores=((A, 3),)))
    assert reported == f'[{{"endpoint_id":"{A}","outcome":"ok","status":200,"duration_us":5,"reason":"only"}}]'


def test_a_routing_decision_is_stored_with_its_scores(world: World) -> None:
    reported = stored_attempts(world, AttemptRecord(A, record.OK, 200, 5, None, 7, balancer.LEAST, ((A, 0), (B, 4))))
    (stored,) = json.loads(reported)
    assert (stored["at_us"], stored["reason"], stored["scores"]) == (7, "least", {A: 0, B: 4})
    assert "error" not in stored


def test_a_wait_and_the_clients_own_id_are_stored(world: World) -> None:
    row = only_row(world, request(record.QUEUE, queue_us=60_000_000, request_id="trace\0"))
    assert (row.queue_us, row.request_id) == (60_000_000, "trace\ufffd")


def test_a_request_that_did_not_wait_has_no_waiting_time(world: World) -> None:
    row = only_row(world, request())
    assert (row.queue_us, row.request_id) == (None, None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_name_of_llmlb(world: World, kind: str) -> None:
    row = only_row(world, request(kind=kind))
    assert row.kind == kind
    assert row.request_type in NAMES


@pytest.mark.parametrize(
    ("kind", "name"), [(CHAT, "Chat"), (COMPLETIONS, "Generate"), (EMBEDDINGS, "Embeddings"), (RESPONSES, "Chat")]
)
def test_kinds_have_names_of_llmlb_and_our_own(world: World, kind: str, name: str) -> None:
    row = only_row(world, request(kind=kind))
    assert (row.request_type, row.kind) == (name, kind)


def test_without_an_endpoint_the_row_has_none(world: World) -> None:
    row = only_row(world, request(record.NO_ENDPOINT))
    assert (str(row.endpoint_id), row.endpoint_name, row.endpoint_ip) == (NO_ENDPOINT, "N/A", "0.0.0.0")


def test_without_bodies_the_row_has_the_model(world: World) -> None:
    row = only_row(world, request(model="名前"))
    assert (row.request_body, row.response_body) == ({"model": "名前"}, None)


def test_stored_bodies_are_json(world: World) -> None:
    row = only_row(world, request(request_body='{"model": "tiny", "n": 1}', response_body='{"id": 7}'))
    assert (row.request_body, row.response_body) == ({"model": "tiny", "n": 1}, {"id": 7})


def test_a_truncated_body_is_a_string(world: World) -> None:
    row = only_row(world, request(request_body='{"model": "ti…', response_body="oops"))
    assert (row.request_body, row.response_body) == ('{"model": "ti…', "oops")


def test_an_error_has_its_text_or_its_status(world: World) -> None:
    world.gateway(request(record.FAILED, error="timed out", ago=1), request(record.REFUSED, status=422))
    world.write()
    texts = RequestHistory.objects.order_by("completed_at").values_list("error_message", flat=True)
    assert list(texts) == ["timed out", "HTTP 422"]


def test_a_success_has_no_error(world: World) -> None:
    assert only_row(world, request(error="ignored")).error_message is None


def test_unknown_tokens_stay_unknown(world: World) -> None:
    row = only_row(world, request())
    assert (row.input_tokens, row.output_tokens, row.total_tokens) == (None, None, None)


def test_one_known_number_of_tokens_is_the_sum(world: World) -> None:
    assert only_row(world, request(output_tokens=5)).total_tokens == 5


@only_sqlite
def test_llmlbs_strict_reader_accepts_every_row(world: World) -> None:
    entries = load(7, 150)
    world.gateway(*entries, request(request_body="cut…", client_ip="2001:db8::1"), request(ago=0.5))
    world.write()
    assert len(strict.read_all()) == 2 + sum(entry.outcome != record.REJECTED for entry in entries)


@only_sqlite
def test_timestamps_are_sortable_text(world: World) -> None:
    world.gateway(request(completed_us=1_000_000_000_000_000), request(completed_us=1_000_000_000_000_001))
    world.write()
    assert [row["completed_at"] for row in strict.read_all()] == [
        "2001-09-09T01:46:40.000000+00:00",
        "2001-09-09T01:46:40.000001+00:00",
    ]


def test_the_history_can_be_limited_to_errors(world: World) -> None:
    world.writer = DatabaseWriter(world.follower, UTC_ZONE, where, history="errors")
    world.gateway(request(), request(record.FAILED), request(record.CANCELLED))
    world.write()
    assert set(RequestHistory.objects.values_list("outcome", flat=True)) == {"failed", "cancelled"}
    assert (totals()["requests_ok"], totals()["requests_failed"]) == (1, 1)


def test_sums_are_stored(world: World, endpoints: object) -> None:
    world.gateway(request(output_tokens=100), request(record.FAILED), request(record.CANCELLED))
    world.write()
    assert counters() == (2, 1, 1)
    daily = DailyStat.objects.get()
    assert (daily.total_requests, daily.total_output_tokens, daily.total_duration_ms) == (2, 100, 2000)
    assert MinuteRollUp.objects.get().requests_cancelled == DayRollUp.objects.get().requests_cancelled == 1
    assert MovingAverage.objects.get().value == 50


def test_figures_are_reloaded_until_that_succeeds(world: World) -> None:
    world.gateway(request())
    world.write()
    responses = [OperationalError("away"), None]

    def reseed() -> None:
        if (response := responses.pop(0)) is not None:
            raise response

    world.writer._read_figures = reseed
    world.writer.read_again.set()
    with pytest.raises(OperationalError):
        world.writer.step()
    world.writer.step()
    world.writer.step()
    assert responses == []


def test_sums_add_up_over_batches(world: World, endpoints: object) -> None:
    gateway = world.gateway(request())
    world.write()
    gateway.append(request())
    world.write()
    assert counters() == (2, 2, 0)
    assert DailyStat.objects.get().total_requests == MinuteRollUp.objects.get().attempts_ok == 2
    assert totals()["requests_ok"] == 2


def test_a_deleted_endpoint_keeps_its_daily_rows(world: World) -> None:
    world.gateway(request(endpoint="eeeeeeee-0000-4000-8000-000000000007"))
    world.write()
    assert DailyStat.objects.get().total_requests == 1
    assert RequestHistory.objects.get().endpoint_name == "(deleted)"


def test_counts_of_unrecorded_requests_and_damaged_bytes_are_stored(world: World) -> None:
    gateway = world.gateway(request(), Unrecorded(3))
    with (world.path(gateway) / "00000001.seg").open("ab") as segment:
        segment.write(b"garbage")
    gateway.append(request())
    world.write()
    assert (totals()["unrecorded"], totals()["damaged_bytes"]) == (3, 7)


def test_zero_totals_are_not_stored(world: World) -> None:
    world.gateway(request())
    world.write()
    assert totals() == {"requests_ok": 1, "answers_us": 2_000_000, "answers_below_us:21": 1}


# Laws


@pytest.mark.parametrize("seed", range(4))
def test_the_laws_hold_after_any_load(world: World, endpoints: object, seed: int) -> None:
    entries = load(seed, 200)
    for part in range(4):
        world.gateway(*entries[part::4])
    world.write()
    laws.check_all()
    laws.check_against(entries)
    laws.check_timeline(world.figures())


def test_the_laws_hold_between_batches(world: World, endpoints: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_step, "BATCH", 25)
    world.gateway(*load(5, 120), segment_bytes=4000)
    while world.writer.step().moves:
        laws.check_all()


def test_stored_averages_equal_those_of_the_trackers(world: World) -> None:
    entries = load(9, 200)
    for part in range(3):
        world.gateway(*entries[part::3])
        world.write()  # the database receives another order than the trackers
    reported = world.figures().speeds
    stored = {(str(row.endpoint_id), row.model, row.kind): row.value for row in MovingAverage.objects.all()}
    assert stored == dict(reported)


# Exactly once


def test_a_step_writes_one_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_step, "BATCH", 3)
    world.gateway(*[request() for _ in range(4)])
    assert world.writer.step().full
    assert RequestHistory.objects.count() == 2  # and the header of the segment
    assert not world.writer.step().full
    assert RequestHistory.objects.count() == 4


def test_the_position_equals_that_of_the_journal(world: World) -> None:
    gateway = world.gateway(request())
    world.write()
    path = world.path(gateway)
    assert positions() == {path.name: (1, (path / "00000001.seg").stat().st_size)}


def test_without_new_records_there_is_no_write(world: World) -> None:
    world.gateway(request())
    world.write()
    before = rows("SELECT * FROM metric_totals")
    step = world.writer.step()
    assert (step.moves, step.entries) == ([], [])
    assert rows("SELECT * FROM metric_totals") == before


def stored() -> list[Any]:
    tables = (
        "request_history", "metric_totals", "journal_positions", "rollup_minutes", "rollup_days", "rollup_client_hours",
        "rollup_client_days", "rollup_months", "rollup_all_clients",
    )  # fmt: skip
    return [rows(f"SELECT count(*) FROM {table}") for table in tables]


@pytest.mark.parametrize("statement", ["MOVE", "HISTORY", "ENDPOINTS", "DAILY", "TOTALS", "AVERAGES", "WRITE_AVERAGE"])
def test_a_failure_anywhere_in_the_transaction_rolls_it_back(
    world: World, endpoints: object, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    world.gateway(*load(3, 30))
    before = stored()
    with monkeypatch.context() as broken:
        module = writer_module if statement == "HISTORY" else writer_step
        text = getattr(module, statement)
        if isinstance(text, Upsert):
            working = text._upsert
            broken.setattr(text, "_upsert", lambda source="": working(source=source) + "_x")
        elif statement == "AVERAGES":
            broken.setattr(module, statement, "rollup_days")  # it has no samples
        else:
            broken.setattr(module, statement, text.replace("(", "(nonsense ", 1) + "_x")
        with pytest.raises(DatabaseError):
            world.writer.step()
    assert stored() == before
    world.write()
    assert same(restored(), world.figures())


def test_a_crash_between_reading_and_commit_counts_once(world: World, endpoints: object) -> None:
    def crash(endpoint_id: str) -> EndpointName:
        raise KeyboardInterrupt

    world.gateway(request(), request(record.FAILED))
    with pytest.raises(KeyboardInterrupt):
        DatabaseWriter(world.follower, UTC_ZONE, crash).step()
    assert (counters(), positions()) == ((0, 0, 0), {})
    world.write()
    assert counters() == (2, 1, 1)


def test_a_crash_after_the_commit_counts_once(world: World, endpoints: object, monkeypatch: pytest.MonkeyPatch) -> None:
    world.gateway(request())
    monkeypatch.setattr(world.writer, "_clean", lambda step: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        world.writer.step()
    world.write(DatabaseWriter(world.follower, UTC_ZONE, where))  # a new process
    assert counters() == (1, 1, 0)


def test_a_second_writer_writes_nothing(world: World, endpoints: object) -> None:
    world.gateway(request())
    step = world.writer._read(world.writer._positions())
    world.write(DatabaseWriter(world.follower, UTC_ZONE, where))
    before = stored()
    with pytest.raises(PositionConflict):
        world.writer._commit(step)
    assert stored() == before
    assert counters() == (1, 1, 0)


def test_a_second_writer_writes_nothing_of_a_known_journal(world: World, endpoints: object) -> None:
    gateway = world.gateway(request())
    world.write()
    gateway.append(request())
    step = world.writer._read(world.writer._positions())
    gateway.append(request())
    world.write(DatabaseWriter(world.follower, UTC_ZONE, where))
    with pytest.raises(PositionConflict):
        world.writer._commit(step)
    assert counters() == (3, 3, 0)


def test_a_second_writer_writes_nothing_of_a_removed_journal(world: World, endpoints: object) -> None:
    gateway = world.gateway(request(), request(record.REJECTED, error="unknown_key"), Unrecorded(2))
    step = world.writer._read(world.writer._positions())
    gateway.close()
    world.write(DatabaseWriter(world.follower, UTC_ZONE, where))
    assert positions() == {}  # so there is no row to compare with
    before = totals()
    with pytest.raises(PositionConflict):
        world.writer._commit(step)
    assert (totals(), positions()) == (before, {})


def test_a_copied_journal_directory_is_not_counted(
    world: World, endpoints: object, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = world.gateway(request(output_tokens=9), request(record.FAILED))
    world.write()
    before = (counters(), totals(), rows("SELECT * FROM rollup_minutes"), rows("SELECT * FROM moving_averages"))
    shutil.copytree(world.path(gateway), world.root / "copy")
    world.write()
    assert (counters(), totals(), rows("SELECT * FROM rollup_minutes"), rows("SELECT * FROM moving_averages")) == before
    assert "which has the same records" in caplog.text


def test_a_copied_segment_is_not_counted(world: World, endpoints: object) -> None:
    path = world.path(world.gateway(request(), request(record.FAILED)))
    world.write()
    shutil.copy(path / "00000001.seg", path / "00000002.seg")
    assert world.figures().totals["requests_ok"] == 2  # until the writer has identified it
    world.write()
    assert counters() == (2, 1, 1)
    assert same(world.figures(), restored())
    laws.check_all()


def test_the_backlog_is_right_after_figures_were_reloaded(world: World, endpoints: object) -> None:
    gateway = world.gateway(request())
    world.write()
    shutil.copy(world.path(gateway) / "00000001.seg", world.path(gateway) / "00000002.seg")
    world.write()
    world.gateway(request(), request())
    world.follower.catch_up()
    assert world.follower.waiting == 2


def test_new_records_next_to_copied_ones_are_counted(world: World, endpoints: object) -> None:
    gateway = world.gateway(request())
    world.write()
    gateway.append(request())
    shutil.copytree(world.path(gateway), world.root / "copy")
    world.write()
    assert counters() == (2, 2, 0)
    laws.check_all()


def test_a_duplicate_record_in_one_batch_is_counted_once(world: World, endpoints: object) -> None:
    entry = request()
    world.gateway(entry, entry)
    world.write()
    assert counters() == (1, 1, 0)


def test_records_of_another_database_are_ignored(world: World) -> None:
    other = world.gateway(request(), database_id="another")
    other.close()
    world.write()
    assert {count for ((count,),) in stored()} == {0}
    assert list(world.root.glob("*/*.seg"))


# Segments and directories


def segments(world: World, gateway: journal.Writer) -> list[int]:
    return journal.segments(world.path(gateway))


def test_folded_segments_are_deleted(world: World) -> None:
    gateway = world.gateway(*[request() for _ in range(20)], segment_bytes=600)
    last = segments(world, gateway)[-1]
    world.follower.catch_up()
    world.write()
    assert segments(world, gateway) == [last]


def test_segments_wait_for_the_trackers(world: World, endpoints: object) -> None:
    gateway = world.gateway(*[request() for _ in range(20)], segment_bytes=600)
    before = segments(world, gateway)
    world.write()
    assert segments(world, gateway) == before
    world.follower.catch_up()
    gateway.append(request())
    world.write()
    assert len(segments(world, gateway)) < len(before)
    assert same(restored(), world.figures())


def no_disk() -> None:
    raise OperationalError("the disk does not answer")


def test_segments_wait_until_the_commit_is_durable(world: World, endpoints: object, monkeypatch: Any) -> None:
    """A power failure must not leave deleted segments and a database without their records."""
    gateway = world.gateway(*(request() for _ in range(30)), segment_bytes=2000)
    kept = journal.segments(world.path(gateway))
    world.follower.catch_up()
    monkeypatch.setattr(database, "make_durable", no_disk)
    with pytest.raises(OperationalError):
        world.write()
    assert journal.segments(world.path(gateway)) == kept


def test_a_dead_gateways_directory_waits_until_the_commit_is_durable(world: World, monkeypatch: Any) -> None:
    gateway = world.gateway(request())
    path = world.path(gateway)
    gateway.close()
    monkeypatch.setattr(database, "make_durable", no_disk)
    with pytest.raises(OperationalError):
        world.write()
    assert path.exists()


def test_segments_wait_for_the_database(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_step, "BATCH", 5)
    gateway = world.gateway(*[request() for _ in range(20)], segment_bytes=600)
    world.follower.catch_up()
    world.writer.step()
    position = positions()[world.path(gateway).name]
    assert segments(world, gateway)[0] == position[0]


def test_a_dead_gateways_directory_and_position_are_removed(world: World, endpoints: object) -> None:
    gateway = world.gateway(request())
    path = world.path(gateway)
    gateway.close()
    world.write()
    assert not path.exists()
    assert list(world.root.iterdir()) == []
    assert positions() == {}
    assert same(restored(), world.figures())


def test_a_living_gateways_directory_stays(world: World) -> None:
    gateway = world.gateway(request())
    world.follower.catch_up()
    for _ in range(3):
        world.writer.step()
    assert segments(world, gateway) == [1]
    assert list(positions()) == [world.path(gateway).name]


def test_a_dead_gateways_last_records_are_written_before_the_removal(world: World, endpoints: object) -> None:
    gateway = world.gateway(request())
    path = world.path(gateway)
    world.writer.step()
    gateway.append(request())
    gateway.close()
    world.write()
    assert counters() == (2, 2, 0)
    assert not path.exists()


def test_an_incomplete_record_of_a_dead_gateway_does_not_prevent_the_removal(world: World, endpoints: object) -> None:
    gateway = world.gateway(request())
    path = world.path(gateway)
    with (path / "00000001.seg").open("ab") as segment:
        segment.write(journal.frame(request())[:-5])
    gateway.close()
    world.write()
    assert not path.exists()
    assert counters() == (1, 1, 0)


def test_a_gateway_that_died_before_a_header_is_removed_after_a_restart_too(world: World) -> None:
    gateway = world.gateway(request())
    journal.segment_path(world.path(gateway), 2).write_bytes(b"")
    gateway.close()
    world.follower.catch_up()
    world.writer.step()
    again = World(world.root)
    again.reseed()
    again.write()
    assert list(world.root.iterdir()) == []
    assert positions() == {}


# The thread


class Waits:
    """Replaces the pause of the thread: collects the pauses, and ends the thread after some turns."""

    def __init__(self, stop: threading.Event, turns: int) -> None:
        self.stop = stop
        self.turns = turns
        self.seconds: list[float] = []

    def wait(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if len(self.seconds) >= self.turns:
            self.stop.set()

    def set(self) -> None: ...

    def clear(self) -> None: ...


def run(world: World, prepare: Callable[[], bool], turns: int = 1) -> list[float]:
    stop = threading.Event()
    waits = Waits(stop, turns)
    world.writer._wake = waits  # type: ignore[assignment]
    world.writer.run(stop, prepare)
    return waits.seconds


def away() -> bool:
    raise OperationalError("no room\nat all")


@pytest.mark.django_db(transaction=True)
def test_the_thread_writes_and_pauses(world: World) -> None:
    world.gateway(request())
    assert run(world, lambda: True, 2) == [PAUSE_SECONDS, IDLE_PAUSE_SECONDS]
    assert RequestHistory.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_the_first_record_ends_a_long_pause(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "IDLE_PAUSE_SECONDS", 600.0)
    monkeypatch.setattr(writer_step, "BATCH", 100)
    stop = threading.Event()
    thread = threading.Thread(target=world.writer.run, args=(stop, lambda: True))
    thread.start()
    try:
        until(lambda: world.writer._is_idle)
        world.gateway(request())
        assert world.follower.catch_up() == 1
        world.writer.wake_if_batch_waits()
        until(lambda: not world.follower.waiting)
    finally:
        stop.set()
        world.writer._wake.set()
        thread.join()
    assert RequestHistory.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_nothing_is_written_before_the_database_is_prepared(world: World) -> None:
    world.follower.database_id = None
    run(world, lambda: False)
    assert not RequestHistory.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_an_unavailable_database_is_retried_with_growing_pauses(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.follower.database_id = None  # so that the stop does not try again
    waits = run(world, away, 6)
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (2 * PAUSE_SECONDS, MAX_BACKOFF_SECONDS)
    assert world.writer.backlog.error == "no room"
    assert world.writer.backlog.behind_since is not None
    assert caplog.text.count("the database is unavailable") == 1


@pytest.mark.django_db(transaction=True)
def test_a_database_that_returns_is_written_to_at_once(world: World) -> None:
    responses = iter([away, away, lambda: True, lambda: True])
    world.gateway(request())
    waits = run(world, lambda: next(responses)(), 4)
    assert waits == [2 * PAUSE_SECONDS, 4 * PAUSE_SECONDS, PAUSE_SECONDS, IDLE_PAUSE_SECONDS]
    assert RequestHistory.objects.count() == 1
    assert (world.writer.backlog.error, world.writer.backlog.behind_since) == (None, None)


@pytest.mark.django_db(transaction=True)
def test_an_unexpected_error_does_not_end_the_thread(world: World, caplog: pytest.LogCaptureFixture) -> None:
    responses = iter([lambda: 1 // 0 > 0, lambda: True])
    world.gateway(request())
    assert run(world, lambda: next(responses)(), 2) == [MAX_BACKOFF_SECONDS, PAUSE_SECONDS]
    assert RequestHistory.objects.count() == 1
    assert "it is repeated in 2.0 s" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_full_batches_follow_each_other_without_a_pause(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_step, "BATCH", 3)
    world.gateway(*[request() for _ in range(10)])
    assert len(run(world, lambda: True)) == 1
    assert RequestHistory.objects.count() == 10


@pytest.mark.django_db
@pytest.mark.parametrize(("waiting", "error", "hurries"), [(3, None, True), (2, None, False), (3, "away", False)])
def test_a_full_batch_does_not_wait(
    world: World, monkeypatch: pytest.MonkeyPatch, waiting: int, error: str | None, hurries: bool
) -> None:
    monkeypatch.setattr(writer_step, "BATCH", 3)
    world.gateway(*[request() for _ in range(waiting)])
    world.follower.catch_up()
    world.writer.backlog.error = error
    world.writer.wake_if_batch_waits()
    assert world.writer._wake.is_set() is hurries


@pytest.mark.django_db(transaction=True)
def test_batches_grow_under_load(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "BUSY_RECORDS", 3)
    world.gateway(*[request() for _ in range(3)])
    assert run(world, lambda: True, 2) == [BUSY_PAUSE_SECONDS, IDLE_PAUSE_SECONDS]
    monkeypatch.setattr(writer_module, "LOADED_RECORDS", 4)
    world.gateway(*[request() for _ in range(4)])
    assert run(world, lambda: True, 2) == [LOADED_PAUSE_SECONDS, IDLE_PAUSE_SECONDS]


@pytest.mark.django_db(transaction=True)
def test_the_stop_writes_the_backlog(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_step, "BATCH", 3)
    stop = threading.Event()
    stop.set()
    world.gateway(*[request() for _ in range(10)])
    world.writer.run(stop, lambda: True)
    assert RequestHistory.objects.count() == 10


@pytest.mark.django_db(transaction=True)
def test_an_unavailable_database_at_the_stop_is_logged(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.gateway(request())
    monkeypatch.setattr(world.writer, "step", away)
    world.writer.finish()
    assert "they stay in the journal: no room" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_flush_waits_until_all_is_written(world: World) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=world.writer.run, args=(stop, lambda: True))
    thread.start()
    try:
        gateway = world.gateway()
        for count in range(1, 4):
            gateway.append(request())
            assert world.writer.flush(timeout=60)
            assert RequestHistory.objects.count() == count
    finally:
        stop.set()
        thread.join()


def test_flush_times_out_without_a_writer(world: World) -> None:
    assert not world.writer.flush(timeout=0)


def test_a_step_returns_its_figures(world: World) -> None:
    world.gateway(request(), request())
    world.follower.catch_up()
    assert world.follower.waiting == 2
    world.write()
    assert world.follower.waiting == 0
    assert world.writer.backlog.last_commit_at is not None
    assert world.writer.backlog.error is None


def test_attempts_are_valid_json(world: World) -> None:
    world.gateway(request(attempts=(attempt(), attempt())))
    world.write()
    (text,) = rows("SELECT CAST(attempts AS TEXT) FROM request_history")[0]
    assert [stored_attempt["endpoint_id"] for stored_attempt in json.loads(text)] == [A, A]


def test_rows_do_not_depend_on_the_clock(world: World) -> None:
    assert only_row(world, request(ago=-86_400)).completed_at.timestamp() == AT + 86_400
