"""The program that reads an export: a process of its own for each, started by metrics.downloads. It takes a `Job` as
JSON from its standard input and writes rows to its standard output, in frames: `FRAME` says how many bytes follow, and
how many rows these are.

In control the rows would hold its one interpreter lock, and figures and live pages would wait. Here they cost what the
machine has to spare: the process yields to every other. It knows no Django, so it begins at once; it reads a page at a
time, each in a transaction of its own, so that no table is held up and memory stays what one page takes.
"""

import csv
import io
import os
import signal
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import msgspec
import psycopg

from metrics import history, reference
from metrics.history import Cursor, NameOf, Row, Run, Vendor, Wanted, nameless

PAGE = 2000  # rows read at a time
STALLED_SECONDS = 300  # so long may the reader take for one page of them
FRAME = struct.Struct(">II")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes a spreadsheet compute a cell

Format = Literal["csv", "jsonl", "records-csv", "records-json"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    vendor: Vendor
    database: dict[str, Any]  # SQLite: `path`; PostgreSQL: psycopg's parameters
    wanted: Wanted
    format: Format
    names: dict[str, str] = {}  # of endpoints, by their ids


def pages(run: Run, vendor: Vendor, wanted: Wanted) -> Iterator[list[Row]]:
    """All that is wanted, newest first. What comes meanwhile is newer than all of it, and not among it."""
    cursor: Cursor | None = None
    while True:
        page = history.page(run, vendor, wanted, cursor, PAGE)
        yield page.rows
        if page.next is None:
            return
        cursor = page.next


@dataclass(frozen=True, slots=True)
class Shape:
    """How rows become a file: `between` stands between two pages of them."""

    encode: Callable[[list[Row], NameOf], bytes]
    head: bytes = b""
    between: bytes = b""
    tail: bytes = b""


def lines(rows: list[Row], name_of: NameOf = nameless) -> bytes:
    """A JSON object a line."""
    return b"".join(msgspec.json.encode(history.told(row, name_of)) + b"\n" for row in rows)


def table(rows: list[Row], name_of: NameOf = nameless) -> bytes:
    """CSV by RFC 4180, without its head; `attempts` is their number."""
    return _table(_cells(history.told(row, name_of)) for row in rows)


def records(rows: list[Row], name_of: NameOf = nameless) -> bytes:
    """As the reference has them: JSON objects with commas between them."""
    return b",\n".join(msgspec.json.encode(reference.record(row)) for row in rows)


def record_table(rows: list[Row], name_of: NameOf = nameless) -> bytes:
    """CSV with the reference's columns, without its head."""
    return _table(map(cell, reference.cells(row)) for row in rows)


def _table(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


def _cells(told: dict[str, Any]) -> list[Any]:
    told["attempts"] = len(told["attempts"])
    return [cell(value) for value in told.values()]


def cell(value: Any) -> Any:
    """As a spreadsheet takes it for what it is."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA) else value
    return str(value).lower() if isinstance(value, bool) else value


def _head(columns: Iterable[str]) -> bytes:
    return ",".join(columns).encode() + b"\r\n"


SHAPES: dict[Format, Shape] = {
    "csv": Shape(table, head=_head(history.FIELDS)),
    "jsonl": Shape(lines),
    "records-csv": Shape(record_table, head=_head(reference.FIELDS)),
    "records-json": Shape(records, head=b"[", between=b",\n", tail=b"]\n"),
}


@contextmanager
def connect(job: Job) -> Iterator[Run]:
    """What asks the job's database. Raises sqlite3.Error or psycopg.Error."""
    if job.vendor == "sqlite":
        path = quote(job.database["path"])
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5, isolation_level=None)) as file:
            yield lambda sql, values: file.execute(sql.replace("%s", "?"), values).fetchall()
    else:
        # Never prepared: a plan for any value would be one for the whole table.
        with psycopg.connect(**job.database, autocommit=True, prepare_threshold=None) as server:
            yield lambda sql, values: list(server.execute(sql, values).fetchall())


def write(job: Job, run: Run, out: Callable[[bytes], None]) -> None:
    shape = SHAPES[job.format]

    def frame(data: bytes, rows: int) -> None:
        out(FRAME.pack(len(data), rows) + data)

    frame(shape.head, 0)
    between = b""
    for rows in pages(run, job.vendor, job.wanted):
        frame((between if rows else b"") + shape.encode(rows, job.names.get), len(rows))
        between = shape.between if rows else between
    frame(shape.tail, 0)


def _out(data: bytes) -> None:
    """Whole, or not at all: ended by the alarm when nobody reads on."""
    signal.alarm(STALLED_SECONDS)
    left = memoryview(data)
    while left:
        left = left[os.write(sys.stdout.fileno(), left) :]
    signal.alarm(0)


def main() -> None:
    if hasattr(os, "SCHED_IDLE"):  # Linux: only what nobody else wants of the machine
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        with connect(job) as run:
            write(job, run, _out)
    except BrokenPipeError:
        pass  # nobody listens any more
    except (sqlite3.Error, psycopg.Error) as error:
        sys.exit(f"the export broke off: {error}")
