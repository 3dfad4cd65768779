"""Who changed what of an endpoint, and when: the admin's own log, in which changes through the API stand, too.

An entry's message is Django's JSON, so that the admin's history shows it, with two words more of our own: `via` where
it came through the API, and `values`, old and new, of what is short enough to be read in a list.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_noop, override
from rest_framework.request import Request

from endpoints.models import LIMITS, STAFF_FIELDS, Endpoint, EndpointOptions, OperatorState

API = "api"
STATE = "operator_state"
API_KEY = "api_key"
BREAKER = "breaker"  # that it was reset; what it was before, gateways knew
LONG = ("notes", "capabilities", API_KEY)  # that they changed is told, not from what to what
LOOK = 500  # entries of one endpoint that are read: those of weeks, unless scripts change it all day

RESET: Mapping[str, tuple[Any, Any]] = {BREAKER: (None, None)}  # for `message`

Values = Mapping[str, Any]
AnyRequest = HttpRequest | Request  # a page's, the API's


@dataclass(frozen=True, slots=True)
class Edit:
    """`values` are (old, new) by the name of the field; (None, None) where only that it changed is known."""

    at: datetime
    user: str
    flag: int
    via: str
    values: dict[str, tuple[Any, Any]]
    text: str  # as the admin's history has it

    @property
    def added(self) -> bool:
        return self.flag == ADDITION

    @property
    def state(self) -> tuple[str, str] | None:
        """The operator's word before and after, if it was about that."""
        before, after = self.values.get(STATE, (None, None))
        known = OperatorState.values
        return (str(before), str(after)) if before in known and after in known else None


def values(endpoint: Endpoint) -> dict[str, Any]:
    """What staff may change of it, as it is now; of the key only what tells one from another."""
    options = endpoint.options_or_default
    return {
        **{name: getattr(endpoint, name) for name in STAFF_FIELDS},
        **{name: getattr(options, name) for name in LIMITS},
        STATE: options.operator_state,
        API_KEY: options.sealed_api_key or endpoint.api_key_encrypted,
    }


def note_added(request: AnyRequest, endpoint: Endpoint) -> None:
    _note(request, endpoint, ADDITION, [{"added": {}} | _via(request)])


def note_deleted(request: AnyRequest, endpoint: Endpoint) -> None:
    """Before it is deleted."""
    _note(request, endpoint, DELETION, "")


def note_changed(request: AnyRequest, endpoint: Endpoint, before: Values) -> None:
    """What differs from `before`; nothing where nothing does."""
    after = values(endpoint)
    changed = {name: (before[name], value) for name, value in after.items() if before[name] != value}
    if changed:
        _note(request, endpoint, CHANGE, message(changed, **_via(request)))


def note_state(request: AnyRequest, endpoint: Endpoint, before: str, after: str) -> None:
    """The operator's word, also where it was that before: a drain may have got another deadline."""
    _note(request, endpoint, CHANGE, message({STATE: (str(before), str(after))}, **_via(request)))


def note_reset(request: AnyRequest, endpoint: Endpoint) -> None:
    """Of its circuit breaker."""
    _note(request, endpoint, CHANGE, message(RESET, **_via(request)))


def message(changed: Mapping[str, tuple[Any, Any]], via: str = "") -> list[dict[str, Any]]:
    """For an entry of the log."""
    told = {name: ([None, None] if name in LONG else list(pair)) for name, pair in changed.items()}
    entry: dict[str, Any] = {"changed": {"fields": [_label(name, *told[name]) for name in told]}, "values": told}
    return [entry | ({"via": via} if via else {})]


def _via(request: AnyRequest) -> dict[str, str]:
    return {"via": API} if isinstance(request, Request) else {}


def latest(endpoint_id: str, limit: int = LOOK) -> list[Edit]:
    """The last edits of an endpoint, newest first. One query."""
    return [edit(entry) for entry in entries(endpoint_id)[:limit]]


def entries(endpoint_id: str) -> QuerySet[LogEntry]:
    """Of the admin's log, newest first."""
    found = LogEntry.objects.filter(content_type=_kind(), object_id=endpoint_id)
    return found.select_related("user").order_by("-id")


def edit(entry: LogEntry) -> Edit:
    via, found = "", dict[str, tuple[Any, Any]]()
    for part in _parts(entry.change_message):
        via = via or str(part.get("via", ""))
        pairs = part.get("values")
        for name, pair in pairs.items() if isinstance(pairs, dict) else ():
            if isinstance(pair, list) and len(pair) == 2:
                found[name] = (pair[0], pair[1])
    return Edit(
        entry.action_time, entry.user.get_username(), entry.action_flag, via, found, str(entry.get_change_message())
    )


def _parts(text: str) -> Iterable[dict[str, Any]]:
    """Older releases wrote sentences."""
    try:
        told = json.loads(text) if text.startswith("[") else []
    except ValueError:
        return []
    return [part for part in told if isinstance(part, dict)]


def _label(name: str, before: Any, after: Any) -> str:
    """A field as Django's log has it: by its English name, which is translated where it is shown."""
    with override(None):
        if name == STATE:  # this is all there is to say, so it is said to the admin's history as well
            labels = dict(OperatorState.choices)
            return f"operator's state ({labels.get(before, before)} → {labels.get(after, after)})"
        if name == API_KEY:
            return "API key of the server"
        if name == BREAKER:
            return gettext_noop("circuit breaker (reset)")
        model: Any = EndpointOptions if name in LIMITS else Endpoint
        return str(model._meta.get_field(name).verbose_name)


def _note(request: AnyRequest, endpoint: Endpoint, flag: int, told: list[dict[str, Any]] | str) -> None:
    LogEntry.objects.create(
        user_id=str(request.user.pk),
        content_type=_kind(),
        object_id=str(endpoint.pk),
        object_repr=str(endpoint)[:200],
        action_flag=flag,
        change_message=told if isinstance(told, str) else json.dumps(told),
    )


def _kind() -> ContentType:
    return ContentType.objects.get_for_model(Endpoint)
