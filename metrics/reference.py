"""Requests as the reference system tells them: its names and its words, for scripts that were written for it.

Without bodies: these are for an administrator's session alone (metrics.bodies). Knows no Django, as metrics.history.
"""

from typing import Any

from gateway import reasons
from metrics.fold import NO_ENDPOINT
from metrics.history import COLUMNS, Row, json_time, moment

TYPES = (
    "chat", "generate", "embeddings", "transcription", "speech", "imagegeneration", "imageedit", "imagevariation",
    "anthropic_messages",
)  # fmt: skip
NO_NAME, NO_ADDRESS = "N/A", "0.0.0.0"  # noqa: S104  # where no endpoint could be asked
FIELDS = (
    "id", "timestamp", "request_type", "model", "runtime_id", "runtime_machine_name", "runtime_ip", "client_ip",
    "duration_ms", "status", "completed_at",
)  # fmt: skip
_LEFT_OUT = ("client_ip", "input_tokens", "output_tokens", "total_tokens", "api_key_id")  # where they are null


def record(row: Row) -> dict[str, Any]:
    """A row of COLUMNS. `timestamp` is when it was completed, as in the reference."""
    it = dict(zip(COLUMNS, row, strict=True))
    ok = it["status"] == "success"
    completed_at = json_time(moment(it["completed_at"]))
    told = {
        "id": str(it["id"]),
        "timestamp": completed_at,
        "request_type": _type(it["request_type"]),
        "model": it["model"],
        "endpoint_id": str(it["endpoint_id"] or NO_ENDPOINT),
        "endpoint_name": it["endpoint_name"] or NO_NAME,
        "endpoint_ip": it["endpoint_ip"] or NO_ADDRESS,
        "client_ip": it["client_ip"],
        "request_body": {"model": it["model"]},
        "response_body": None,
        "duration_ms": it["duration_ms"],
        "status": {"type": "success"} if ok else {"type": "error", "message": _error(it) or ""},
        "completed_at": completed_at,
        "input_tokens": it["input_tokens"],
        "output_tokens": it["output_tokens"],
        "total_tokens": it["total_tokens"],
        "api_key_id": None if it["api_key_id"] is None else str(it["api_key_id"]),
    }
    return {name: value for name, value in told.items() if value is not None or name not in _LEFT_OUT}


def cells(row: Row) -> list[Any]:
    """Under FIELDS."""
    it = record(row)
    status = it["status"]
    return [
        it["id"], it["timestamp"], row[COLUMNS.index("request_type")], it["model"],
        it["endpoint_id"], it["endpoint_name"], it["endpoint_ip"], it.get("client_ip"), it["duration_ms"],
        "success" if status["type"] == "success" else f"error: {status['message']}", it["completed_at"],
    ]  # fmt: skip


def _error(it: dict[str, Any]) -> str | None:
    return reasons.shown(it["outcome"], it["error_message"], it["status_code"])


def _type(stored: str) -> str:
    return "anthropic_messages" if stored == "AnthropicMessages" else stored.lower()
