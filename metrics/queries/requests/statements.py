"""SQL statements that read the request history. Imports nothing of Django."""

from typing import Any

from gateway.base.queue_class import BULK, INTERACTIVE
from gateway.ipc import record
from metrics import sql
from metrics.queries.requests.filters import ERROR, Cursor, RequestFilter
from metrics.queries.requests.rows import COLUMNS
from metrics.sql import Vendor
from metrics.times import sql_time

COMPLETED, FAILED, ENDPOINT, REQUEST_ID, CONVERSATION = (
    "history_completed", "history_failed", "history_endpoint", "history_request_id", "history_conversation",
)  # fmt: skip  # indexes

Condition = tuple[str, tuple[Any, ...]]  # SQL and its parameters
Statement = tuple[str, list[Any]]

# Number of attempts in a row; 0 if the row was damaged by hand.
_ATTEMPTS: dict[Vendor, str] = {
    "sqlite": "COALESCE(json_array_length(attempts), 0)",
    "postgresql": "CASE WHEN jsonb_typeof(attempts) = 'array' THEN jsonb_array_length(attempts) ELSE 0 END",
}
_DURATION_US = "COALESCE(duration_us, duration_ms * 1000)"
_TOKENS = "COALESCE(total_tokens, COALESCE(input_tokens, 0) + COALESCE(output_tokens, 0))"

_QUEUE_CLASSES: dict[str, Condition] = {
    INTERACTIVE: ("queue_class IS NULL", ()),
    BULK: ("queue_class = %s", (BULK,)),
}


