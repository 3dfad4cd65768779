"""Bodies that ROUTERDASH_STORE_BODIES has kept: for administrators and those to whom they grant it. Each look at them
goes into the admin's log.
"""

import json
import logging
from dataclasses import dataclass
from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType

from metrics import queries
from metrics.models import RequestHistory

PERMISSION = "metrics.view_bodies"
LOOKED = 4  # the log's flag, beside Django's addition, change and deletion
MOST_SHOWN = 200_000  # characters of one body on a page

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bodies:
    """What a request's row holds, None for what was not stored. A body that was cut when stored is a string."""

    request: Any
    response: Any


def may_see(user: Any) -> bool:
    return bool(user.has_perm(PERMISSION))


def look(user: Any, request_id: str) -> Bodies | None:
    """They are told only once the look is in the log; None where there is no such request. Asks for no permission."""
    found = queries.bodies(request_id)
    if found is None:
        return None
    model, asked, answered = found
    bodies = Bodies(*stored(asked, answered))
    if bodies != Bodies(None, None):
        note(user, request_id, model)
    return bodies


def are_stored(request_id: str) -> bool:
    found = queries.bodies(request_id)
    return found is not None and stored(*found[1:]) != (None, None)


def stored(asked: Any, answered: Any) -> tuple[Any, Any]:
    """The column of requests is never empty: where bodies are not stored it names the model alone."""
    bare = isinstance(asked, dict) and not set(asked) - {"model"}
    return None if bare else asked, answered


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
