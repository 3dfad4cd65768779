"""The history as people read it: a list with filters, one request beside it or on a page of its own, its bodies, and
exports. Needs the database.

The address takes what /api/requests takes, and gives the same requests. What it does not understand is left out, and
said so.
"""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.cache import never_cache

from endpoints.registry import registry
from gateway import bounds, record
from gateway.balancer import MOST_NOTED
from metrics import bodies, downloads, history, queries, waterfall, words
from metrics.history import BadCursor, Page
from metrics.serializers import ExportQuerySerializer, RequestPageQuerySerializer
from metrics.templatetags.figures import moment

PERIODS = (
    ("-15m", gettext_lazy("15 min")),
    ("-1h", gettext_lazy("1 h")),
    ("-24h", gettext_lazy("24 h")),
    ("-7d", gettext_lazy("7 d")),
)
CHOICES = (
    ("outcome", history.ERROR, "st-error", gettext_lazy("Not OK")),
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
    "min_duration_ms": gettext_lazy("Duration, at least (ms)"),
    "min_tokens": gettext_lazy("Tokens, at least"),
    "retried": gettext_lazy("Retried"),
    "streamed": gettext_lazy("Streamed"),
    "request_id": gettext_lazy("Request id of the client"),
}
PAGED = ("cursor", "limit")
OWN = ("id", "tail", "part", "scale", "after", "q", "format", "progress")  # what only pages know
OUTCOMES = {history.ERROR: gettext_lazy("Any but OK"), **words.OUTCOMES}


@dataclass(frozen=True, slots=True)
class Asked:
    """What an address asks for, as far as it can be understood."""

    given: dict[str, str]  # what was understood of filters and pages, as it was written
    query: RequestPageQuerySerializer
    notes: list[str]  # what was left out
    tail: bool  # new requests are shown as they end

    @property
    def filters(self) -> dict[str, str]:
        return {name: value for name, value in self.given.items() if name not in PAGED}

    def address(self, *without: str, **other: str) -> str:
        """Of the first page with these filters, but for some."""
        kept = {name: value for name, value in self.given.items() if name not in (*without, "cursor")}
        if self.tail and "tail" not in without:
            kept["tail"] = "1"
        text = urlencode({**kept, **other})
        return f"{reverse('requests')}?{text}" if text else reverse("requests")

    @property
    def here(self) -> str:
        """Of this page, and no request beside it."""
        return self.address(**{name: value for name, value in self.given.items() if name == "cursor"})


class Chip(NamedTuple):
    label: Any
    value: Any
    url: str  # without it


class Shown(NamedTuple):
    """A request as a row of the list has it."""

    it: dict[str, Any]
    ended: datetime
    key: str | None
    spans: list[waterfall.Span]
    cursor: str  # of what is older
    form: str  # of its moment


def understood(parameters: Mapping[str, str]) -> Asked:
    given = {name: value for name, value in parameters.items() if name not in OWN and value}
    notes: list[str] = []
    query = RequestPageQuerySerializer(data=given)
    while not query.is_valid():
        for name in query.errors.keys() & given.keys():
            why = " ".join(map(str, query.errors[name]))
            said = _("Left out of what was asked for: %(name)s=%(value)s. %(why)s")
            notes.append(said % {"name": name, "value": given.pop(name)[:100], "why": why})
        query = RequestPageQuerySerializer(data=given)
    tail = parameters.get("tail") == "1" and not given.keys() & {"cursor", "until"}
    return Asked(given, query, notes, tail)


def _canonical(request: HttpRequest) -> str | None:
    """An address without empty fields, and of moments that mean the same to everybody; None if it is one already."""
    lists = {name: [text.strip() for text in map(str, texts)] for name, texts in request.GET.lists()}
    given = {name: next((text for text in reversed(texts) if text), "") for name, texts in lists.items()}
    for name in ("since", "until"):
        if name in lists:
            given[name] = _kept(*lists[name])
        found = _naive(given.get(name, ""))
        if found is not None:
            given[name] = found.astimezone(UTC).isoformat().replace("+00:00", "Z")
    kept = {name: value for name, value in given.items() if value}
    same = {name: [value] for name, value in kept.items()} == dict(request.GET.lists())
    return None if same else f"{reverse('requests')}?{urlencode(kept)}"


