"""Bodies that ROUTERDASH_STORE_BODIES has stored, and endpoints' error texts, which may quote them.

Administrators may read them, and users with the permission. Each access is written to the admin's log.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, TypedDict

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType

from endpoints.openapi.payload_fields import Help
from gateway.dialects.redact import Redactor
from gateway.ipc import error_texts
from metrics import sql
from metrics.counting.stored_attempt import StoredAttempt, stored_attempts
from metrics.models import RequestHistory
from metrics.queries.stored import run_sql

PERMISSION = "metrics.view_bodies"
VIEWED = 4  # the log's flag, beside Django's addition, change and deletion
MAX_SHOWN_CHARACTERS = 200_000  # characters of one body on a page
_COLUMNS = ("model", "request_body", "response_body", "outcome", "error_message", "attempts")

log = logging.getLogger(__name__)


class EndpointErrorPayload(TypedDict):
    attempt: Annotated[
        int | None, Help("Number of the attempt, from 1; null in rows of earlier releases and of llmlb.")
    ]
    message: Annotated[str, Help("The endpoint's error text, at most 500 characters.")]


class BodiesPayload(TypedDict):
    """JSON as it was sent; a string if it is not JSON, or was cut at 64 KiB when it was stored."""

    request: Annotated[Any | None, Help("Null if it was not stored.")]
    response: Annotated[Any | None, Help("Null if it was not stored; responses of streams never are.")]
    endpoint_errors: Annotated[
        list[EndpointErrorPayload], Help("Error texts of endpoints, which may quote the bodies.")
    ]


class ShownBodies(TypedDict):
    """Bodies as text, each with True if it is complete; None if it was not stored."""

    request: NotRequired[tuple[str, bool] | None]
    response: NotRequired[tuple[str, bool] | None]
    errors: tuple["EndpointErrorText", ...]


@dataclass(frozen=True, slots=True)
class EndpointErrorText:
    """Error text of an endpoint, at most 500 characters. `attempt` counts from 1.

    `attempt` is None for the whole request: earlier releases and llmlb stored only that.
    """

    attempt: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Bodies:
    """Stored content of a request; None for a body that was not stored. A body that was cut is a string."""

    model: str
    request: Any
    response: Any
    errors: tuple[EndpointErrorText, ...] = ()

    @property
    def exist(self) -> bool:
        return self.request is not None or self.response is not None or bool(self.errors)

    @property
    def payload(self) -> BodiesPayload:
        errors: list[EndpointErrorPayload] = [
            {"attempt": error.attempt, "message": error.message} for error in self.errors
        ]
        return {"request": self.request, "response": self.response, "endpoint_errors": errors}

    @property
    def shown(self) -> ShownBodies:
        return {
            "request": None if self.request is None else shown_body(self.request),
            "response": None if self.response is None else shown_body(self.response),
            "errors": self.errors,
        }


def may_view(user: Any) -> bool:
    return bool(user.has_perm(PERMISSION))


def view_bodies(user: Any, request_id: str) -> Bodies | None:
    """Write the access to the log, then return the bodies; None if there is no such request. Checks no permission."""
    bodies = _stored_bodies(request_id)
    if bodies is not None and bodies.exist:
        log_access(user, request_id, bodies.model)
    return bodies


def are_stored(request_id: str) -> bool:
    bodies = _stored_bodies(request_id)
    return bodies is not None and bodies.exist


def _stored_bodies(request_id: str) -> Bodies | None:
    """Return None if there is no such request. One query."""
    rows = run_sql(sql.select(_COLUMNS, "request_history", where="id = %s"), [request_id])
    if not rows:
        return None
    model, request, response, outcome, error, attempts = rows[0]
    errors = endpoint_errors(outcome, error, stored_attempts(attempts))
    return Bodies(model, stored_request(_json(request)), _json(response), errors)


def _json(stored: Any) -> Any:
    """Parse the text that both databases return. Text that is no JSON, in a row damaged by hand, stays as it is."""
    try:
        return json.loads(stored) if isinstance(stored, str) else stored
    except ValueError:
        return stored


def stored_request(body: Any) -> Any:
    """Return None for a body that was not stored: the column is never empty, and then has the model alone."""
    bare = isinstance(body, dict) and not set(body) - {"model"}
    return None if bare else body


def endpoint_errors(
    outcome: str | None, error: str | None, attempts: Sequence[StoredAttempt]
) -> tuple[EndpointErrorText, ...]:
    """Return the error texts that need the permission."""
    errors = [
        EndpointErrorText(number, text)
        for number, attempt in enumerate(attempts, 1)
        if (text := attempt.said or _restricted(attempt.outcome, attempt.error))
    ]
    stored_error = _restricted(outcome, error)
    if stored_error is not None and not any(attempt.message in stored_error for attempt in errors):
        errors.append(EndpointErrorText(None, stored_error))
    redact = Redactor(None).clean_text  # rows of former releases may hold secrets
    return tuple(EndpointErrorText(attempt.attempt, redact(attempt.message)) for attempt in errors)


def _restricted(outcome: str | None, text: str | None) -> str | None:
    """Return the text if it may not be shown to everybody."""
    return None if text is None or error_texts.shown(outcome, text, None) == text else text


def log_access(user: Any, request_id: str, model: str) -> None:
    log.info("%s reads the bodies of request %s", user.get_username(), request_id)
    LogEntry.objects.create(
        user_id=user.pk,
        content_type_id=ContentType.objects.get_for_model(RequestHistory).pk,
        object_id=request_id,
        object_repr=f"{request_id}: {model}"[:200],
        action_flag=VIEWED,
        change_message="Looked at the bodies.",
    )


def shown_body(body: Any) -> tuple[str, bool]:
    """Return a body as text for a page, and True if it is complete."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, indent=2)
    return text[:MAX_SHOWN_CHARACTERS], len(text) <= MAX_SHOWN_CHARACTERS
