"""Log of edits of endpoints, with user, time and changed fields.

The entries are in the log of Django's admin, which also contains changes through the API. An entry's message is
Django's JSON, so that the admin's history shows it, with two additional keys: `via` for changes through the API, and
`values` for the old and new values that are short enough for a list.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NotRequired, TypedDict

from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_noop, override
from rest_framework.request import Request

from endpoints.models import EDITED_FIELDS, EDITED_OPTIONS, Endpoint, EndpointOptions, OperatorState

API = "api"
STATE = "operator_state"
API_KEY = "api_key"
CONNECTION = "connection"
BREAKER = "breaker"  # a reset; only the gateways hold the previous state
LONG = ("notes", "capabilities", API_KEY, CONNECTION)  # logged as changed, without old and new values
MAX_ENTRIES = 500  # entries read of one endpoint; they cover weeks, unless scripts change it all day

RESET: Mapping[str, tuple[Any, Any]] = {BREAKER: (None, None)}  # argument of `message`

Values = Mapping[str, Any]
AnyRequest = HttpRequest | Request  # the request of a page or of the API


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit. `values` are (old, new) by field name; (None, None) if only the fact of a change is stored."""

    at: datetime
    user: str
    flag: int
    via: str
    values: dict[str, tuple[Any, Any]]
    text: str  # as the admin's history shows it

    @property
    def added(self) -> bool:
        return self.flag == ADDITION

    @property
    def state(self) -> tuple[str, str] | None:
        """The administrative state before and after the edit; None if the edit did not concern it."""
        before, after = self.values.get(STATE, (None, None))
        known = OperatorState.values
        return (str(before), str(after)) if before in known and after in known else None


def values(endpoint: Endpoint) -> Mapping[str, Any]:
    """Return the current values of the fields that administrators may edit, with the API key in its stored form."""
    options = endpoint.options_or_default
    return {
        **{name: getattr(endpoint, name) for name in EDITED_FIELDS},
        **{name: getattr(options, name) for name in EDITED_OPTIONS},
        "tags": options.tags or [],  # null and an empty list are the same
        STATE: options.operator_state,
        API_KEY: options.sealed_api_key or endpoint.api_key_encrypted,
        CONNECTION: options.sealed_connection,
    }


def note_added(request: AnyRequest, endpoint: Endpoint) -> None:
    _note(request, endpoint, ADDITION, [{"added": {}} | _via(request)])


def note_deleted(request: AnyRequest, endpoint: Endpoint) -> None:
    """Log a delete. Call this before the endpoint is deleted."""
    _note(request, endpoint, DELETION, "")


def note_changed(request: AnyRequest, endpoint: Endpoint, before: Values) -> None:
    """Log the fields that differ from `before`. Without a difference, nothing is logged."""
    after = values(endpoint)
    changed = {name: (before[name], value) for name, value in after.items() if before[name] != value}
    if changed:
        _note(request, endpoint, CHANGE, message(changed, **_via(request)))


def note_state(request: AnyRequest, endpoint: Endpoint, before: str, after: str) -> None:
    """Log the administrative state even if it is the same as before, because a drain may have a new deadline."""
    _note(request, endpoint, CHANGE, message({STATE: (str(before), str(after))}, **_via(request)))


def note_reset(request: AnyRequest, endpoint: Endpoint) -> None:
    """Log the reset of the circuit breaker."""
    _note(request, endpoint, CHANGE, message(RESET, **_via(request)))


class ChangedFields(TypedDict):
    """Labels of the changed fields, as Django's log has them."""

    fields: list[str]


class ChangeMessage(TypedDict):
    """Message of one change, as JSON in the log. `values` has the old and the new value by field."""

    changed: ChangedFields
    values: dict[str, list[Any]]
    via: NotRequired[str]


def message(changed: Mapping[str, tuple[Any, Any]], via: str = "") -> list[ChangeMessage]:
    """Return the message of a log entry."""
    pairs = {name: ([None, None] if name in LONG else list(pair)) for name, pair in changed.items()}
    entry: ChangeMessage = {"changed": {"fields": [_label(name, *pairs[name]) for name in pairs]}, "values": pairs}
    if via:
        entry["via"] = via
    return [entry]


def _via(request: AnyRequest) -> dict[str, str]:
    return {"via": API} if isinstance(request, Request) else {}


def latest(endpoint_id: str, limit: int = MAX_ENTRIES) -> list[Edit]:
    """Return the last edits of an endpoint, newest first, with one query."""
    return [edit(entry) for entry in entries(endpoint_id)[:limit]]


def entries(endpoint_id: str) -> QuerySet[LogEntry]:
    """Return the endpoint's entries in the admin's log, newest first."""
    rows = LogEntry.objects.filter(content_type=_kind(), object_id=endpoint_id)
    return rows.select_related("user").order_by("-id")


def edit(entry: LogEntry) -> Edit:
    via, changes = "", dict[str, tuple[Any, Any]]()
    for part in _parts(entry.change_message):
        via = via or str(part.get("via", ""))
        pairs = part.get("values")
        for name, pair in pairs.items() if isinstance(pairs, dict) else ():
            if isinstance(pair, list) and len(pair) == 2:
                changes[name] = (pair[0], pair[1])
    return Edit(
        entry.action_time, entry.user.get_username(), entry.action_flag, via, changes, str(entry.get_change_message())
    )


def _parts(text: str) -> Iterable[Mapping[str, Any]]:
    """Return the parts of an entry's message; none for the sentences that older releases stored."""
    try:
        parts = json.loads(text) if text.startswith("[") else []
    except ValueError:
        return []
    return [part for part in parts if isinstance(part, dict)]


def _label(name: str, before: Any, after: Any) -> str:
    """Return the field's name as Django's log stores it: in English, translated when it is shown."""
    with override(None):
        if name == STATE:  # the admin's history shows only labels, so the label contains both states
            labels = dict(OperatorState.choices)
            return f"administrative state ({labels.get(before, before)} → {labels.get(after, after)})"
        if name == API_KEY:
            return "API key of the server"
        if name == CONNECTION:
            return gettext_noop("connection settings")
        if name == BREAKER:
            return gettext_noop("circuit breaker (reset)")
        model: Any = EndpointOptions if name in EDITED_OPTIONS else Endpoint
        return str(model._meta.get_field(name).verbose_name)


def _note(
    request: AnyRequest,
    endpoint: Endpoint,
    flag: int,
    change_message: Sequence[Mapping[str, Any]] | Sequence[ChangeMessage] | str,
) -> None:
    LogEntry.objects.create(
        user_id=str(request.user.pk),
        content_type=_kind(),
        object_id=str(endpoint.pk),
        object_repr=str(endpoint)[:200],
        action_flag=flag,
        change_message=change_message if isinstance(change_message, str) else json.dumps(change_message),
    )


def _kind() -> ContentType:
    return ContentType.objects.get_for_model(Endpoint)
