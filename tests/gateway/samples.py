"""Values for tests: records, endpoints and snapshots that differ from one another in what a test names."""

import base64
from itertools import count
from typing import Any

from gateway import snapshot
from gateway.record import RequestRecord

KEY, OTHER_KEY = (base64.urlsafe_b64encode(letter * 32).decode() for letter in (b"k", b"o"))  # Fernet keys

_numbers = count(1)


def make_record(**fields: Any) -> RequestRecord:
    number = next(_numbers)
    usual = {"completed_us": number, "kind": "chat_completions", "model": "tiny", "outcome": "ok", "status": 200}
    return RequestRecord(**{"id": f"record-{number}", "duration_us": 1000, **usual, **fields})


def make_endpoint(name: str = "", *models: snapshot.Model | str, **facts: Any) -> snapshot.Endpoint:
    number = next(_numbers)
    name = name or f"endpoint-{number}"
    usual = {"id": name, "name": name, "slot": number % 1024, "base_url": "http://127.0.0.1:1", "kind": "vllm"}
    made = tuple(model if isinstance(model, snapshot.Model) else snapshot.Model(model) for model in models)
    return snapshot.Endpoint(**{**usual, "status": snapshot.ONLINE, "models": made, **facts})


def make_snapshot(*endpoints: snapshot.Endpoint, **fields: Any) -> snapshot.Snapshot:
    return snapshot.Snapshot(**{"version": 1, "database_id": "database-1", "endpoints": endpoints, **fields})
