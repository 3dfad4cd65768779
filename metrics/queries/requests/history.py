"""Pages of the request history, newest first. Imports nothing of Django: exports run in a separate process.

Pages use keyset pagination: a page starts after the last row of the previous page, and nothing is counted. So the cost
does not depend on the number of rows. Indexes cover a time span, an endpoint, outcomes other than success, and the
client's request id. Any other filter scans the next thousands of these rows. If that does not fill the page, the page
reports how far it has scanned, and the next page continues there. A page of newer rows is read in the other direction.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime

from metrics import sql
from metrics.queries.requests import statements
from metrics.queries.requests.filters import Cursor, RequestFilter
from metrics.queries.requests.rows import COLUMNS, readable
from metrics.queries.requests.statements import HistoryStatements
from metrics.sql import RunSql, SqlRow, Vendor
from metrics.times import parse_time, stored_text

SCANNED_ROWS = 10_000  # by one page
SCATTERED_ROWS = 2_000  # by one page, where each row may be in another page of the disk

NIL_ID = str(uuid.UUID(int=0))  # before every id


@dataclass(frozen=True, slots=True)
class RequestPage:
    """Rows of COLUMNS and the cursors of the pages beside them."""

    rows: list[SqlRow]
    next: Cursor | None  # None: there is nothing older
    looked_back_to: datetime | None  # oldest moment that was scanned; None: everything was
    previous: Cursor | None = None  # of newer rows; None: there were none when this page was read
    cut: bool = False  # fewer rows than requested, only because the scan ended


def page(run: RunSql, vendor: Vendor, request_filter: RequestFilter, cursor: Cursor | None, size: int) -> RequestPage:
    """Read at most `size` rows and the cursors of the pages beside them. At most two queries; errors of `run` pass."""
    query = HistoryStatements(vendor, request_filter, cursor)
    limit = _scan_limit(run, query)
    rows = readable(run(*query.rows(limit, size + 1)))
    if cursor is not None and cursor.newer:
        return _newer(rows, limit, size, cursor)
    return _older(rows, limit, size, cursor)


def _scan_limit(run: RunSql, query: HistoryStatements) -> str | None:
    """Return the last moment that conditions without an index are checked for; None is unlimited."""
    if not query.scanned:
        return None
    rows = run(*query.scan_limit(SCANNED_ROWS if query.index == statements.COMPLETED else SCATTERED_ROWS))
    return stored_text(rows[0][0]) if rows else None


@dataclass(frozen=True, slots=True)
class NumberedPage:
    """Rows of COLUMNS. `count` is the number of matching rows; there may be more if it is `capped`."""

    rows: list[SqlRow]
    count: int
    capped: bool


def numbered(run: RunSql, vendor: Vendor, request_filter: RequestFilter, skip: int, size: int) -> NumberedPage:
    """Read the rows after the newest `skip`, and count all, up to SCANNED_ROWS. At most three queries."""
    query = HistoryStatements(vendor, request_filter, None)
    limit = _scan_limit(run, query)
    ((count,),) = run(*query.count(limit, SCANNED_ROWS + 1))
    rows = readable(run(*query.rows(limit, size, skip)))
    return NumberedPage(rows, min(count, SCANNED_ROWS), limit is not None or count > SCANNED_ROWS)


def count(run: RunSql, vendor: Vendor, request_filter: RequestFilter) -> int:
    """Count without a limit, for filters of a short time. One query."""
    ((number,),) = run(*HistoryStatements(vendor, request_filter, None).count(None))
    return int(number)


def _older(rows: list[SqlRow], limit: str | None, size: int, cursor: Cursor | None) -> RequestPage:
    previous = None
    if cursor is not None:
        previous = _cursor(rows[0], newer=True) if rows else Cursor(cursor.moment, NIL_ID, newer=True)
    if len(rows) > size:
        rows = rows[:size]
        return RequestPage(rows, _cursor(rows[-1]), parse_time(rows[-1][1]), previous)
    if limit is not None:
        return RequestPage(rows, Cursor(limit, None), parse_time(limit), previous, cut=True)
    return RequestPage(rows, None, None, previous)


def _newer(rows: list[SqlRow], limit: str | None, size: int, cursor: Cursor) -> RequestPage:
    """Return the page of rows that were read oldest first."""
    full = len(rows) > size
    rows = rows[size - 1 :: -1] if full else rows[::-1]
    older = _cursor(rows[-1]) if rows else Cursor(limit or cursor.moment, None)
    back_to = parse_time(rows[-1][1] if rows else older.moment)
    if full:
        return RequestPage(rows, older, back_to, _cursor(rows[0], newer=True))
    if limit is not None:
        return RequestPage(rows, older, back_to, Cursor(limit, None, newer=True), cut=True)
    return RequestPage(rows, older, back_to, None)


def _cursor(row: SqlRow, *, newer: bool = False) -> Cursor:
    return Cursor(stored_text(row[1]), str(row[0]), newer)


def row_of(run: RunSql, request_id: str) -> SqlRow | None:
    """Read the row of this id by the primary key; None if there is none."""
    rows = readable(run(sql.select(COLUMNS, "request_history", where="id = %s"), [request_id]))
    return rows[0] if rows else None
