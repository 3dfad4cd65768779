"""Program of one export, which metrics.exports.downloads starts as a process.

It reads a `Job` as JSON from its standard input, and writes rows to its standard output in frames. Each begins with a
`FRAME`: the number of bytes that follow, and of rows in them.

In control, encoding would hold the interpreter lock, and figures and live pages would wait. This process has the lowest
priority. It does not import Django, so it starts at once. It reads a page at a time, each in its own transaction: no
table is locked for long, and memory is limited to one page.
"""

import csv
import io
import os
import signal
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from gateway.base.csv_cells import csv_cell
from metrics.costs.hardware_rates import HardwareRate
from metrics.costs.hardware_shares import CountedHours, ExportedHardwareCost
from metrics.queries.requests import history
from metrics.queries.requests.filters import Cursor, RequestFilter
from metrics.queries.requests.llmlb import FIELDS as LLMLB_FIELDS
from metrics.queries.requests.llmlb import llmlb_cells, llmlb_record
from metrics.queries.requests.payload import FIELDS, NameOf, RequestPayload, no_name, request_payload
from metrics.sql import RunSql, SqlRow, Vendor

PAGE = 2000  # rows read at a time
STALLED_SECONDS = 300  # timeout of the reader for one page
FRAME = struct.Struct(">II")

Format = Literal["csv", "jsonl", "records-csv", "records-json"]


CostsOf = Callable[[SqlRow], list[ExportedHardwareCost] | None]  # at own hardware; None: not known yet
COLUMNS = (*FIELDS, "hardware_costs")  # of CSV, and fields of JSON lines


def no_costs(row: SqlRow) -> list[ExportedHardwareCost] | None:
    """Return no costs for any row: a `CostsOf` without own hardware."""
    return []


class Job(msgspec.Struct, frozen=True, kw_only=True):
    vendor: Vendor
    database: dict[str, Any]  # SQLite: `path`; PostgreSQL: psycopg's parameters
    request_filter: RequestFilter
    format: Format
    names: dict[str, str] = {}  # of endpoints, by their ids
    hardware: list[HardwareRate] = []  # rates of own hardware


def pages(run: RunSql, vendor: Vendor, request_filter: RequestFilter) -> Iterator[list[SqlRow]]:
    """Yield all rows that match, newest first. Rows that are written meanwhile are newer, and not included."""
    cursor: Cursor | None = None
    while True:
        page = history.page(run, vendor, request_filter, cursor, PAGE)
        yield page.rows
        if page.next is None:
            return
        cursor = page.next


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """Encoding of rows as a file. `between` separates two pages."""

    encode: Callable[[list[SqlRow], NameOf, CostsOf], bytes]
    head: bytes = b""
    between: bytes = b""
    tail: bytes = b""


def jsonl(rows: list[SqlRow], name_of: NameOf = no_name, costs_of: CostsOf = no_costs) -> bytes:
    """Return a JSON object per line."""
    return b"".join(
        msgspec.json.encode({**request_payload(row, name_of), "hardware_costs": costs_of(row)}) + b"\n" for row in rows
    )


def csv_rows(rows: list[SqlRow], name_of: NameOf = no_name, costs_of: CostsOf = no_costs) -> bytes:
    """Return CSV by RFC 4180 without its header line; `attempts` is their number, and lists are texts."""
    return _csv(_cells(request_payload(row, name_of), costs_of(row)) for row in rows)


def llmlb_json(rows: list[SqlRow], name_of: NameOf = no_name, costs_of: CostsOf = no_costs) -> bytes:
    """Return llmlb's JSON objects, separated by commas."""
    return b",\n".join(msgspec.json.encode(llmlb_record(row)) for row in rows)


def llmlb_csv(rows: list[SqlRow], name_of: NameOf = no_name, costs_of: CostsOf = no_costs) -> bytes:
    """Return CSV with llmlb's columns, without its header line."""
    return _csv(map(csv_cell, llmlb_cells(row)) for row in rows)


def _csv(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


def _cells(request: RequestPayload, costs: list[ExportedHardwareCost] | None) -> list[Any]:
    left = "; ".join(f"{left['step']}: {left['reason']}" for left in request["left_steps"])
    values: Mapping[str, Any] = {**request, "attempts": len(request["attempts"]), "left_steps": left or None}
    at_hardware = "; ".join(f"{cost['cost']} {cost['currency']}" for cost in costs or ())
    return [csv_cell(value) for value in (*values.values(), at_hardware or None)]


def _head(columns: Iterable[str]) -> bytes:
    return ",".join(columns).encode() + b"\r\n"


FORMATS: dict[Format, ExportFormat] = {
    "csv": ExportFormat(csv_rows, head=_head(COLUMNS)),
    "jsonl": ExportFormat(jsonl),
    "records-csv": ExportFormat(llmlb_csv, head=_head(LLMLB_FIELDS)),
    "records-json": ExportFormat(llmlb_json, head=b"[", between=b",\n", tail=b"]\n"),
}


@contextmanager
def connect(vendor: Vendor, database: Mapping[str, Any]) -> Iterator[RunSql]:
    """Open a job's database; yield a function that runs statements. Raises sqlite3.Error or psycopg.Error."""
    if vendor == "sqlite":
        path = quote(database["path"])
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5, isolation_level=None)) as file:
            yield lambda sql, values: file.execute(sql.replace("%s", "?"), values).fetchall()
    else:
        import psycopg  # not above: control imports this module too, and mostly runs on SQLite

        # The statement is not prepared: a generic plan would read the whole table.
        with psycopg.connect(**database, autocommit=True, prepare_threshold=None) as server:
            yield lambda sql, values: list(server.execute(sql, values).fetchall())


def write(job: Job, run: RunSql, out: Callable[[bytes], None]) -> None:
    form = FORMATS[job.format]

    def frame(data: bytes, rows: int) -> None:
        out(FRAME.pack(len(data), rows) + data)

    frame(form.head, 0)
    between = b""
    hours = CountedHours(run, job.hardware)
    for rows in pages(run, job.vendor, job.request_filter):
        frame((between if rows else b"") + form.encode(rows, job.names.get, hours.costs), len(rows))
        between = form.between if rows else between
    frame(form.tail, 0)


def _out(data: bytes) -> None:
    """Write all bytes. The alarm ends the process if its reader stalls."""
    signal.alarm(STALLED_SECONDS)
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(sys.stdout.fileno(), remaining) :]
    signal.alarm(0)


def run_when_idle() -> None:
    """Let this process run on an idle CPU alone, where the system can do that."""
    if hasattr(os, "SCHED_IDLE"):  # Linux
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main() -> None:
    run_when_idle()
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        with connect(job.vendor, job.database) as run:
            write(job, run, _out)
    except BrokenPipeError:
        pass  # the reader has closed the pipe
    except database_errors() as error:
        sys.exit(f"the export broke off: {error}")


def database_errors() -> tuple[type[Exception], ...]:
    """Return the errors that `connect` and its statements raise."""
    psycopg = sys.modules.get("psycopg")
    return (sqlite3.Error,) if psycopg is None else (sqlite3.Error, psycopg.Error)
