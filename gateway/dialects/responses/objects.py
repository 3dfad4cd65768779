"""Objects and events of OpenAI's Responses API that RouterDash itself writes."""

import secrets
import time
from collections.abc import Mapping
from typing import Any, TypedDict

import msgspec

_encode = msgspec.json.Encoder().encode

# Part of the ids of objects that no endpoint stores, so that a request that refers to one gets the reason.
UNSTORED = "_unstored_"


class ResponseError(TypedDict):
    code: str
    message: str


class ResponsePayload(TypedDict, total=False):
    """A response object, as far as each one has the same fields."""

    id: str
    object: str
    created_at: int  # seconds since 1970
    status: str
    error: ResponseError | None
    incomplete_details: Mapping[str, str] | None
    model: str
    output: list[Any]
    parallel_tool_calls: bool
    tool_choice: Any
    tools: Any
    usage: Mapping[str, Any] | None
    store: bool


def new_id(prefix: str) -> str:
    """Return a new id of an object that no endpoint stores; `prefix`: `resp`, `msg`, `rs`, `fc` and the like."""
    return f"{prefix}{UNSTORED}{secrets.token_hex(12)}"


def is_unstored(stored_id: str) -> bool:
    """Return True for the id of a response or an item that was translated, and is stored nowhere."""
    return UNSTORED in stored_id


def bare_response(response_id: str, model: str, status: str) -> ResponsePayload:
    """Return a response object without output. `model`: the name that the client requested."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
        "store": False,
    }


def response_event(kind: str, number: int, fields: Mapping[str, Any]) -> bytes:
    """Return an event of a stream; `number`: its sequence number."""
    data = _encode({"type": kind, "sequence_number": number, **fields})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def failure_events(code: str, message: str, model: str, response_id: str | None, number: int) -> bytes:
    """Return the events by which a stream ends with an error.

    Clients of Responses understand `response.failed`; some ignore an event `error`. `response_id`: of the response
    that has begun; None: none has, and clients expect `response.created` before anything else. `number`: of the next
    event.
    """
    begin = b""
    if response_id is None:
        response_id = new_id("resp")
        begin = response_event(
            "response.created", number, {"response": bare_response(response_id, model, "in_progress")}
        )
        number += 1
    failed = bare_response(response_id, model, "failed")
    failed["error"] = {"code": code, "message": message}
    return begin + response_event("response.failed", number, {"response": failed})
