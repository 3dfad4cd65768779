"""Edge cases: unusual records, moved databases, copied directories, damaged tables."""

import contextlib
import shutil
import sqlite3
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.db import Error, connection
from django.test import RequestFactory

from access.directory import access
from access.models import User
from endpoints.registry import registry
from gateway.base.request_kinds import CHAT, EMBEDDINGS
from gateway.ipc import record
from gateway.ipc.journal import CRC, HEAD, MAGIC, VERSION
from metrics import tasks
from metrics.api import events
from metrics.counting.speeds import WINDOW, current_speed, merge_samples
from metrics.models import Installation, JournalPosition, MovingAverage, RequestHistory
from metrics.queries import figures, overview
from metrics.queries.figures import Moment
from metrics.storage import seeding
from metrics.storage.writer import DatabaseWriter
from metrics.templatetags.figures import rate
from tests.access.people import Api, session_of
from tests.metrics.records import AT, NOW, A, request
from tests.metrics.storage.test_seeding import adopted
from tests.metrics.world import (
    UTC_ZONE,
    World,
    add_endpoint,
    count_adopted,
    reported,
    restored,
    rows,
    same,
    where,
    without,
)
from tests.routerdash.commands import python
from tests.routerdash.processes.test_prepare import UP_TO_DATE

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

only_sqlite = pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite stores any text in a column")


# A record that the database cannot store must not block other records.


@pytest.mark.parametrize(
    "fields",
    [
        {"output_tokens": 2**63},
        {"input_tokens": 10**30},
        {"error": "broken \0 text", "outcome": record.FAILED},
        {"error": "broken \0 reason", "outcome": record.REJECTED},
        {"model": "broken \0 name", "output_tokens": 5},
        {"request_body": '{"model": "tiny", "user": "\\u0000"}'},
        {"response_body": '{"text": "\\ud800"}'},
    ],
    ids=[
        "2**63 tokens",
        "10**30 tokens",
        "NUL in an error",
        "NUL in a reason",
        "NUL in a name",
        "NUL in a body",
        "half a character in a body",
    ],
)
def test_a_record_that_the_database_cannot_store_blocks_no_other_record(world: World, fields: dict[str, Any]) -> None:
    world.gateway(request(), request(**fields), request())
    world.write()
    assert RequestHistory.objects.count() >= 2


# Records are written to their own database only.


def test_a_replaced_database_receives_no_records(world: World) -> None:
    gateway = world.gateway(request())
    world.write()
    gateway.append(request())
    Installation.objects.update(database_id="another, which was put there")
    with contextlib.suppress(Error):
        world.writer.step()
    assert RequestHistory.objects.count() == 1


MOVED = """
from metrics.memory.runtime import runtime
from metrics.storage import seeding
from metrics.storage.writer import DatabaseWriter
from gateway.ipc import journal
from tests.metrics.records import request
from tests.metrics.world import where
seeding.seed()
gateway = journal.Writer(config.journal_dir, runtime.follower.database_id)
writer = DatabaseWriter(runtime.follower, config.zone, where)
gateway.append(request())
writer.step()
path = config.database_path
prepare.backup(config).rename(path.with_name("copy"))
for end in ("", "-wal", "-shm"):
    path.with_name(path.name + end).rename(path.with_name("moved" + end))
path.with_name("copy").rename(path)
gateway.append(request())
writer.step()
"""


def test_no_records_are_written_to_a_database_file_that_was_moved_away(tmp_path: Path) -> None:
    done = python(UP_TO_DATE + MOVED, ROUTERDASH_DATA_DIR=str(tmp_path))
    reason = "django.db.utils.OperationalError: the database file was moved away"
    assert (done.code, done.err.splitlines()[-1]) == (1, reason), done.err
    with closing(sqlite3.connect(tmp_path / "moved")) as moved:
        assert moved.execute("SELECT count(*) FROM request_history").fetchone() == (1,)


