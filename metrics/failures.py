"""The last requests that an endpoint failed: those it was the last to be asked for, and those that went on to another.

Each is looked for in the last rows of an index, so that it costs the same among ten million requests.
"""

import json
from typing import Any

from endpoints.registry import registry
from gateway import record
from metrics import history
from metrics.history import LOOK_SCATTERED, Row, Run, Vendor

FAILURES = (record.FAILED, record.TRUNCATED, record.REFUSED)


def latest(run: Run, vendor: Vendor, endpoint_id: str, limit: int = 8) -> list[dict[str, Any]]:
    """Newest first, with `attempt`, the one that went wrong. Two queries; looks at the last 2,000 requests of the
    endpoint, and at the last 2,000 of all.
    """
    found = [*_own(run, vendor, endpoint_id, limit), *_elsewhere(run, vendor, endpoint_id, limit)]
    rows = {str(row[0]): row for row in history.readable(found)}
    requests = [history.told(row, registry.name) for row in rows.values() if history.has_page(row)]
    requests.sort(key=lambda it: (it["completed_at"] or "", it["id"]), reverse=True)
    return [it | {"attempt": _attempt(it, endpoint_id)} for it in requests[:limit]]


def _own(run: Run, vendor: Vendor, endpoint_id: str, limit: int) -> list[Row]:
    wanted = f"status = 'error' AND (outcome IS NULL OR outcome IN ({', '.join(['%s'] * len(FAILURES))}))"
    last = _last(vendor, "history_endpoint", "WHERE endpoint_id = %s")
    return run(_chosen(last, wanted, limit), [endpoint_id, *FAILURES])


def _elsewhere(run: Run, vendor: Vendor, endpoint_id: str, limit: int) -> list[Row]:
    """Rows of the endpoint that answered instead: their attempts tell of this one."""
    last = _last(vendor, "history_completed", "")
    if vendor == "postgresql":
        failed = json.dumps([{"endpoint_id": endpoint_id, "outcome": record.FAILED}])
        return run(_chosen(last, "endpoint_id <> %s AND attempts @> %s::jsonb", limit), [endpoint_id, failed])
    # As our own encoder writes an attempt: these two first.
    failed = f'"endpoint_id":"{endpoint_id}","outcome":"{record.FAILED}"'
    return run(_chosen(last, "endpoint_id <> %s AND instr(attempts, %s) > 0", limit), [endpoint_id, failed])


def _last(vendor: Vendor, index: str, where: str) -> str:
    hint = f" INDEXED BY {index}" if vendor == "sqlite" else ""
    columns = ", ".join(history.COLUMNS)
    return f"SELECT {columns} FROM request_history{hint} {where} ORDER BY completed_at DESC LIMIT {LOOK_SCATTERED}"  # noqa: S608


def _chosen(last: str, wanted: str, limit: int) -> str:
    return f"SELECT * FROM ({last}) AS last WHERE {wanted} ORDER BY completed_at DESC LIMIT {limit}"  # noqa: S608


def _attempt(told: dict[str, Any], endpoint_id: str) -> dict[str, Any] | None:
    tries = [it for it in told["attempts"] if it["endpoint_id"] == endpoint_id]
    return tries[-1] if tries else None