class HistoryStatements:
    """Statements for one filter and cursor. Conditions are in two groups: those that an index covers, and the rest."""

    def __init__(self, vendor: Vendor, request_filter: RequestFilter, cursor: Cursor | None) -> None:
        self.vendor = vendor
        self.newer = cursor is not None and cursor.newer
        self.index = COMPLETED
        self.indexed: list[Condition] = []
        self.scanned: list[Condition] = []
        self.same_moment: list[Condition] = []  # among rows of the cursor's own moment
        if request_filter.request_id is not None:
            self.index = REQUEST_ID
            self.indexed.append(("request_id = %s", (request_filter.request_id,)))
        elif request_filter.conversation is not None:
            self.index = CONVERSATION
            self.indexed.append(("conversation = %s", (request_filter.conversation,)))
        elif request_filter.endpoint_id is not None:
            self.index = ENDPOINT
            self.indexed.append(("endpoint_id = %s", (request_filter.endpoint_id,)))
        elif request_filter.outcome not in (None, record.OK):
            self.index = FAILED
            # No parameter: SQLite must see that the partial index has these rows.
            self.indexed.append(("status = 'error'", ()))
        self._add_time(request_filter, cursor)
        self._add_scanned(request_filter)

    def _add_time(self, request_filter: RequestFilter, cursor: Cursor | None) -> None:
        if request_filter.since is not None:
            self.indexed.append(("completed_at >= %s", (sql_time(request_filter.since, self.vendor),)))
        if request_filter.until is not None:
            self.indexed.append(("completed_at < %s", (sql_time(request_filter.until, self.vendor),)))
        if cursor is None:
            return
        order = ">" if cursor.newer else "<"
        if cursor.id is None:
            self.indexed.append((f"completed_at {order} %s", (cursor.moment,)))
        else:
            self.indexed.append((f"completed_at {order}= %s", (cursor.moment,)))
            self.same_moment.append((f"(completed_at {order} %s OR id {order} %s)", (cursor.moment, cursor.id)))

    def _add_scanned(self, request_filter: RequestFilter) -> None:
        equal = {
            "model": request_filter.model,
            "api_key_id": request_filter.api_key_id,
            "client_ip": request_filter.client_ip,
            "status_code": request_filter.status_code,
            "endpoint_id": request_filter.endpoint_id if self.index != ENDPOINT else None,
            "conversation": request_filter.conversation if self.index != CONVERSATION else None,
        }
        conditions = [(f"{self._unindexed(name)} = %s", (value,)) for name, value in equal.items() if value is not None]
        self.scanned += [*conditions, *self._outcome(request_filter.outcome)]
        if request_filter.streamed is not None:
            self.scanned.append(("streamed = %s", (request_filter.streamed,)))
        if request_filter.queue_class is not None:
            self.scanned.append(_QUEUE_CLASSES[request_filter.queue_class])
        if request_filter.min_duration_ms is not None:
            self.scanned.append((f"{_DURATION_US} >= %s", (round(request_filter.min_duration_ms * 1000),)))
        if request_filter.min_tokens is not None:
            self.scanned.append((f"{_TOKENS} >= %s", (request_filter.min_tokens,)))
        if request_filter.retried is not None:
            self.scanned.append((f"{_ATTEMPTS[self.vendor]} {'>' if request_filter.retried else '<='} 1", ()))
        if request_filter.text:
            self.scanned.append(self._contains(request_filter.text, "model", "endpoint_name", "client_ip"))
        if request_filter.model_part:
            self.scanned.append(self._contains(request_filter.model_part, "model"))
        if request_filter.last_turns:
            self.scanned += [("conversation IS NOT NULL", ()), (f"id = ({self._last_turn()})", ())]

    def _last_turn(self) -> str:
        """Return the statement for the id of the last request of a row's conversation, one look-up in the index.

        With LIMIT, PostgreSQL cannot turn it into a join of all conversations.
        """
        return sql.select(
            "later.id",
            sql.indexed("request_history AS later", CONVERSATION, self.vendor),
            where="later.conversation = request_history.conversation",
            order_by="later.completed_at DESC, later.id DESC",
            limit=1,
        )

    def _contains(self, text: str, *columns: str) -> Condition:
        return f"({' OR '.join(sql.contains(name, self.vendor) for name in columns)})", (text,) * len(columns)

    def _outcome(self, outcome: str | None) -> list[Condition]:
        """Return conditions for an outcome. Rows of llmlb have none, but a status."""
        if outcome is None or (outcome == ERROR and self.index == FAILED):
            return []
        if outcome == record.FAILED:
            return [("(outcome = %s OR (outcome IS NULL AND status = 'error'))", (record.FAILED,))]
        if outcome in (record.OK, ERROR):
            return [(f"{self._unindexed('status')} = '{'success' if outcome == record.OK else 'error'}'", ())]
        return [("outcome = %s", (outcome,))]

    def scan_limit(self, rows: int) -> Statement:
        """Return the statement for the moment of the row after the next `rows`; it finds none if there are fewer."""
        return self._select("completed_at", self.indexed, order_by=f"completed_at {self._order}", limit=1, offset=rows)

    def rows(self, scan_limit: str | None, limit: int, skip: int = 0) -> Statement:
        """Return the statement for rows, newest first; oldest first if the cursor is one of newer rows."""
        order = f"completed_at {self._order}, id {self._order}"
        return self._select(COLUMNS, self._conditions(scan_limit), order_by=order, limit=limit, offset=skip)

    def count(self, scan_limit: str | None, limit: int | None = None) -> Statement:
        """Return the statement that counts rows, at most `limit`."""
        statement, values = self._select("1 AS one", self._conditions(scan_limit), limit=limit)
        return sql.select("COUNT(*)", sql.subquery(statement, "found")), values

    @property
    def _order(self) -> str:
        return "ASC" if self.newer else "DESC"

    def _conditions(self, scan_limit: str | None) -> list[Condition]:
        conditions = [*self.indexed, *self.same_moment, *self.scanned]
        if scan_limit is not None:
            conditions.append((f"completed_at {'<=' if self.newer else '>='} %s", (scan_limit,)))
        return conditions

    def _select(self, columns: str | tuple[str, ...], conditions: list[Condition], **clauses: Any) -> Statement:
        source = sql.indexed("request_history", self.index, self.vendor)
        where = [text for text, _ in conditions]
        values = [value for _, condition_values in conditions for value in condition_values]
        return sql.select(columns, source, where=where, **clauses), values

    def _unindexed(self, column: str) -> str:
        return sql.unindexed(column, self.vendor)