MOVED_BELOW_CHECKS = """
from django.db import connection
from django.utils import timezone
from endpoints.checks.result import Check
from endpoints.health import HealthChecker
from endpoints.models import Endpoint
from endpoints.registry import registry
from metrics.storage import database
endpoint = Endpoint.objects.create(name="x", base_url="http://x.invalid")
registry.reload()
checker = HealthChecker(
    registry, lambda entry: None, lambda id: 0.0, lambda id, recovered: None, lambda: False, database.refuse_moved_files
)
def store(error):
    checker._store([(registry.get(str(endpoint.pk)), Check(False, None, error, timezone.now()))])
    return registry.get(str(endpoint.pk)).last_error
store("first")
used = connection.connection
store("second")
print(used is not None, connection.connection is used)
path = config.database_path
prepare.backup(config).rename(path.with_name("copy"))
for end in ("", "-wal", "-shm"):
    path.with_name(path.name + end).rename(path.with_name("moved" + end))
path.with_name("copy").rename(path)
print(store("third"), store("fourth"))
"""


def test_no_health_checks_are_stored_in_a_database_file_that_was_moved_away(tmp_path: Path) -> None:
    """The connection stays open from batch to batch. The check that finds that out is only in memory."""
    done = python(UP_TO_DATE + MOVED_BELOW_CHECKS, ROUTERDASH_DATA_DIR=str(tmp_path))
    assert (done.code, done.out.splitlines()) == (0, ["True True", "third fourth"]), done.err
    for name, errors in (("moved", ["first", "second"]), ("routerdash.sqlite3", ["first", "second", "fourth"])):
        with closing(sqlite3.connect(tmp_path / name)) as database:
            stored = database.execute("SELECT error_message FROM endpoint_health_checks ORDER BY id")
            assert [error for (error,) in stored] == errors


# The file returns first, as `mv` moves files in alphabetical order; we open it before its -wal returns.
BACK = """
import subprocess, sys
from django.db import Error, connection
from metrics.memory.runtime import runtime
from metrics.storage import seeding
from metrics.storage.writer import DatabaseWriter
from gateway.ipc import journal
from tests.metrics.records import request
from tests.metrics.world import where
seeding.seed()
gateway = journal.Writer(config.journal_dir, runtime.follower.database_id)
writer = DatabaseWriter(runtime.follower, config.zone, where, reseed=seeding.seed)
path = config.database_path
# Another process has the file open, so that our leaving does not end the -wal; then it dies.
code = "import sqlite3 as s, sys; c = s.connect(sys.argv[1]); c.execute('SELECT 1 FROM endpoints'); print(1, flush=1)"
connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
other = subprocess.Popen([sys.executable, "-c", code + "; input()", str(path)], stdin=-1, stdout=-1)
other.stdout.readline()
gateway.append(request())
writer.step()
connection.close()
other.kill(), other.wait()
wal, shm = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
wal.rename(path.with_name("elsewhere-wal")), shm.unlink()
gateway.append(request())
look = writer._positions
def put_back():
    positions = look()
    if path.with_name("elsewhere-wal").exists():
        path.with_name("elsewhere-wal").rename(wal)
    return positions
writer._positions = put_back
for _ in range(4):
    try:
        writer.step()
    except Error as error:
        print(error)
print(runtime.follower.figures().totals["requests_ok"], runtime.follower.waiting)
"""


def test_a_wal_file_that_returns_late_loses_nothing(tmp_path: Path) -> None:
    done = python(UP_TO_DATE + BACK, ROUTERDASH_DATA_DIR=str(tmp_path))
    assert done.out.splitlines() == ["the database file was moved away", "2 0"], done.err
    with closing(sqlite3.connect(tmp_path / "routerdash.sqlite3")) as database:
        assert database.execute("SELECT count(*) FROM request_history").fetchone() == (2,)


# A damaged table affects its own figures only.


@pytest.fixture
def whole(world: World, transactional_db: None) -> dict[str, Any]:
    """Give every figure a value; return the restored figures."""
    add_endpoint(A, "a")
    world.gateway(request(output_tokens=100), request(record.FAILED, ago=120), request(record.CANCELLED))
    world.write()
    return reported(restored())


