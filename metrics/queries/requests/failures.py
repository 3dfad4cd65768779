"""Last requests that failed at an endpoint: final attempts, and attempts that were followed by a failover.

Each is searched in the last rows of an index, so the cost does not depend on the number of requests.
"""

import json
from typing import Annotated, Any

from endpoints.openapi.payload_fields import Help
from endpoints.registry import registry
from gateway.ipc import record
from metrics import sql
from metrics.queries.requests import statements
from metrics.queries.requests.history import SCATTERED_ROWS
from metrics.queries.requests.payload import AttemptPayload, RequestPayload, request_payload
from metrics.queries.requests.rows import COLUMNS, has_page, readable
from metrics.queries.stored import run_sql
from metrics.sql import SqlRow
from metrics.storage.database import vendor

FAILURES = (record.FAILED, record.TRUNCATED, record.REFUSED)


class FailurePayload(RequestPayload):
    """One request of the history."""

    attempt: Annotated[AttemptPayload | None, Help("The attempt at this endpoint; null for rows without attempts.")]


def last_failures(endpoint_id: str, limit: int = 8) -> list[FailurePayload]:
    """Return the last requests that failed at an endpoint, newest first. Two queries.

    They scan the last 2,000 requests of the endpoint, and the last 2,000 of all.
    """
    failed_rows = [*_final(endpoint_id, limit), *_followed_by_failover(endpoint_id, limit)]
    rows_by_id = {str(row[0]): row for row in readable(failed_rows)}
    requests = [request_payload(row, registry.name) for row in rows_by_id.values() if has_page(row)]
    requests.sort(key=lambda request: (request["completed_at"] or "", request["id"]), reverse=True)
    return [{**request, "attempt": _attempt(request, endpoint_id)} for request in requests[:limit]]


def _final(endpoint_id: str, limit: int) -> list[SqlRow]:
    failed = f"(outcome IS NULL OR outcome IN {sql.placeholders(len(FAILURES))})"
    last = _last_rows(statements.ENDPOINT, "endpoint_id = %s")
    return _chosen(last, ("status = 'error'", failed), limit, endpoint_id, *FAILURES)


def _followed_by_failover(endpoint_id: str, limit: int) -> list[SqlRow]:
    """Return rows of other endpoints that have a failed attempt at this one."""
    last = _last_rows(statements.COMPLETED)
    if vendor() == "postgresql":
        failed = json.dumps([{"endpoint_id": endpoint_id, "outcome": record.FAILED}])
        return _chosen(last, ("endpoint_id <> %s", "attempts @> %s::jsonb"), limit, endpoint_id, failed)
    # The encoder of RouterDash writes these two fields of an attempt first.
    failed = f'"endpoint_id":"{endpoint_id}","outcome":"{record.FAILED}"'
    return _chosen(last, ("endpoint_id <> %s", "instr(attempts, %s) > 0"), limit, endpoint_id, failed)


def _last_rows(index: str, where: str = "") -> str:
    source = sql.indexed("request_history", index, vendor())
    return sql.select(COLUMNS, source, where=where, order_by="completed_at DESC", limit=SCATTERED_ROWS)


def _chosen(last: str, where: tuple[str, ...], limit: int, *values: Any) -> list[SqlRow]:
    source = sql.subquery(last, "last")
    return run_sql(sql.select("*", source, where=where, order_by="completed_at DESC", limit=limit), values)


def _attempt(request: RequestPayload, endpoint_id: str) -> AttemptPayload | None:
    attempts = [request for request in request["attempts"] if request["endpoint_id"] == endpoint_id]
    return attempts[-1] if attempts else None
