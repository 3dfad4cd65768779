"""Filters in the URL of the list of requests: parsing, the form, and the links that change one filter.

The URL takes the parameters of /api/requests, and gives the same requests. Invalid parameters are ignored with a note.
"""

from collections.abc import ItemsView, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypedDict, TypeVar
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints.registry import registry
from gateway.ipc import record
from metrics import labels
from metrics.api.common import QuerySerializer
from metrics.api.request_serializers import RequestPageQuerySerializer
from metrics.pages import options
from metrics.queries.figures import Moment
from metrics.queries.requests.filters import ERROR
from metrics.templatetags.figures import moment

PERIODS = (
    ("-15m", gettext_lazy("15 min")),
    ("-1h", gettext_lazy("1 h")),
    ("-24h", gettext_lazy("24 h")),
    ("-7d", gettext_lazy("7 d")),
)
CHOICES = (
    ("outcome", ERROR, "st-error", gettext_lazy("Not OK")),
    ("outcome", record.TRUNCATED, "st-warn", gettext_lazy("Broken off")),
    ("retried", "true", "retry", gettext_lazy("Retried")),
)
LABELS = {
    "since": gettext_lazy("Since"),
    "until": gettext_lazy("Until"),
    "model": gettext_lazy("Model"),
    "endpoint_id": gettext_lazy("Endpoint"),
    "outcome": gettext_lazy("Outcome"),
    "status_code": gettext_lazy("Status code"),
    "api_key_id": gettext_lazy("API key"),
    "client_ip": gettext_lazy("Client"),
    "min_duration_ms": gettext_lazy("Minimum duration (ms)"),
    "min_tokens": gettext_lazy("Minimum tokens"),
    "retried": gettext_lazy("Retried"),
    "streamed": gettext_lazy("Streamed"),
    "request_id": gettext_lazy("Client's request id"),
    "conversation": gettext_lazy("Conversation"),
    "queue_class": gettext_lazy("Queue class"),
}
PAGED = ("cursor", "limit")
PAGE_ONLY = ("id", "tail", "part", "scale", "after", "q", "format", "progress")  # parameters that the API does not have
TIMES = ("since", "until")
OUTCOMES = {ERROR: gettext_lazy("Any but OK"), **labels.OUTCOMES}


@dataclass(frozen=True, slots=True)
class ListQuery:
    """The valid parameters of a URL."""

    parameters: dict[str, str]  # filters and pages, as they were written
    query: RequestPageQuerySerializer
    notes: list[str]  # about ignored parameters
    tail: bool  # new requests are shown as they end

    @property
    def filters(self) -> dict[str, str]:
        return {name: value for name, value in self.parameters.items() if name not in PAGED}

    @property
    def size(self) -> int:
        """Number of requests on a page."""
        size: int = self.query.validated_data["limit"]
        return size

    def url(self, *without: str, **other: str) -> str:
        """Return the URL of the first page with these filters, with some removed and others added."""
        rest = {name: value for name, value in self.parameters.items() if name not in (*without, "cursor")}
        if self.tail and "tail" not in without:
            rest["tail"] = "1"
        text = urlencode({**rest, **other})
        return f"{reverse('requests')}?{text}" if text else reverse("requests")

    @property
    def page_url(self) -> str:
        """URL of this page without an open request."""
        return self.url(**{name: value for name, value in self.parameters.items() if name == "cursor"})


Query = TypeVar("Query", bound=QuerySerializer)


def without_errors(serializer: type[Query], valid: dict[str, str]) -> tuple[Query, list[str]]:
    """Remove invalid parameters from `valid`. Return the query of the others, and a note about each removed one."""
    notes: list[str] = []
    query = serializer(data=valid)
    while not query.is_valid():
        for name in query.errors.keys() & valid.keys():
            why = " ".join(map(str, query.errors[name]))
            text = _("Ignored filter: %(name)s=%(value)s. %(why)s")
            notes.append(text % {"name": name, "value": valid.pop(name)[:100], "why": why})
        query = serializer(data=valid)
    return query, notes


def parse_query(parameters: Mapping[str, str]) -> ListQuery:
    valid = {name: value for name, value in parameters.items() if name not in PAGE_ONLY and value}
    query, notes = without_errors(RequestPageQuerySerializer, valid)
    tail = parameters.get("tail") == "1" and not valid.keys() & {"cursor", "until"}
    return ListQuery(valid, query, notes, tail)


