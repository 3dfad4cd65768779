"""Requests as llmlb's API has them: its names and its words, for scripts that were written for it.

The payload has no bodies: these are for an administrator's session (metrics.queries.requests.bodies). This module
imports nothing of Django.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict

from endpoints.openapi.payload_fields import Choices, Help, TimeText
from gateway.ipc import error_texts
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.queries.requests.rows import COLUMNS
from metrics.sql import SqlRow
from metrics.times import json_time, parse_time

TYPES = (
    "chat", "generate", "embeddings", "transcription", "speech", "imagegeneration", "imageedit", "imagevariation",
    "anthropic_messages",
)  # fmt: skip
NO_NAME, NO_ADDRESS = "N/A", "0.0.0.0"  # noqa: S104  # of a request that no endpoint got
FIELDS = (
    "id", "timestamp", "request_type", "model", "runtime_id", "runtime_machine_name", "runtime_ip", "client_ip",
    "duration_ms", "status", "completed_at",
)  # fmt: skip


class RecordStatusPayload(TypedDict):
    type: Annotated[str, Choices(("success", "error"))]
    message: NotRequired[Annotated[str, Help("Text of the error.")]]


class RecordPayload(TypedDict):
    """One request."""

    id: str
    timestamp: Annotated[TimeText | None, Help("Time of completion.")]
    request_type: Annotated[str, Choices(TYPES)]
    model: str
    endpoint_id: Annotated[str, Help("The nil UUID if no endpoint was available.")]
    endpoint_name: str
    endpoint_ip: str
    client_ip: NotRequired[str]
    request_body: Annotated[
        dict[str, Any], Help("Only `model`. Stored bodies are at /api/requests/{id}/bodies, for administrators.")
    ]
    response_body: Annotated[Any | None, Help("Always null.")]
    duration_ms: int
    status: RecordStatusPayload
    completed_at: TimeText | None
    input_tokens: NotRequired[int]
    output_tokens: NotRequired[int]
    total_tokens: NotRequired[int]
    api_key_id: NotRequired[str]


def llmlb_record(row: SqlRow) -> RecordPayload:
    """Return the payload of a row of COLUMNS. `timestamp` is the time of completion, as in llmlb."""
    columns = dict(zip(COLUMNS, row, strict=True))
    completed_at = json_time(parse_time(columns["completed_at"]))
    record: RecordPayload = {
        "id": str(columns["id"]),
        "timestamp": completed_at,
        "request_type": _type(columns["request_type"]),
        "model": columns["model"],
        "endpoint_id": str(columns["endpoint_id"] or NO_ENDPOINT),
        "endpoint_name": columns["endpoint_name"] or NO_NAME,
        "endpoint_ip": columns["endpoint_ip"] or NO_ADDRESS,
        "client_ip": columns["client_ip"],
        "request_body": {"model": columns["model"]},
        "response_body": None,
        "duration_ms": columns["duration_ms"],
        "status": _status(columns),
        "completed_at": completed_at,
        "input_tokens": columns["input_tokens"],
        "output_tokens": columns["output_tokens"],
        "total_tokens": columns["total_tokens"],
        "api_key_id": columns["api_key_id"] and str(columns["api_key_id"]),
    }
    if record["client_ip"] is None:
        del record["client_ip"]
    if record["input_tokens"] is None:
        del record["input_tokens"]
    if record["output_tokens"] is None:
        del record["output_tokens"]
    if record["total_tokens"] is None:
        del record["total_tokens"]
    if record["api_key_id"] is None:
        del record["api_key_id"]
    return record


def llmlb_cells(row: SqlRow) -> list[Any]:
    """Return the values of a row of COLUMNS in the order of FIELDS."""
    record = llmlb_record(row)
    status = record["status"]
    return [
        record["id"], record["timestamp"], row[COLUMNS.index("request_type")], record["model"],
        record["endpoint_id"], record["endpoint_name"], record["endpoint_ip"], record.get("client_ip"),
        record["duration_ms"],
        "success" if status["type"] == "success" else f"error: {status.get('message')}", record["completed_at"],
    ]  # fmt: skip


def _status(columns: Mapping[str, Any]) -> RecordStatusPayload:
    if columns["status"] == "success":
        return {"type": "success"}
    message = error_texts.shown(columns["outcome"], columns["error_message"], columns["status_code"])
    return {"type": "error", "message": message or ""}


def _type(stored: str) -> str:
    return "anthropic_messages" if stored == "AnthropicMessages" else stored.lower()