NOTHING: dict[str, Any] = {"endpoints": {}, "usage": {}, "totals": {}, "today": {}}
NOTHING["speeds"] = {(A, "tiny", CHAT): 50.0}  # today's sums replace learned values


@pytest.mark.parametrize(
    ("table", "lost"),
    [
        ("metric_totals", ["totals"]),
        ("moving_averages", ["speeds"]),
        ("endpoints", ["endpoints", "usage"]),
        ("endpoint_daily_stats", ["today"]),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_a_missing_table_affects_only_its_own_figures(
    whole: dict[str, Any], caplog: pytest.LogCaptureFixture, table: str, lost: list[str]
) -> None:
    with without(table):
        restored_figures = reported(restored())
    assert restored_figures == whole | {name: NOTHING[name] for name in lost}
    assert [line.levelname for line in caplog.records] == ["WARNING"]


@pytest.mark.django_db(transaction=True)
def test_a_missing_minute_table_affects_the_timeline(whole: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with without("rollup_minutes"):
        restored_figures = restored()
    assert {(slot.success, slot.error) for slot in restored_figures.timeline} == {(0, 0)}
    assert restored_figures.average_response_time_ms == 2000  # of the latest day
    assert (reported(restored_figures)["endpoints"], reported(restored_figures)["totals"]) == (
        whole["endpoints"],
        whole["totals"],
    )
    assert [line.levelname for line in caplog.records] == ["WARNING"]


@pytest.mark.django_db(transaction=True)
def test_a_missing_history_leaves_our_own_timeline(whole: dict[str, Any]) -> None:
    with without("request_history"):
        assert reported(restored()) == whole


@only_sqlite
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE metric_totals SET value = 'many'",
        "UPDATE endpoints SET total_requests = 'many'",
        "UPDATE endpoint_daily_stats SET total_output_tokens = 'many'",
    ],
)
def test_the_dashboard_works_with_invalid_values_in_a_column(
    world: World, endpoints: object, shown_world: World, damage: str
) -> None:
    world.gateway(request())
    world.write()
    rows(damage)
    shown_world.follower.seed(seeding.load(AT), "another")
    assert overview.live()


# Figures in memory equal those of the database.


def test_a_copied_journal_directory_is_not_counted(world: World, endpoints: object) -> None:
    gateway = world.gateway(request(output_tokens=9))
    world.figures()
    shutil.copytree(world.path(gateway), world.root / "copy")
    world.figures()
    world.write()
    assert reported(world.figures()) == reported(restored())


def test_a_copied_journal_directory_is_not_counted_without_history(world: World, endpoints: object) -> None:
    world.writer = DatabaseWriter(world.follower, UTC_ZONE, where, history="errors")
    gateway = world.gateway(request())
    world.write()
    shutil.copytree(world.path(gateway), world.root / "copy")
    world.write()
    assert restored().totals["requests_ok"] == 1


def test_samples_of_a_batch_merge_as_a_set() -> None:
    one, twice = (1, 0, 10.0), (2, 0, 20.0)
    assert merge_samples([one], [twice, twice]) == [one, twice]


def test_undecodable_bytes_are_counted_in_memory_too(world: World) -> None:
    gateway = world.gateway(request())
    world.figures()
    payload = b'["no entry of ours"]'
    head = HEAD.pack(MAGIC, VERSION, len(payload))
    with (world.path(gateway) / "00000001.seg").open("ab") as segment:
        segment.write(head + CRC.pack(zlib.crc32(payload, zlib.crc32(head))) + payload)
    live = reported(world.figures())["totals"]
    world.write()
    assert reported(restored())["totals"] == live


@pytest.mark.parametrize("field", ["input_tokens", "output_tokens"])
def test_negative_tokens_of_an_upstream_are_not_counted(world: World, field: str) -> None:
    for tokens in (7, -5):
        fields: dict[str, Any] = {field: tokens}
        world.gateway(request(**fields))
    assert world.figures().totals[field] == 7


# Retention and adopted rows.


def test_pruning_leaves_the_average_of_adopted_rows(world: World) -> None:
    adopted(ago=30 * 86_400, duration_ms=250)
    count_adopted()
    assert restored().average_response_time_ms == 250
    tasks.prune_history()
    assert restored().average_response_time_ms == 250


def test_pruned_requests_are_separate_in_the_roll_ups(world: World) -> None:
    adopted(ago=30 * 86_400)
    adopted(ago=31 * 86_400, number=2)
    tasks.prune_history()
    assert rows("SELECT SUM(requests_ok) FROM rollup_days") == [(2,)]
    stored = dict(rows("SELECT name, value FROM metric_totals"))
    assert (stored["pruned_adopted:requests_ok"], stored["pruned_adopted:requests_failed"]) == (2, 0)


@only_sqlite
def test_an_adopted_row_at_midnight_belongs_to_its_day() -> None:
    adopted(duration_ms=250)
    rows("UPDATE request_history SET completed_at = '2026-03-01T00:00:00+00:00'")
    count_adopted()
    assert restored().average_response_time_ms == 250


# Displayed figures


def test_a_kind_without_speed_has_an_average_duration_too(shown_world: World, endpoints: object) -> None:
    now = datetime.now(UTC).timestamp()
    shown_world.gateway(request(kind=EMBEDDINGS, completed_us=round(now * 1e6)))
    (row,) = figures.model_tps(A, Moment.now())
    assert row["average_duration_ms"] == 2000


def test_the_average_duration_is_over_the_summed_responses(shown_world: World, endpoints: object) -> None:
    now = datetime.now(UTC).timestamp()
    for tokens in (10, None):
        shown_world.gateway(request(completed_us=round(now * 1e6), output_tokens=tokens, duration_us=2_000_000))
    (row,) = figures.model_tps(A, Moment.now())
    assert row["average_duration_ms"] == 2000


def test_a_rate_is_below_100_percent_after_a_failure() -> None:
    assert rate(99_999, 100_000) != "100.00 %"


# Leftovers of a killed process


def test_a_partly_removed_directory_is_removed(world: World) -> None:
    gateway = world.gateway(request())
    path = world.path(gateway)
    gateway.close()
    path.rename(world.root / f".{path.name}")  # killed here: the rest was never written
    world.gateway(request())
    world.writer.sweep()
    assert [directory for directory in world.root.iterdir() if directory.name.startswith(".")] == []


def test_an_orphaned_position_is_removed(world: World) -> None:
    gateway = world.gateway(request())
    world.write()
    path = world.path(gateway)
    gateway.close()
    path.rename(world.root / f".{path.name}")  # killed here: its position would be deleted next
    world.writer.sweep()
    assert not JournalPosition.objects.exists()


# Found in reviews


SENSELESS: list[dict[str, Any]] = [
    {"id": "not-a-uuid"},
    {"completed_us": 10**18},
    {"completed_us": -1},
    {"duration_us": 2**63 - 1},
    {"first_token_us": -5},
]


@pytest.mark.parametrize("fields", SENSELESS)
def test_an_implausible_record_does_not_affect_its_neighbours(
    world: World, endpoints: object, fields: dict[str, Any]
) -> None:
    world.gateway(request(), request(**fields), request())
    counted_figures = world.figures()
    assert (counted_figures.totals["requests_ok"], counted_figures.totals["unrecorded"]) == (2, 1)
    world.write()
    assert same(counted_figures, restored())
    assert RequestHistory.objects.count() == 2


def test_a_damaged_average_does_not_stop_the_writer(world: World) -> None:
    gateway = world.gateway(request(output_tokens=100))
    world.write()
    MovingAverage.objects.update(samples=b"\xc1")
    gateway.append(request(output_tokens=300))
    world.write()
    assert restored().speeds == {(A, "tiny", CHAT): 150.0}


def test_a_clock_that_returns_leaves_no_gap(world: World) -> None:
    world.gateway(request(output_tokens=50))
    world.write()
    world.reseed()
    before = world.figures()
    world.trackers.figures(AT + 2 * 86400)
    world.trackers.figures(AT)
    world.write()
    assert same(world.figures(), before)


def test_samples_from_the_future_wait_for_their_time() -> None:
    ahead = [(round((AT + 86400) * 1e6) + number, number, 5.0) for number in range(WINDOW)]
    now = (round(AT * 1e6), 1, 500.0)
    with time_machine.travel(NOW):
        merged = merge_samples(ahead, [now])
    assert merged == [now, *ahead]
    assert current_speed(ahead, AT) == 5  # there is no other
    assert current_speed(merged, AT) == 500
    assert current_speed(merged, AT + 2 * 86400) == pytest.approx(5)


def test_the_number_of_samples_from_the_future_is_bounded() -> None:
    ahead = [(round((AT + 86400) * 1e6) + number, number, 5.0) for number in range(3 * WINDOW)]
    now = [(round(AT * 1e6) + number, number, 500.0) for number in range(3 * WINDOW)]
    with time_machine.travel(NOW):
        assert merge_samples(now, ahead) == [*now[-WINDOW:], *ahead[-WINDOW:]]


def test_a_restored_older_copy_of_the_database_is_accepted(
    world: World, endpoints: object, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = world.gateway(request(), segment_bytes=1)
    world.write()
    world.reseed()
    tables = ("journal_positions", "metric_totals", "rollup_minutes", "rollup_days", "endpoint_daily_stats")
    kept = {table: rows(f"SELECT * FROM {table}") for table in tables}
    for _ in range(3):
        gateway.append(request())
    world.figures()
    world.write()
    for table, old in kept.items():
        rows(f"DELETE FROM {table}")
        for row in old:
            rows(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(row))})", *row)
    rows("UPDATE endpoints SET total_requests = 1, successful_requests = 1 WHERE id = %s", A)
    gateway.append(request())
    world.figures()
    world.write()
    assert "a backup was restored" in caplog.text
    assert same(world.figures(), restored())


