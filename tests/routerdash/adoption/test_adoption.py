"""Adopting a database of llmlb changes none of its data, gives all figures, and can be undone."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.process import free_port
from metrics.counting.token_details import DETAIL_COLUMNS
from routerdash.adoption import adoption, llmlb_schema
from routerdash.adoption.adoption import CannotAdopt
from tests.metrics.records import NOW
from tests.reference.llmlb_again import COUNTERS, DAILY, HISTORY, serve_again
from tests.reference.make_reference_db import make
from tests.routerdash.adoption.added_columns import ADDED
from tests.routerdash.commands import Done, manage, one_line, python

SEEDS = (1, 2)
OURS = {"outcome", "status_code", "kind", "duration_us", "first_token_us", "tokens_estimated", "streamed", "attempts"}


class Adopted(NamedTuple):
    """An adopted database, and its expected figures."""

    path: Path
    data_dir: Path
    original: Path  # as it was before
    expected: dict[str, Any]
    done: Done


def adopt(path: Path, data_dir: Path, *options: str, database: str = "") -> Done:
    return manage(
        "adopt",
        *options,
        ROUTERDASH_DATA_DIR=str(data_dir),
        DATABASE_URL=database or f"sqlite:///{path}",
        ROUTERDASH_LOG_LEVEL="error",
    )


@pytest.fixture(scope="module", params=SEEDS)
def adopted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adopted:
    """An adopted database that tests only read: see `own` for one to change."""
    directory = tmp_path_factory.mktemp("adopted")
    path = directory / "load balancer.db"
    expected = make(path, seed=request.param, requests=120, now=NOW, zone=UTC)
    original = directory / "original.db"
    shutil.copy(path, original)
    return Adopted(path, directory / "data", original, expected, adopt(path, directory / "data"))


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A small database that was not changed."""
    path = tmp_path / "llmlb.db"
    make(path, requests=20, now=NOW, zone=UTC)
    return path


