"""The migrations of an update, with a history of ten million requests: how long they take, and what they report.

    python -m benchmarks.scale.migrations [--rows 10000000] [--database postgres://…/postgres]

Creates a database as the release of `--since` left it, fills the history with equal rows and a tenth as many roll-ups
of minutes, and runs `manage.py migrate`. Prints a table, and exits with 1 if a bound is exceeded. Needs 5 GB of disk.
"""

import argparse
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg

from benchmarks.process import ROOT, clean_environment
from benchmarks.scale import installation
from benchmarks.scale.installation import new_database, say
from benchmarks.scale.verdicts import Verdict, over, table

BOUND_SECONDS = 120.0
SILENT_SECONDS = 30.0  # without any line
SINCE = "metrics=0012,endpoints=0006"
STEP = 500_000  # rows of a transaction
ATTEMPTS = (
    '[{"endpoint_id":"6f9619ff-8b86-4011-b42d-00cf4fc964ff","outcome":"ok","status":200,"duration_us":1843210,'
    '"at_us":212,"reason":"least","scores":{"6f9619ff-8b86-4011-b42d-00cf4fc964ff":1}}]'
)
HISTORY = (
    "INSERT INTO request_history (id, timestamp, request_type, model, endpoint_id, endpoint_name, endpoint_ip, "
    "client_ip, request_body, duration_ms, status, completed_at, input_tokens, output_tokens, total_tokens, outcome, "
    "status_code, kind, duration_us, tokens_estimated, streamed, attempts) SELECT {id}, {moment}, 'Chat', "
    "'llama3.3:70b', '6f9619ff-8b86-4011-b42d-00cf4fc964ff', 'attic', '127.0.0.1', '192.0.2.7', "
    "'{{\"model\":\"llama3.3:70b\"}}', 1843, 'success', {moment}, 900, 210, 1110, 'ok', 200, 'chat_completions', "
    "1843210, {false}, {true}, '{attempts}' FROM {numbers}"
)
ROLL_UPS = (
    "INSERT INTO rollup_minutes (minute, endpoint_id, model, kind, api_key_id, requests_ok, requests_failed, "
    "requests_cancelled, attempts_ok, attempts_failed, input_tokens, output_tokens, ok_duration_us) SELECT n, "
    "'6f9619ff-8b86-4011-b42d-00cf4fc964ff', 'llama3.3:70b', 'chat_completions', '', 10, 0, 0, 10, 0, 9000, 2100, "
    "18432100 FROM {numbers}"
)
SQLITE = {
    "id": "printf('019ad000-%04x-7%03x-8000-%012x', n >> 12, n & 4095, n)",
    "moment": "strftime('%Y-%m-%dT%H:%M:%S.000000+00:00', 1764000000 + n / 20, 'unixepoch')",
    "numbers": (
        "(WITH RECURSIVE c(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM c WHERE n < {last}) SELECT n FROM c)"
    ),
    "false": "0",
    "true": "1",
}
POSTGRESQL = {
    "id": "format('019ad000-%s-7000-8000-%s', lpad(to_hex(n >> 16), 4, '0'), lpad(to_hex(n), 12, '0'))::uuid",
    "moment": "to_timestamp(1764000000 + n / 20)",
    "numbers": "generate_series({first}, {last}) AS n",
    "false": "false",
    "true": "true",
}


def statements(of: dict[str, str], rows: int) -> Iterator[str]:
    """Return the statements that fill a database, each in a transaction of its own."""
    for first in range(1, rows + 1, STEP):
        last = min(first + STEP - 1, rows)
        numbers = of["numbers"].format(first=first, last=last)
        yield HISTORY.format(**{**of, "numbers": numbers, "attempts": ATTEMPTS})
    yield ROLL_UPS.format(numbers=of["numbers"].format(first=1, last=max(1, rows // 10)))


def fill(database: str, url: str, rows: int) -> None:
    """Fill a database, of PostgreSQL at `url` or else the SQLite file, with statements of one transaction each."""
    if url:
        with closing(psycopg.connect(url, autocommit=True)) as connection:
            for statement in statements(POSTGRESQL, rows):
                connection.execute(statement.encode())
        return
    with closing(sqlite3.connect(database, isolation_level=None)) as file:
        file.execute("PRAGMA synchronous = OFF")
        for statement in statements(SQLITE, rows):
            file.execute(statement)


def migrate(environment: dict[str, str], *arguments: str) -> Iterator[str]:
    """Run `manage.py migrate`, and yield its lines as it prints them. Raises CalledProcessError."""
    command = [sys.executable, str(ROOT / "manage.py"), "migrate", *arguments]
    with subprocess.Popen(  # noqa: S603
        command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        yield from process.stdout
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, command)


def run(options: argparse.Namespace) -> list[Verdict]:
    with tempfile.TemporaryDirectory(prefix="routerdash-migrations-") as folder, new_database(options.database) as url:
        environment = clean_environment({"ROUTERDASH_DATA_DIR": folder, "DATABASE_URL": url})
        file = Path(folder) / "routerdash.sqlite3"
        file.touch()  # `serve` creates it, and `migrate` opens an existing one only
        for since in options.since.split(","):
            for _ in migrate(environment, *since.split("=")):
                pass
        began = time.monotonic()
        fill(str(file), url, options.rows)
        say(f"filled with {options.rows:,} requests in {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        before, silent = 0.0, 0.0  # of the last line; the first one comes after Python's start
        for line in migrate(environment):
            now = time.monotonic()
            silent, before = max(silent, now - (before or now)), now
            say(f"{now - began:6.1f} s  {line.rstrip()}")
        seconds = time.monotonic() - began
    return [
        Verdict(f"migrations with {options.rows:,} requests", seconds, "s", BOUND_SECONDS),
        Verdict("longest time without a line", silent, "s", SILENT_SECONDS),
    ]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="requests in the history")
    parser.add_argument("--since", default=SINCE, help="the last migrations of the earlier release")
    parser.add_argument("--database", default="", help="URL of a PostgreSQL server (default: SQLite)")
    return parser.parse_args(arguments)


def main() -> None:
    installation.measure(parse(), run, table, over)


if __name__ == "__main__":
    main()