@only_sqlite
@pytest.mark.parametrize(("field", "value"), [("id", "rec-17"), ("completed_at", "2020-13-45T00:00:00+00:00")])
def test_retention_finishes_with_unusual_adopted_rows(field: str, value: str) -> None:
    adopted(ago=86400 * 30)
    adopted(ago=86400 * 31, number=2)
    rows(f"UPDATE request_history SET {field} = %s WHERE id = (SELECT min(id) FROM request_history)", value)
    assert tasks.prune_history() == 2
    assert not RequestHistory.objects.exists()


def test_an_endpoint_deleted_while_its_page_is_rendered_is_not_found(
    as_admin: Api, shown_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = add_endpoint(A, "a")

    def delete() -> None:
        made.delete()
        registry.reload()

    monkeypatch.setattr("metrics.pages.endpoint.flushed", delete)
    assert as_admin.get(f"/endpoints/{A}").status_code == 404


def test_an_open_page_ends_when_its_password_must_be_changed(admin: User) -> None:
    request = RequestFactory().get("/")
    request.session = session_of(admin).session
    access.reload()
    with ThreadPoolExecutor(1) as elsewhere:  # as it is read, so that this test keeps its connection
        assert elsewhere.submit(events._still_logged_in, request).result()
        admin.must_change_password = True
        admin.save()
        access.reload()
        assert not elsewhere.submit(events._still_logged_in, request).result()


def test_fields_that_the_database_cannot_store_are_a_bad_request(as_admin: Api) -> None:
    deep = "[" * 100_000
    for path in ("/api/endpoints", "/api/me/api-keys"):
        response = as_admin.generic("POST", path, deep, content_type="application/json")
        assert (response.status_code, response.json()) == (400, {"error": "The JSON is nested too deeply."})
    response = as_admin.call(
        "POST", "/api/endpoints", {"name": "x", "base_url": "http://x", "operator_state": "\ud800"}
    )
    assert response.status_code == 400
