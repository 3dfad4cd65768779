"""llmlb's strict reader of `request_history`: one row that it cannot read fails its whole list."""

import ipaddress
import json
import re
import uuid
from datetime import datetime
from typing import Any

from tests.metrics.world import rows

REQUEST_TYPES = {
    "Chat", "Generate", "Embeddings", "Transcription", "Speech", "ImageGeneration", "ImageEdit", "ImageVariation",
    "AnthropicMessages",
}  # fmt: skip
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")
COLUMNS = (
    "id", "timestamp", "request_type", "model", "endpoint_id", "endpoint_name", "endpoint_ip", "client_ip",
    "request_body", "response_body", "duration_ms", "status", "error_message", "completed_at", "input_tokens",
    "output_tokens", "total_tokens", "api_key_id",
)  # fmt: skip
CAN_BE_EMPTY = {
    "client_ip", "response_body", "error_message", "input_tokens", "output_tokens", "total_tokens", "api_key_id",
}  # fmt: skip


def read_all() -> list[dict[str, Any]]:
    """Return all rows in the order of completion. Fails on the first row that llmlb could not read."""
    history_rows = [
        dict(zip(COLUMNS, row, strict=True)) for row in rows(f"SELECT {', '.join(COLUMNS)} FROM request_history")
    ]
    for row in history_rows:
        check(row)
    return sorted(history_rows, key=lambda row: row["completed_at"])


def check(row: dict[str, Any]) -> None:
    assert all(value is not None for name, value in row.items() if name not in CAN_BE_EMPTY), row
    for name in ("id", "endpoint_id", "api_key_id"):
        assert row[name] is None or str(uuid.UUID(row[name])) == row[name]
    for name in ("timestamp", "completed_at"):
        assert MOMENT.fullmatch(row[name])
        datetime.fromisoformat(row[name])
    assert row["request_type"] in REQUEST_TYPES
    ipaddress.ip_address(row["endpoint_ip"])
    if row["client_ip"] is not None:
        ipaddress.ip_address(row["client_ip"])
    assert isinstance(json.loads(row["request_body"]), dict | list | str)
    if row["response_body"] is not None:
        json.loads(row["response_body"])
    for name in ("duration_ms", "input_tokens", "output_tokens", "total_tokens"):
        assert row[name] is None or isinstance(row[name], int)
    assert row["duration_ms"] >= 1
    assert row["status"] in ("success", "error")