@pytest.fixture(scope="module")
def taken_over(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("taken")
    path = directory / "llmlb.db"
    make(path, requests=20, now=NOW, zone=UTC)
    assert adopt(path, directory / "data").code == 0
    create_triggers = python(
        "from endpoints.changes import triggers; triggers.ensure()",
        ROUTERDASH_DATA_DIR=str(directory / "data"),
        DATABASE_URL=f"sqlite:///{path}",
    )
    assert create_triggers == Done(0, "", "")
    return path


@pytest.fixture
def own(taken_over: Path, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """An adopted database as llmlb opens it, to change."""
    shutil.copy(taken_over, tmp_path / "own.db")
    with closing(sqlite3.connect(tmp_path / "own.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        yield connection


def read(path: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(sql, values).fetchall()


def objects(path: Path) -> dict[str, str | None]:
    """Return every table, index and trigger with its declaration."""
    return dict(read(path, "SELECT type || ' ' || name, sql FROM sqlite_master"))


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


# Data of llmlb


def test_an_adoption_succeeds(adopted: Adopted) -> None:
    assert (adopted.done.code, adopted.done.err) == (0, "")
    assert adopted.done.out.endswith("now belongs to RouterDash; start it with `manage.py serve`\n")


def test_tables_of_llmlb_keep_their_declarations(adopted: Adopted) -> None:
    before, after = objects(adopted.original), objects(adopted.path)
    changed = {name for name in before if after.get(name) != before[name]}
    assert changed == {"table request_history", *(f"table {table}" for table in ADDED)}


@pytest.mark.parametrize(("table", "columns"), ADDED.items())
def test_a_table_has_more_columns_only(adopted: Adopted, table: str, columns: dict[str, str]) -> None:
    before, after = (objects(path)[f"table {table}"] for path in (adopted.original, adopted.path))
    assert after is not None
    assert after.replace("".join(f', "{name}" {kind}' for name, kind in columns.items()), "") == before


def test_the_history_has_additional_columns_only(adopted: Adopted) -> None:
    before, after = (objects(path)["table request_history"] for path in (adopted.original, adopted.path))
    assert before is not None
    assert after is not None
    assert after.startswith(before.rstrip(")").rstrip())


@pytest.mark.parametrize(("table", "names"), [("request_history", OURS), *ADDED.items()])
def test_our_columns_are_nullable_without_a_default(adopted: Adopted, table: str, names: Collection[str]) -> None:
    columns = read(adopted.path, f"PRAGMA table_info({table})")
    ours = {row[1]: (row[3], row[4]) for row in columns if row[1] in names}
    assert ours == dict.fromkeys(names, (0, None))


def test_rows_of_llmlb_are_unchanged(adopted: Adopted) -> None:
    tables = [name.removeprefix("table ") for name in objects(adopted.original) if name.startswith("table ")]
    for table in set(tables) - {"sqlite_sequence"}:
        columns = ", ".join(f'"{row[1]}"' for row in read(adopted.original, f'PRAGMA table_info("{table}")'))
        sql = f'SELECT {columns} FROM "{table}"'
        assert read(adopted.path, sql) == read(adopted.original, sql), table


def test_llmlb_would_accept_the_database(adopted: Adopted) -> None:
    with closing(sqlite3.connect(adopted.path)) as connection:
        assert llmlb_schema.differences(connection) == []


def test_the_file_passes_the_integrity_check(adopted: Adopted) -> None:
    assert read(adopted.path, "PRAGMA integrity_check") == [("ok",)]
    assert read(adopted.path, "PRAGMA foreign_key_check") == []


def test_a_copy_is_made_first(adopted: Adopted) -> None:
    (copy,) = (adopted.data_dir / "backups").iterdir()
    assert copy.name.startswith("load balancer-before-adopt-")
    assert dump(copy) == dump(adopted.original)
    assert f"copied to {copy}" in adopted.done.out


def test_an_adoption_reports_the_contents(adopted: Adopted) -> None:
    for line in ("endpoints: 4 rows", "request_history: 120 rows", "users: 2 rows", "api_keys: 3 rows"):
        assert f"{line}\n" in adopted.done.out
    assert "1 API keys of endpoints are in plain text" in adopted.done.out
    assert "sk-upstream-secret" not in adopted.done.out


def test_all_migrations_are_applied(adopted: Adopted) -> None:
    environment = {"ROUTERDASH_DATA_DIR": str(adopted.data_dir), "DATABASE_URL": f"sqlite:///{adopted.path}"}
    assert manage("migrate", "--check", **environment).code == 0


# The figures

FIGURES = """
import json, time_machine
from datetime import datetime
from metrics.queries import figures as queries, stored
from metrics.queries.figures import Moment
from metrics.storage import seeding
from access.directory import access, read_key_entries
from django.contrib.auth import authenticate
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.BCryptPasswordHasher"]
with time_machine.travel(datetime.fromisoformat("%s"), tick=False):
    seeding.seed()
    moment = Moment.now()
    told = queries.overview(moment)
    told["model_tps"] = [{"endpoint_id": entry.id, **row} for entry, row in queries.all_model_tps(moment)]
    told["daily"] = {row["id"]: stored.daily_stats(row["id"], 365, moment.figures.date) for row in told["endpoints"]}
told["users"] = {name: bool(authenticate(username=name, password=word)) for name, word in json.loads('''%s''').items()}
keys = read_key_entries(access.users())
told["keys"] = {key.id: [key.hash, sorted(key.permissions), key.expires_at] for key in keys}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def reported(adopted: Adopted) -> Any:
    """Return the figures of RouterDash at the time at which llmlb stopped."""
    code = FIGURES % (NOW.isoformat(), json.dumps(adopted.expected["users"]))
    done = python(code, ROUTERDASH_DATA_DIR=str(adopted.data_dir), DATABASE_URL=f"sqlite:///{adopted.path}")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_counters_and_latencies(adopted: Adopted, reported: Any) -> None:
    names = ("id", "total_requests", "successful_requests", "failed_requests", "latency_ms")
    endpoints = {row["name"]: {name: row[name] for name in names} for row in reported["endpoints"]}
    assert endpoints == adopted.expected["endpoints"]


def test_totals_include_the_endpoints_deleted_long_ago(adopted: Adopted, reported: Any) -> None:
    present = sum(endpoint["total_requests"] for endpoint in adopted.expected["endpoints"].values())
    deleted = adopted.expected["deleted_endpoint"]["total_requests"]
    assert reported["stats"]["total_requests"] == present + deleted == 127
    assert reported["stats"]["successful_requests"] + reported["stats"]["failed_requests"] == 127


def test_tokens(adopted: Adopted, reported: Any) -> None:
    ((tokens_in, tokens_out),) = read(
        adopted.original, "SELECT SUM(input_tokens), SUM(output_tokens) FROM request_history"
    )
    assert (reported["stats"]["total_input_tokens"], reported["stats"]["total_output_tokens"]) == (
        tokens_in,
        tokens_out,
    )


def test_speeds_of_today(adopted: Adopted, reported: Any) -> None:
    names = ("endpoint_id", "model_id", "api_kind", "tps")
    speeds = [{name: row[name] for name in names} for row in reported["model_tps"] if row["tps"] is not None]
    assert speeds
    by_key = sorted(speeds, key=lambda row: (row["endpoint_id"], row["model_id"], row["api_kind"]))
    assert by_key == sorted(
        adopted.expected["tps_today"], key=lambda row: (row["endpoint_id"], row["model_id"], row["api_kind"])
    )


def test_the_timeline(adopted: Adopted, reported: Any) -> None:
    minutes = {slot["minute"]: {"success": slot["success"], "error": slot["error"]} for slot in reported["history"]}
    assert minutes == adopted.expected["minutes"]


def test_the_average_is_over_the_last_day(adopted: Adopted, reported: Any) -> None:
    rows = read(adopted.original, "SELECT completed_at, duration_ms FROM request_history WHERE status = 'success'")
    start = (NOW.timestamp() // 60 - 24 * 60 + 1) * 60
    recent = [duration for moment, duration in rows if datetime.fromisoformat(moment).timestamp() >= start]
    assert reported["stats"]["average_response_time_ms"] == pytest.approx(sum(recent) / len(recent))


def test_daily_rows(adopted: Adopted, reported: Any) -> None:
    for endpoint_id, days in reported["daily"].items():
        sql = "SELECT date, SUM(total_requests) FROM endpoint_daily_stats WHERE endpoint_id = ? GROUP BY 1 ORDER BY 1"
        assert [(day["date"], day["total_requests"]) for day in days] == read(adopted.original, sql, endpoint_id)


def test_all_users_can_log_in(adopted: Adopted, reported: Any) -> None:
    assert reported["users"] == dict.fromkeys(adopted.expected["users"], True)


def test_api_keys_keep_their_permissions(adopted: Adopted, reported: Any) -> None:
    for key in adopted.expected["api_keys"].values():
        hashed, permissions, expires = reported["keys"][key["id"]]
        assert permissions == sorted(key["permissions"])
        assert (expires is not None) == key["expired"]
        assert read(adopted.path, "SELECT id FROM api_keys WHERE key_hash = ?", hashed) == [(key["id"],)]


def test_the_baseline_equals_the_earlier_counts(adopted: Adopted) -> None:
    differing = read(
        adopted.path,
        "SELECT e.name FROM endpoints e LEFT JOIN endpoint_baselines b ON b.endpoint_id = e.id "
        "WHERE b.total_requests IS NOT e.total_requests OR b.failed_requests IS NOT e.failed_requests "
        "OR b.daily_total <> (SELECT COALESCE(SUM(total_requests), 0) FROM endpoint_daily_stats d "
        "WHERE d.endpoint_id = e.id)",
    )
    assert differing == []


def test_reconcile_finds_no_difference(adopted: Adopted) -> None:
    environment = {"ROUTERDASH_DATA_DIR": str(adopted.data_dir), "DATABASE_URL": f"sqlite:///{adopted.path}"}
    done = manage("reconcile", "--thorough", **environment)
    assert (done.code, done.out.splitlines()[-1]) == (0, "all figures agree")


def test_the_initial_totals_are_stored(adopted: Adopted) -> None:
    stored = dict(read(adopted.path, "SELECT name, value FROM metric_totals"))
    for name in ("requests_ok", "requests_failed", "input_tokens", "output_tokens"):
        assert stored["adopted:" + name] == stored[name] > 0


LOAD = """
import time_machine
time_machine.travel("2026-03-10T12:00:30+00:00", tick=False).start()
from metrics.memory.runtime import runtime
from metrics.storage import database, seeding
from metrics.storage.writer import DatabaseWriter
from gateway.ipc import journal
from tests.metrics import laws, records
from tests.metrics.world import where, same, restored
from endpoints.models import Endpoint
records.A, records.B = map(str, Endpoint.objects.values_list("id", flat=True)[:2])
seeding.seed()
gateway = journal.Writer(config.journal_dir, runtime.follower.database_id)
for entry in records.load(1, 200, seconds=7200):
    gateway.append(entry)
writer = DatabaseWriter(runtime.follower, config.zone, where)
while writer.step().moves:
    pass
runtime.follower.catch_up()
laws.check_sums(); laws.check_daily_rows(); laws.check_hours(); laws.check_clients()
laws.check_timeline(runtime.trackers.figures(records.AT))
assert same(restored(), runtime.trackers.figures(records.AT))
print(Endpoint.objects.get(pk=records.A).total_requests)
from django.core.management import call_command
call_command("reconcile")
"""


def test_the_laws_hold_with_further_requests(taken_over: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    shutil.copy(taken_over, path)
    done = python(LOAD, ROUTERDASH_DATA_DIR=str(tmp_path / "data"), DATABASE_URL=f"sqlite:///{path}")
    assert done.code == 0, done.out
    assert int(done.out.splitlines()[0]) > 50
    assert done.out.endswith("\nall figures agree\n")


# llmlb continues with the database


def first_endpoint(own: sqlite3.Connection) -> str:
    (endpoint_id,) = own.execute("SELECT endpoint_id FROM endpoint_models LIMIT 1").fetchone()
    return str(endpoint_id)


def test_llmlb_can_add_an_endpoint(own: sqlite3.Connection) -> None:
    own.execute(
        "INSERT INTO endpoints (id, name, base_url, api_key_encrypted, status, health_check_interval_secs, "
        "inference_timeout_secs, latency_ms, last_seen, last_error, error_count, registered_at, notes, capabilities, "
        "endpoint_type) VALUES ('11111111-0000-4000-8000-000000000001', 'new', 'http://new', NULL, 'pending', 30, 120, "
        "NULL, NULL, NULL, 0, '2026-03-10T12:00:00+00:00', NULL, '[\"chat_completion\"]', 'vllm')"
    )
    cursor = own.execute("SELECT total_requests, failed_requests, device_info FROM endpoints WHERE name = 'new'")
    assert cursor.fetchone() == (0, 0, None)


def test_llmlb_can_rely_on_its_defaults(own: sqlite3.Connection) -> None:
    own.execute("INSERT INTO endpoints (id, name, base_url, registered_at) VALUES ('1', 'new', 'http://new', 'now')")
    cursor = own.execute("SELECT status, health_check_interval_secs, capabilities FROM endpoints WHERE name = 'new'")
    assert cursor.fetchone() == ("pending", 30, '["chat_completion"]')


def test_llmlb_can_delete_an_endpoint(own: sqlite3.Connection) -> None:
    endpoint_id = first_endpoint(own)
    own.execute("INSERT INTO endpoint_options (endpoint_id, operator_state) VALUES (?, 'enabled')", (endpoint_id,))
    own.execute("DELETE FROM endpoints WHERE id = ?", (endpoint_id,))
    for table in ("endpoint_models", "endpoint_health_checks"):
        assert own.execute(f"SELECT count(*) FROM {table} WHERE endpoint_id = ?", (endpoint_id,)).fetchone() == (0,)
    assert own.execute("SELECT count(*) FROM endpoint_daily_stats WHERE endpoint_id = ?", (endpoint_id,)).fetchone()[0]


def test_llmlb_can_delete_a_user_who_used_our_admin(own: sqlite3.Connection) -> None:
    (user_id,) = own.execute("SELECT id FROM users WHERE role = 'admin'").fetchone()
    own.execute(
        "INSERT INTO django_admin_log (action_time, object_repr, action_flag, change_message, user_id) "
        "VALUES ('2026-03-10 12:00:00', 'a', 1, '', ?)",
        (user_id,),
    )
    own.execute("DELETE FROM users WHERE id = ?", (user_id,))
    assert own.execute("SELECT count(*) FROM api_keys WHERE created_by = ?", (user_id,)).fetchone() == (0,)


def test_llmlb_can_count_a_day(own: sqlite3.Connection) -> None:
    upsert = (
        "INSERT INTO endpoint_daily_stats (endpoint_id, model_id, date, total_requests, successful_requests, "
        "failed_requests, total_output_tokens, total_duration_ms, api_kind) VALUES (?, 'm', '2026-03-10', 1, 1, 0, 5, "
        "7, 'responses') ON CONFLICT(endpoint_id, model_id, date, api_kind) DO UPDATE SET total_requests = "
        "total_requests + 1, successful_requests = successful_requests + excluded.successful_requests, "
        "total_output_tokens = total_output_tokens + excluded.total_output_tokens"
    )
    for _ in range(2):
        own.execute(upsert, (first_endpoint(own),))
    cursor = own.execute("SELECT total_requests, total_output_tokens FROM endpoint_daily_stats WHERE model_id = 'm'")
    assert cursor.fetchall() == [(2, 10)]


def test_llmlb_can_write_history(own: sqlite3.Connection) -> None:
    own.execute(
        "INSERT INTO request_history (id, timestamp, request_type, model, endpoint_id, endpoint_name, endpoint_ip, "
        "client_ip, request_body, response_body, duration_ms, status, error_message, completed_at, input_tokens, "
        "output_tokens, total_tokens, api_key_id) VALUES ('22222222-0000-4000-8000-000000000002', "
        "'2026-03-10T12:00:00.123456789+00:00', 'Chat', 'm', '1', 'e', '0.0.0.0', NULL, '{}', NULL, 5, 'success', "
        "NULL, '2026-03-10T12:00:00.123456789+00:00', NULL, NULL, NULL, NULL)"
    )
    assert own.execute("SELECT outcome FROM request_history WHERE model = 'm'").fetchall() == [(None,)]


def test_llmlb_can_update_a_status(own: sqlite3.Connection) -> None:
    endpoint_id = first_endpoint(own)
    own.execute(
        "UPDATE endpoints SET status = 'offline', latency_ms = NULL, last_error = 'gone', error_count = 2, "
        "total_requests = total_requests + 1 WHERE id = ?",
        (endpoint_id,),
    )
    assert own.execute("SELECT status FROM endpoints WHERE id = ?", (endpoint_id,)).fetchone() == ("offline",)


def test_changes_of_llmlb_are_logged(own: sqlite3.Connection) -> None:
    """Also the rows that its foreign keys delete."""
    (user_id,) = own.execute("SELECT id FROM users WHERE role = 'admin'").fetchone()
    keys = {("key", key) for (key,) in own.execute("SELECT key_hash FROM api_keys WHERE created_by = ?", (user_id,))}
    endpoint_id = first_endpoint(own)
    own.execute("DELETE FROM registry_changes")
    own.execute("DELETE FROM users WHERE id = ?", (user_id,))
    own.execute("DELETE FROM endpoints WHERE id = ?", (endpoint_id,))
    assert keys
    changes = set(own.execute("SELECT kind, object_id FROM registry_changes"))
    assert changes == keys | {("user", user_id), ("endpoint", endpoint_id)}


def test_triggers_of_llmlb_still_guard_names(own: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="API key name already exists for this user"):
        own.execute(
            "INSERT INTO api_keys (id, key_hash, name, created_by, created_at) "
            "SELECT '3', 'another hash', name, created_by, created_at FROM api_keys LIMIT 1"
        )


# Dry runs


def test_a_dry_run_changes_not_a_byte(original: Path, tmp_path: Path) -> None:
    before = original.read_bytes()
    done = adopt(original, tmp_path / "data", "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert "request_history: 20 rows" in done.out
    assert done.out.endswith("dry run: nothing was changed\n")
    assert original.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llmlb.db"]


def test_a_dry_run_reports_the_contents(original: Path) -> None:
    contents = adoption.inspect(original)
    assert (contents.adopted, contents.plain_keys) == (False, 1)
    assert contents.rows["endpoints"] == 4
    assert set(contents.rows) == set(llmlb_schema.MAPPED)


def refusal(path: Path) -> str:
    with pytest.raises(CannotAdopt) as error:
        adoption.inspect(path)
    return str(error.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "nothing.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + b"x" * 5000, b"this is a text file " * 500])
def test_a_file_that_is_not_a_database_of_llmlb_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.db"
    path.write_bytes(content)
    assert refusal(path)
    assert path.read_bytes() == content


def test_another_applications_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE users (id)")
    assert "is not a database of llmlb" in refusal(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE endpoints RENAME COLUMN notes TO remarks", "endpoints.notes is missing"),
        ("ALTER TABLE endpoint_daily_stats RENAME COLUMN api_kind TO kind", "endpoint_daily_stats.api_kind is missing"),
        ("DROP TABLE settings", "table settings is missing"),
    ],
)
def test_a_changed_table_is_refused_and_reported(original: Path, change: str, named: str) -> None:
    with closing(sqlite3.connect(original)) as connection:
        connection.execute(change)
    reason = refusal(original)
    assert reason.startswith("its tables are not as expected; nothing was changed:\n")
    assert f"  {named}" in reason


def test_a_damaged_file_is_refused(original: Path) -> None:
    content = bytearray(original.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    original.write_bytes(content)
    assert str(original) in refusal(original)


@pytest.mark.parametrize("statement", ["SELECT count(*) FROM endpoints", "BEGIN IMMEDIATE"])
def test_a_file_that_another_process_has_open_is_refused(original: Path, statement: str) -> None:
    code = (
        f"import sqlite3, sys; it = sqlite3.connect({str(original)!r}, isolation_level=None); "
        f"it.execute({statement!r}).fetchall(); print('open', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"open\n"
    try:
        assert refusal(original) == f"{original} is in use by process {holder.pid}; stop it first"
    finally:
        holder.communicate()
    assert adoption.inspect(original)


def test_a_file_that_is_locked_is_refused(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "_processes_with", lambda path: [])  # as on systems without /proc
    with closing(sqlite3.connect(original, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        assert "cannot be locked (database is locked)" in refusal(original)


# The command


@pytest.mark.parametrize("kind", ["missing", "changed", "text", "PostgreSQL"])
def test_a_refusal_is_one_clear_line_and_code_2(original: Path, tmp_path: Path, kind: str) -> None:
    database = ""
    if kind == "missing":
        original.unlink()
    elif kind == "changed":
        with closing(sqlite3.connect(original)) as connection:
            connection.execute("ALTER TABLE endpoints RENAME COLUMN notes TO remarks")
    elif kind == "text":
        original.write_text("a text file " * 1000)
    else:
        database = "postgres://postgres@127.0.0.1/nowhere"
    done = adopt(original, tmp_path / "data", database=database)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("adopt: ")
    assert "Traceback" not in done.err
    assert kind == "changed" or one_line(done.err)
    assert not (tmp_path / "data").exists()


def test_a_second_run_reports_that_the_adoption_is_done(taken_over: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    shutil.copy(taken_over, path)
    before = dump(path)
    done = adopt(path, tmp_path / "data")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("this database already belongs to RouterDash\n")
    assert "copied to" not in done.out
    assert dump(path) == before


@pytest.mark.parametrize("table", ["rollup_days", "django_q_task", "endpoint_options"])
def test_a_failure_during_the_adoption_restores_the_copy(original: Path, tmp_path: Path, table: str) -> None:
    with closing(sqlite3.connect(original)) as connection:
        connection.execute(f"CREATE TABLE {table} (of_somebody_else)")
    before = dump(original)
    done = adopt(original, tmp_path / "data")
    assert done.code == 2
    assert one_line(done.err)
    assert done.err.startswith("adopt: the adoption failed and the database was restored from its copy: ")
    assert dump(original) == before
    assert read(original, "PRAGMA integrity_check") == [("ok",)]


def test_an_adoption_can_be_repeated_after_a_failure(original: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(original)) as connection:
        connection.execute("CREATE TABLE rollup_days (of_somebody_else)")
    assert adopt(original, tmp_path / "data").code == 2
    with closing(sqlite3.connect(original)) as connection:
        connection.execute("DROP TABLE rollup_days")
    assert adopt(original, tmp_path / "data").code == 0


# Upstream keys

SECRETS = """
from endpoints.models import Endpoint
print([endpoint.api_key for endpoint in Endpoint.objects.order_by("name") if endpoint.api_key])
"""


def secrets(path: Path, data_dir: Path) -> str:
    done = python(SECRETS, ROUTERDASH_DATA_DIR=str(data_dir), DATABASE_URL=f"sqlite:///{path}")
    assert done.code == 0, done.err
    return done.out


def test_keys_stay_in_plain_text_by_default(adopted: Adopted) -> None:
    plain = read(adopted.path, "SELECT api_key_encrypted FROM endpoints WHERE api_key_encrypted IS NOT NULL")
    assert plain == [("sk-upstream-secret",)]


def test_keys_are_sealed_on_request(original: Path, tmp_path: Path) -> None:
    done = adopt(original, tmp_path / "data", "--encrypt-keys")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("1 keys are sealed; llmlb can no longer read them\n")
    assert read(original, "SELECT count(*) FROM endpoints WHERE api_key_encrypted IS NOT NULL") == [(0,)]
    ((sealed,),) = read(original, "SELECT sealed_api_key FROM endpoint_options")
    assert "sk-upstream" not in sealed
    assert secrets(original, tmp_path / "data") == "['sk-upstream-secret']\n"


def test_keys_can_be_sealed_later(taken_over: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    shutil.copy(taken_over, path)
    done = adopt(path, tmp_path / "data", "--encrypt-keys")
    assert (done.code, done.err) == (0, "")
    assert secrets(path, tmp_path / "data") == "['sk-upstream-secret']\n"
    again = adopt(path, tmp_path / "data", "--encrypt-keys")
    assert (again.code, "sealed" in again.out) == (0, False)


def test_a_dry_run_seals_nothing(taken_over: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    shutil.copy(taken_over, path)
    assert adopt(path, tmp_path / "data", "--encrypt-keys", "--dry-run").code == 0
    assert dump(path) == dump(taken_over)


@pytest.mark.parametrize("step", ["_mark_as_done", "_set_baselines"])
def test_a_killed_adoption_is_repeated_first(original: Path, tmp_path: Path, step: str) -> None:
    settings = {"ROUTERDASH_DATA_DIR": str(tmp_path / "data"), "DATABASE_URL": f"sqlite:///{original}"}
    code = f"""
import os
from django.conf import settings
from routerdash.adoption import adoption
step = adoption.{step}
adoption.{step} = lambda *_: (step() if {step == "_mark_as_done"} else None, os._exit(9))
adoption.adopt(settings.ROUTERDASH, settings.ROUTERDASH.database_path, print)
"""
    assert python(code, **settings).code == 9
    # Not on the default port, which the machine may have given to another connection.
    started = manage("serve", ROUTERDASH_PORT=str(free_port()), **settings)
    assert "run `manage.py adopt` again" in started.err
    assert started.code == 2
    assert adopt(original, tmp_path / "data").code == 0
    with closing(sqlite3.connect(original)) as database:
        assert database.execute("SELECT count(*) FROM installation WHERE adopted_at IS NOT NULL").fetchone() == (1,)
        assert database.execute("SELECT value FROM metric_totals WHERE name = 'requests_ok'").fetchone()[0] > 0


def test_a_dry_run_keeps_the_wal_of_a_killed_process(original: Path, tmp_path: Path) -> None:
    code = f"""
import os, sqlite3
database = sqlite3.connect({str(original)!r}, isolation_level=None)
database.execute("PRAGMA journal_mode=WAL")
database.execute("UPDATE endpoints SET notes = 'in the WAL'")
os._exit(9)
"""
    assert python(code).code == 9
    before = original.read_bytes()
    assert adopt(original, tmp_path / "data", "--dry-run").code == 0
    assert original.read_bytes() == before


def test_a_copy_that_cannot_be_restored_is_reported(original: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotAdopt, match="could not be restored"):
        adoption._put_back(original, tmp_path)


# Indexes


def of_the_history(path: Path) -> set[str]:
    return {
        row[0] for row in read(path, "SELECT name FROM sqlite_master WHERE tbl_name = 'request_history' AND sql > ''")
    }


def test_indexes_of_llmlb_stay_by_default(adopted: Adopted) -> None:
    assert of_the_history(adopted.original) <= of_the_history(adopted.path)
    assert "9 indexes of request_history are used by no page and slow down each request" in adopted.done.out


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A database adopted without llmlb's indexes."""
    directory = tmp_path_factory.mktemp("slim")
    path = directory / "llmlb.db"
    make(path, requests=20, now=NOW, zone=UTC)
    return path, adopt(path, directory / "data", "--drop-indexes")


def test_indexes_are_dropped_on_request(slim: tuple[Path, Done]) -> None:
    path, done = slim
    assert done.code == 0, done.err
    assert {name for name in of_the_history(path) if name.startswith("idx_")} == set()
    assert {"history_completed", "history_endpoint", "history_adopted", "history_failed"} < of_the_history(path)
    assert "writing a request takes" in done.out
    assert read(path, "SELECT count(*) FROM request_history") == [(20,)]


def test_dropped_indexes_can_be_created_again(slim: tuple[Path, Done], tmp_path: Path) -> None:
    path, done = slim
    shutil.copy(path, tmp_path / "again.db")
    original = tmp_path / "original.db"
    make(original, requests=1, now=NOW, zone=UTC)
    with closing(sqlite3.connect(tmp_path / "again.db")) as connection:
        for line in done.out.splitlines():
            if line.startswith("dropped an index; to create it again: "):
                connection.execute(line.partition(": ")[2])
    assert of_the_history(original) <= of_the_history(tmp_path / "again.db")


def test_indexes_can_be_dropped_later(taken_over: Path, tmp_path: Path) -> None:
    path = tmp_path / "later.db"
    shutil.copy(taken_over, path)
    assert adopt(path, tmp_path / "data", "--dry-run", "--drop-indexes").code == 0
    assert "idx_request_history_model" in of_the_history(path)
    assert adopt(path, tmp_path / "data", "--drop-indexes").code == 0
    assert "idx_request_history_model" not in of_the_history(path)
    again = adopt(path, tmp_path / "data", "--drop-indexes")
    assert (again.code, "dropped" in again.out) == (0, False)


# Figures computed from the history

ROLL_UPS = (
    "rollup_minutes",
    "rollup_days",
    "rollup_months",
    "rollup_client_hours",
    "rollup_client_days",
    "rollup_all_clients",
)
COUNTED = (*ROLL_UPS, "metric_totals", "endpoint_baselines", "adopted_days")


def counted(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row with figures."""
    return {table: sorted(read(path, f"SELECT * FROM {table}"), key=str) for table in COUNTED}


def test_days_months_and_keys_have_the_requests_and_tokens_of_its_history(adopted: Adopted) -> None:
    figures = "SUM(requests_ok), SUM(requests_failed), SUM(input_tokens), SUM(output_tokens)"
    rows = "SUM(status = 'success'), SUM(status <> 'success'), SUM(input_tokens), SUM(output_tokens)"
    for table, key, of_row in (
        ("rollup_days", "date", "substr(completed_at, 1, 10)"),
        ("rollup_months", "month", "substr(completed_at, 1, 7)"),
        ("rollup_days", "api_key_id", "api_key_id"),
        ("rollup_days", "model", "model"),
        ("rollup_days", "endpoint_id", "endpoint_id"),
    ):
        sums = read(adopted.path, f"SELECT {key}, {figures} FROM {table} GROUP BY 1 ORDER BY 1")
        assert sums == read(adopted.original, f"SELECT {of_row}, {rows} FROM request_history GROUP BY 1 ORDER BY 1")


def test_clients_have_the_requests_of_its_history(adopted: Adopted) -> None:
    sent = "SUM(requests_ok + requests_failed), SUM(output_tokens)"
    expected = read(
        adopted.original,
        "SELECT client_ip, count(*), SUM(COALESCE(output_tokens, 0)) FROM request_history GROUP BY 1 ORDER BY 1",
    )
    for table in ("rollup_client_hours", "rollup_client_days"):
        assert read(adopted.path, f"SELECT client_ip, {sent} FROM {table} GROUP BY 1 ORDER BY 1") == expected


def test_an_adoption_reports_the_number_of_counted_requests(adopted: Adopted) -> None:
    assert "counted 120 requests of llmlb in clients, usage and totals\n" in adopted.done.out


ADOPT_IN_BATCHES = """
import os, itertools
from django.conf import settings
from metrics.storage import rollups
from routerdash.adoption import adoption, history
history.BATCH = 4
calls, write = itertools.count(1), rollups.%(step)s
def killed(*arguments):
    write(*arguments)
    if next(calls) == %(call)d:
        os._exit(9)
rollups.%(step)s = killed
adoption.adopt(settings.ROUTERDASH, settings.ROUTERDASH.database_path, print)
"""


@pytest.mark.parametrize("step", ["upsert_days", "upsert_clients"])
@pytest.mark.parametrize("call", [1, 4])
def test_an_adoption_killed_while_counting_counts_no_request_twice(
    original: Path, taken_over: Path, tmp_path: Path, step: str, call: int
) -> None:
    settings = {"ROUTERDASH_DATA_DIR": str(tmp_path / "data"), "DATABASE_URL": f"sqlite:///{original}"}
    assert python(ADOPT_IN_BATCHES % {"step": step, "call": call}, **settings).code == 9
    assert len(read(original, "SELECT * FROM rollup_days")) < len(read(taken_over, "SELECT * FROM rollup_days"))
    done = python(ADOPT_IN_BATCHES % {"step": step, "call": 10**9}, **settings)
    assert done.code == 0, done.err
    assert counted(original) == counted(taken_over)
    assert "all figures agree" in manage("reconcile", **settings).out


LEARNING = ("learning_speeds", "learning_lengths", "learning_starts", "learning_past", "learning_loads")


OWN_TABLES = (
    "rollup_served_days", "prices", "currency_rates", "rollup_cost_keys", "rollup_cost_sums", "hardware_rates",
    "hardware_work", "hardware_batches", "hardware_due", "hardware_positions", "hardware_hours", "rollup_hardware_days",
    "api_key_last_uses", "rollup_refused_days",
)  # fmt: skip
LATER_COLUMNS = (
    ("request_history", "conversation"),
    ("request_history", "queue_class"),
    ("installation", "notices"),
    ("installation", "details_since"),
    ("installation", "key_use_since"),
    *((table, column) for table in ("rollup_minutes", "rollup_days", "rollup_months") for column in DETAIL_COLUMNS),
)


def make_older(path: Path) -> None:
    """Change the database to one of a release that did not count the history."""
    with closing(sqlite3.connect(path)) as db:
        for table in ROLL_UPS:
            db.execute(f"DELETE FROM {table}")
        for table in ("adopted_days", "adopted_history", *OWN_TABLES, *LEARNING):
            db.execute(f"DROP TABLE {table}")
        db.executescript("DROP INDEX history_conversation; DROP VIEW rollup_cost_days")
        for table, column in LATER_COLUMNS:
            db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        db.execute("DELETE FROM metric_totals WHERE name LIKE 'pruned_adopted:%' OR name LIKE 'answers%'")
        db.execute("DELETE FROM django_migrations WHERE app = 'metrics' AND name >= '0011'")
        db.commit()


START = """
import logging, sys
logging.basicConfig(stream=sys.stdout, level="INFO")
from routerdash.processes import data_directory, prepare
data_directory.create(config)
prepare.migrate(config)
"""


def test_an_older_adoption_has_the_same_figures_after_its_upgrade(taken_over: Path, tmp_path: Path) -> None:
    path = tmp_path / "older.db"
    shutil.copy(taken_over, path)
    make_older(path)
    settings = {"ROUTERDASH_DATA_DIR": str(tmp_path / "data"), "DATABASE_URL": f"sqlite:///{path}"}
    for reported in (True, False):  # the second start has no work left
        done = python(START, **settings)
        assert done.code == 0, done.err
        assert ("counted 20 requests of llmlb" in done.out) is reported
        assert counted(path) == counted(taken_over)
        assert "all figures agree" in manage("reconcile", "--thorough", **settings).out


def test_requests_of_llmlb_after_an_older_adoption_are_counted_at_the_upgrade(taken_over: Path, tmp_path: Path) -> None:
    path = tmp_path / "older.db"
    shutil.copy(taken_over, path)
    make_older(path)
    before = dict(read(path, "SELECT name, value FROM metric_totals"))
    with closing(sqlite3.connect(path)) as db:
        ((endpoint_id,),) = db.execute("SELECT id FROM endpoints WHERE total_requests > 0 LIMIT 1").fetchall()
        now = datetime.now(UTC)
        db.execute(
            HISTORY,
            ("22222222-0000-4000-8000-000000000002", now.isoformat(), "Chat", "m", endpoint_id, "e", "0.0.0.0",
             "10.9.9.9", "{}", None, 5, "success", None, now.isoformat(), 3, 4, 7, None),
        )  # fmt: skip
        db.execute(COUNTERS, (1, 0, endpoint_id))
        db.execute(DAILY, (endpoint_id, "m", now.date().isoformat(), 1, 0, 4, 5, "chat_completions"))
        db.commit()
    settings = {"ROUTERDASH_DATA_DIR": str(tmp_path / "data"), "DATABASE_URL": f"sqlite:///{path}"}
    assert python(START, **settings).code == 0
    after = dict(read(path, "SELECT name, value FROM metric_totals"))
    names = ("requests_ok", "requests_failed", "input_tokens", "output_tokens")
    assert [after[name] - before[name] for name in names] == [1, 0, 3, 4]
    assert "all figures agree" in manage("reconcile", "--thorough", **settings).out


def test_requests_of_llmlb_before_or_after_the_adoption_give_the_same_totals(tmp_path: Path) -> None:
    """llmlb serves a hundred more requests and is adopted, or is adopted and serves them then."""
    counts = []
    for order in ("before", "after"):
        path = tmp_path / f"{order}.db"
        make(path, requests=20, now=NOW, zone=UTC)
        settings = {"ROUTERDASH_DATA_DIR": str(tmp_path / order), "DATABASE_URL": f"sqlite:///{path}"}
        if order == "before":
            serve_again(path, 100, moment=NOW)
        assert adopt(path, tmp_path / order).code == 0
        if order == "after":
            with closing(sqlite3.connect(path)) as db:  # as if it had been adopted before that time
                db.execute("UPDATE adopted_history SET counted_us = ?", (int(NOW.timestamp() * 1e6) - 500_000,))
                db.commit()
            serve_again(path, 100, moment=NOW)
            assert python(START, **settings).code == 0
        assert "all figures agree" in manage("reconcile", **settings).out
        counts.append(counted(path))
    assert counts[0] == counts[1]