def _kept(*texts: str) -> str:
    """What a form gives of a moment: as the address had it, and as the clock shows it, where an hour may come twice
    and there are no fractions of a second. As long as that is not changed, the moment is the same.
    """
    before, seen = texts[0], texts[-1]
    try:
        exact = parse_datetime(before)
        if exact is None or timezone.is_naive(exact):
            return seen or before  # a period stays, unless a moment is given instead
        same = parse_datetime(seen) == timezone.localtime(exact).replace(tzinfo=None, microsecond=0)
    except (ValueError, OverflowError):
        return seen or before
    return before if same else seen


def _naive(text: str) -> datetime | None:
    """What a form gives: a moment on the viewer's clock."""
    try:
        found = parse_datetime(text)
        return timezone.make_aware(found) if found is not None and timezone.is_naive(found) else None
    except (ValueError, OverflowError):
        return None


@never_cache
@login_required
def request_list(request: HttpRequest) -> HttpResponse:
    address = _canonical(request)
    if address is not None:
        return redirect(address)
    behind = not queries.flushed()
    sought = request.GET.get("q", "")
    if sought:
        found = queries.find(sought[:1000])
        if len(found) == 1:
            return redirect("request", request_id=found[0]["id"])
        if found:
            return redirect(f"{reverse('requests')}?{urlencode({'request_id': sought})}")
    asked = understood(request.GET.dict())
    if request.GET.get("part") == "drawer":
        return _drawer(request, asked)
    if request.GET.get("part") == "rows":
        return _new_rows(request, asked, behind=behind)
    return _list(request, asked, sought=sought, behind=behind)


def _new_rows(request: HttpRequest, asked: Asked, *, behind: bool) -> HttpResponse:
    """For a list that has those up to the moment `after`; it hears whether there are more than the database has."""
    wanted, after = asked.query.wanted, history.moment(request.GET.get("after", ""))
    if after is not None:
        wanted = replace(wanted, since=after if wanted.since is None else max(after, wanted.since))
    page = queries.requests(wanted, None, _size(asked))
    context = _of_rows(request, asked, list(_rows(page, queries.key_names())))
    return render(request, "inc/request_rows.html", {**context, "more_to_come": behind})


def _of_rows(request: HttpRequest, asked: Asked, rows: list[Shown]) -> dict[str, Any]:
    return {
        "rows": rows,
        "scale_ms": _given_scale(request) or _scale(rows),
        "known": {entry.id for entry in registry.all()},
        "link": asked.here + ("&" if "?" in asked.here else "?"),
        "chosen": request.GET.get("id", ""),
    }


def _list(
    request: HttpRequest, asked: Asked, *, sought: str = "", behind: bool = False, status: int = 200
) -> HttpResponse:
    page = _page(asked, sought)
    if page.previous is None and page.next is not None and "cursor" in asked.given and len(page.rows) < _size(asked):
        return redirect(asked.address())  # the newest, of which only a part is newer than the page before
    keys = queries.key_names()
    context = {
        **_of_rows(request, asked, list(_rows(page, keys))),
        "asked": asked,
        "page": page,
        "size": _size(asked),
        "sought": sought,
        "behind": behind,
        "now": timezone.now(),
        "tail_on": asked.address(tail="1") if "until" not in asked.given else None,
        "tail_off": asked.address("tail"),
        "older": page.next and asked.address(cursor=page.next.encode()),
        "newer": page.previous and asked.address(cursor=page.previous.encode()),
        "first": asked.address(),
        "chips": list(_chips(asked, keys)),
        "choices": list(_choices(asked)),
        "periods": list(_periods(asked)),
        "every_time": asked.address("since", "until"),
        "fields": _fields(asked, keys),
        "exports": urlencode(asked.filters),
        "stops": history.LOOK,
        "stops_scattered": history.LOOK_SCATTERED,
        "kept_days": settings.ROUTERDASH.history_retention_days,
        **_one(request),
        "closed": asked.here,
    }
    return render(request, "requests.html", context, status=status)


