"""Records and endpoints for tests, with defaults for all fields that a test does not set."""

import base64
from itertools import count
from typing import Any

from gateway.ipc.record import RequestRecord
from gateway.registry import schema

KEY, OTHER_KEY = (base64.urlsafe_b64encode(letter * 32).decode() for letter in (b"k", b"o"))  # Fernet keys

_numbers = count(1)


def make_record(**fields: Any) -> RequestRecord:
    number = next(_numbers)
    usual = {"completed_us": number, "kind": "chat_completions", "model": "tiny", "outcome": "ok", "status": 200}
    return RequestRecord(**{"id": f"record-{number}", "duration_us": 1000, **usual, **fields})


def make_endpoint(name: str = "", *models: schema.Model | str, **facts: Any) -> schema.PublishedEndpoint:
    number = next(_numbers)
    name = name or f"endpoint-{number}"
    usual = {"id": name, "name": name, "slot": number % 1024, "base_url": "http://127.0.0.1:1", "kind": "vllm"}
    made = tuple(model if isinstance(model, schema.Model) else schema.Model(model) for model in models)
    return schema.PublishedEndpoint(**{**usual, "status": schema.ONLINE, "models": made, **facts})
