"""Bodies that ROUTERDASH_STORE_BODIES has kept, and what endpoints said of their errors, which may quote them: for
administrators and those to whom they grant it. Each look at them goes into the admin's log.
"""

import json
import logging
from dataclasses import dataclass
from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType

from gateway import reasons
from gateway.redact import Redactor
from metrics import queries
from metrics.history import StoredAttempt
from metrics.models import RequestHistory

PERMISSION = "metrics.view_bodies"
LOOKED = 4  # the log's flag, beside Django's addition, change and deletion
MOST_SHOWN = 200_000  # characters of one body on a page

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Said:
    """What an endpoint said of its error, at most 500 characters. `attempt` counts from 1; None: of the whole request,
    as earlier releases and the reference system stored it.
    """

    attempt: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Bodies:
    """What a request's row holds, None for what was not stored. A body that was cut when stored is a string."""

    request: Any
    response: Any
    errors: tuple[Said, ...] = ()

    @property
    def are_there(self) -> bool:
        return self.request is not None or self.response is not None or bool(self.errors)


def may_see(user: Any) -> bool:
    return bool(user.has_perm(PERMISSION))


def look(user: Any, request_id: str) -> Bodies | None:
    """They are told only once the look is in the log; None where there is no such request. Asks for no permission."""
    found = queries.bodies(request_id)
    if found is None:
        return None
    bodies = _of(found)
    if bodies.are_there:
        note(user, request_id, found["model"])
    return bodies


def are_stored(request_id: str) -> bool:
    found = queries.bodies(request_id)
    return found is not None and _of(found).are_there


def _of(found: dict[str, Any]) -> Bodies:
    errors = said(found["outcome"], found["error_message"], found["attempts"])
    return Bodies(asked(found["request_body"]), found["response_body"], errors)


def asked(body: Any) -> Any:
    """The column of requests is never empty: where bodies are not stored it names the model alone."""
    bare = isinstance(body, dict) and not set(body) - {"model"}
    return None if bare else body


def said(outcome: str | None, error: str | None, attempts: list[StoredAttempt]) -> tuple[Said, ...]:
    """Texts on errors that are not for everybody."""
    found = [Said(at, text) for at, it in enumerate(attempts, 1) if (text := it.said or _untold(it.outcome, it.error))]
    whole = _untold(outcome, error)
    if whole is not None and not any(it.message in whole for it in found):
        found.append(Said(None, whole))
    clean = Redactor(None).clean_text  # of rows from before secrets were taken out
    return tuple(Said(it.attempt, clean(it.message)) for it in found)


def _untold(outcome: str | None, text: str | None) -> str | None:
    return None if text is None or reasons.shown(outcome, text, None) == text else text


def note(user: Any, request_id: str, model: str) -> None:
    log.info("%s looks at the bodies of request %s", user.get_username(), request_id)
    LogEntry.objects.create(
        user_id=user.pk,
        content_type_id=ContentType.objects.get_for_model(RequestHistory).pk,
        object_id=request_id,
        object_repr=f"{request_id}: {model}"[:200],
        action_flag=LOOKED,
        change_message="Looked at the bodies.",
    )


def shown(body: Any) -> tuple[str, bool]:
    """For people to read, and whether that is all of it."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, indent=2)
    return text[:MOST_SHOWN], len(text) <= MOST_SHOWN