def _page(asked: Asked, sought: str) -> Page:
    if sought:
        return Page([], None, None)
    given = asked.query.validated_data
    try:
        return queries.requests(asked.query.wanted, given.get("cursor"), given["limit"])
    except BadCursor:
        asked.notes.append(_("There is no such page; this is the first."))
        asked.given.pop("cursor")
        return queries.requests(asked.query.wanted, None, given["limit"])


def _size(asked: Asked) -> int:
    size: int = asked.query.validated_data["limit"]
    return size


def _rows(page: Page, keys: Mapping[str, str]) -> Iterator[Shown]:
    today = timezone.localdate()
    for row in page.rows:
        told = history.told(row, registry.name)
        ended = history.moment(row[1]) or datetime.fromtimestamp(0, UTC)
        cursor = history.Cursor(history.moment_text(row[1]), str(row[0])).encode()
        form = "%H:%M:%S" if timezone.localdate(ended) == today else "%m-%d %H:%M:%S"
        yield Shown(told, ended, keys.get(told["api_key_id"] or ""), list(waterfall.spans(told)), cursor, form)


def _scale(rows: list[Shown]) -> float:
    """What the small timelines of a page are drawn on; a few that took far longer do not flatten all others."""
    lengths = sorted(row.it["duration_ms"] for row in rows)
    return float(lengths[round(0.95 * (len(lengths) - 1))]) if lengths else 0.0


def _given_scale(request: HttpRequest) -> float | None:
    """What the rows are drawn on that a page has already."""
    text = request.GET.get("scale", "")
    return float(text) if len(text) < 20 and text.replace(".", "", 1).isdecimal() and text.isascii() else None


def _chips(asked: Asked, keys: Mapping[str, str]) -> Iterator[Chip]:
    """What is filtered by, but for what has a choice of its own."""
    own = {(name, value) for name, value, _icon, _label in CHOICES} | {("since", value) for value, _label in PERIODS}
    for name, label in LABELS.items():
        if name in asked.given and (name, asked.given[name]) not in own:
            yield Chip(label, _value(asked, name, keys), asked.address(name))


def _value(asked: Asked, name: str, keys: Mapping[str, str]) -> Any:
    value = asked.query.validated_data[name]
    if name == "endpoint_id":
        return registry.name(str(value)) or value
    if name == "api_key_id":
        return keys.get(str(value), value)
    if name == "outcome":
        return OUTCOMES[value]
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, bool):
        return _("Yes") if value else _("No")
    return value


def _choices(asked: Asked) -> Iterator[dict[str, Any]]:
    for name, value, icon, label in CHOICES:
        on = asked.given.get(name) == value
        url = asked.address(name) if on else asked.address(**{name: value})
        yield {"icon": icon, "label": label, "on": on, "url": url}


def _periods(asked: Asked) -> Iterator[dict[str, Any]]:
    for value, label in PERIODS:
        on = asked.given.get("since") == value and "until" not in asked.given
        yield {"label": label, "on": on, "url": asked.address("until", since=value)}


def _fields(asked: Asked, keys: Mapping[str, str]) -> dict[str, Any]:
    """Of the form: what there is to choose from, and what is chosen."""
    given = dict(asked.given)
    exact = {name: given[name] for name in ("since", "until") if name in given}
    if exact.get("since", "").startswith("-"):
        del given["since"]
    if exact.get("until", "").startswith("-"):
        del exact["until"]  # shown as the moment that it is
    for name in ("since", "until"):
        if name in given:
            local = timezone.localtime(asked.query.validated_data[name])
            given[name] = local.strftime("%Y-%m-%dT%H:%M:%S")
    return {
        "given": given,
        "exact": exact.items(),
        "endpoints": sorted((entry.name, entry.id) for entry in registry.all()),
        "models": sorted({model.id for entry in registry.all() for model in entry.models}),
        "outcomes": OUTCOMES.items(),
        "keys": sorted((name, key) for key, name in keys.items()),
    }