def canonical_url(request: HttpRequest) -> str | None:
    """Return the URL without empty parameters, and with times in UTC; None if it has this form already."""
    lists = {name: [text.strip() for text in map(str, texts)] for name, texts in request.GET.lists()}
    parameters = {name: next((text for text in reversed(texts) if text), "") for name, texts in lists.items()}
    for name in TIMES:
        if name in lists:
            parameters[name] = _utc(_unchanged_time(*lists[name]))
    parameters = {name: value for name, value in parameters.items() if value}
    same = {name: [value] for name, value in parameters.items()} == dict(request.GET.lists())
    return None if same else f"{reverse('requests')}?{urlencode(parameters)}"


def _unchanged_time(*texts: str) -> str:
    """Return the exact time of a form, unless its field was edited; of a URL, its last text.

    The form sends the exact time hidden, then its field. The field shows local time without a fraction, and the same
    text twice when the clock is set back.
    """
    exact, shown = texts[0], texts[-1]
    before = _parsed(exact)
    if before is None or timezone.is_naive(before):
        return shown or exact  # a period such as -24h stays, unless a time is given instead
    same = _parsed(shown) == timezone.localtime(before).replace(tzinfo=None, microsecond=0)
    return exact if same else shown


def _utc(text: str) -> str:
    """Return a time of the form, which is in the viewer's zone, in UTC; any other text as it is."""
    local = _parsed(text)
    if local is None or not timezone.is_naive(local):
        return text
    try:
        return timezone.make_aware(local).astimezone(UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError):
        return text


def _parsed(text: str) -> datetime | None:
    try:
        return parse_datetime(text)
    except ValueError:
        return None


class FilterChip(NamedTuple):
    """An active filter."""

    label: str | Promise
    value: Any
    url: str  # without it


class FilterLink(TypedDict):
    """Link that sets a filter, or removes it if it is on."""

    icon: str
    label: str | Promise
    on: bool
    url: str


class FormFields(TypedDict):
    """The form: its values, and its choices."""

    parameters: dict[str, str]
    exact: ItemsView[str, str]  # hidden
    endpoints: list[tuple[str, str]]
    models: list[str]
    outcomes: ItemsView[str, str | Promise]
    keys: list[tuple[str, str]]
    queue_classes: ItemsView[str, str | Promise]


def filter_chips(list_query: ListQuery, keys: Mapping[str, str]) -> Iterator[FilterChip]:
    """Yield the active filters that have no separate link. `keys` are names of API keys."""
    links = {(name, value) for name, value, _icon, _label in CHOICES} | {("since", value) for value, _label in PERIODS}
    for name, label in LABELS.items():
        if name in list_query.parameters and (name, list_query.parameters[name]) not in links:
            yield FilterChip(label, _shown_value(list_query, name, keys), list_query.url(name))


def _shown_value(list_query: ListQuery, name: str, keys: Mapping[str, str]) -> Any:
    value = list_query.query.validated_data[name]
    if name == "endpoint_id":
        return registry.name(str(value)) or value
    if name == "api_key_id":
        return keys.get(str(value), value)
    if name == "outcome":
        return OUTCOMES[value]
    if name == "queue_class":
        return labels.QUEUE_CLASSES[value]
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, bool):
        return _("Yes") if value else _("No")
    return value


def filter_links(list_query: ListQuery) -> Iterator[FilterLink]:
    for name, value, icon, label in CHOICES:
        on = list_query.parameters.get(name) == value
        url = list_query.url(name) if on else list_query.url(**{name: value})
        yield {"icon": icon, "label": label, "on": on, "url": url}


def period_links(list_query: ListQuery) -> Iterator[FilterLink]:
    for value, label in PERIODS:
        on = list_query.parameters.get("since") == value and "until" not in list_query.parameters
        yield {"icon": "", "label": label, "on": on, "url": list_query.url("until", since=value)}


def form_fields(list_query: ListQuery, now: Moment, keys: Mapping[str, str]) -> FormFields:
    parameters = dict(list_query.parameters)
    endpoint_id = str(list_query.query.validated_data.get("endpoint_id") or "")
    if registry.get(endpoint_id) is None:
        endpoint_id = ""  # deleted: the page offers it by its id
    exact = {name: parameters[name] for name in TIMES if name in parameters}
    if exact.get("since", "").startswith("-"):
        del parameters["since"]
    if exact.get("until", "").startswith("-"):
        del exact["until"]  # the field shows its time
    for name in TIMES:
        if name in parameters:
            local = timezone.localtime(list_query.query.validated_data[name])
            parameters[name] = local.strftime("%Y-%m-%dT%H:%M:%S")
    return {
        "parameters": parameters,
        "exact": exact.items(),
        "endpoints": sorted((name, value) for value, name in options.endpoints(now, endpoint_id).items()),
        "models": sorted(options.models(now)),
        "outcomes": OUTCOMES.items(),
        "keys": sorted((name, key) for key, name in keys.items()),
        "queue_classes": labels.QUEUE_CLASSES.items(),
    }