# One request


def _told(request_id: str) -> dict[str, Any] | None:
    """What its page and the drawer show."""
    told = queries.request(request_id)
    if told is None:
        return None
    ended = history.moment(told["completed_at"])
    assert ended is not None
    return {
        "it": told,
        "ended": ended,
        "arrived": ended - timedelta(milliseconds=told["duration_ms"]),
        "spans": list(waterfall.spans(told)),
        "total_ms": waterfall.total_ms(told),
        "most_noted": MOST_NOTED,
        "known": {entry.id for entry in registry.all()},
        "has_bodies": bodies.are_stored(request_id),
        "store_bodies": settings.ROUTERDASH.store_bodies,
    }


def _one(request: HttpRequest) -> dict[str, Any]:
    """The one that the list's address names; `gone` where there is none."""
    text = request.GET.get("id", "")
    if not text:
        return {}
    try:
        told = _told(str(uuid.UUID(text)))
    except ValueError:
        told = None
    return {"gone": True} if told is None else {**told, "may_see_bodies": bodies.may_see(request.user)}


def _drawer(request: HttpRequest, asked: Asked) -> HttpResponse:
    told = _one(request)
    if "it" not in told:
        raise Http404
    return render(request, "inc/request_drawer.html", {**told, "closed": asked.here})


@never_cache
@login_required
def request_detail(request: HttpRequest, request_id: uuid.UUID) -> HttpResponse:
    queries.flushed()
    told = _told(str(request_id))
    if told is None:
        raise Http404
    return render(request, "request.html", {**told, "may_see_bodies": bodies.may_see(request.user)})


@never_cache
@login_required
def request_bodies(request: HttpRequest, request_id: uuid.UUID) -> HttpResponse:
    if not bodies.may_see(request.user):
        raise PermissionDenied
    queries.flushed()
    told = _told(str(request_id))
    found = bodies.look(request.user, str(request_id))
    if told is None or found is None:
        raise Http404
    shown: dict[str, Any] = {
        name: None if body is None else bodies.shown(body)
        for name, body in (("asked", found.request), ("answered", found.response))
    }
    shown["errors"] = found.errors
    return render(request, "request.html", {**told, "may_see_bodies": True, "bodies": shown})


# Exports


@never_cache
@login_required
def export(request: HttpRequest) -> HttpResponseBase:
    """Of everything that the list's filters leave; the list again, where it cannot be."""
    given = {name: str(value) for name, value in request.GET.items() if value and name not in PAGED}
    query = ExportQuerySerializer(data=given)
    if not query.is_valid():
        asked = understood(given)
        asked.notes.append(_("The export was not begun."))
        return _list(request, asked, status=400)
    name = query.validated_data.get("progress")
    try:
        return downloads.answer(query.wanted, query.validated_data["format"], request.user.pk, name and str(name))
    except downloads.Full as full:
        asked = understood(given)
        asked.notes.append(_full(full))
        answer = _list(request, asked, status=429)
        answer.headers["Retry-After"] = str(downloads.RETRY_SECONDS)
        return answer


def _full(full: downloads.Full) -> str:
    if full.bound is bounds.USER_EXPORTS:
        most = downloads.MOST_OF_ONE
        said = ngettext(
            "%(count)s export of yours runs already, and no more may at once; try again in a moment.",
            "%(count)s exports of yours run already, and no more may at once; try again in a moment.",
            most,
        )
    else:
        most = downloads.MOST_AT_ONCE
        said = ngettext(
            "%(count)s export runs already, and no more may at once; try again in a moment.",
            "%(count)s exports run already, and no more may at once; try again in a moment.",
            most,
        )
    return said % {"count": most}


URLS = [
    path("requests", request_list, name="requests"),
    path("requests/export", export, name="requests-export"),
    path("requests/<uuid:request_id>", request_detail, name="request"),
    path("requests/<uuid:request_id>/bodies", request_bodies, name="request-bodies"),
]
