"""Models over all endpoints: who has them, in which state, how fast, and how often they are asked for.

Endpoints with the same canonical name for a model are one row, as in GET /v1/models. A request counts for the row that
its model's name leads to: the name as it is written first, then one that is the same but for capitals.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import lru_cache
from typing import Any, overload

from django.db.models import Q, Sum

from endpoints import capabilities, names
from endpoints.models import OperatorState, Status
from endpoints.registry import Entry, ModelEntry
from gateway.kinds import CAPABILITIES, KINDS
from metrics import routes
from metrics.models import DayRollUp
from metrics.queries import Moment
from metrics.teller import surroundings

WEEK, MONTH = 7, 30  # days, today included

READY, NOT_READY = "ready", "not_ready"
STATES = (READY, NOT_READY)
BY_NAME, BY_REQUESTS, BY_SPEED, BY_ENDPOINTS = "name", "requests", "speed", "endpoints"
SORTS = (BY_NAME, BY_REQUESTS, BY_SPEED, BY_ENDPOINTS)

_APIS = {word: [kind.name for kind in KINDS if kind.capability == word] for word in CAPABILITIES}
_ALL_APIS = sorted(kind.name for kind in KINDS)

Row = dict[str, Any]


@dataclass(slots=True)
class Offered:
    """A model, and which endpoints have it under which name of their own."""

    name: str
    offers: list[tuple[Entry, ModelEntry]] = field(default_factory=list)
    aliases: set[str] = field(default_factory=set)
    capabilities: set[str] = field(default_factory=set)
    known: bool = True  # what it can do, on each endpoint


class Catalogue:
    """All models of some endpoints. `find` leads from any name to the row."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.all: dict[str, Offered] = {}
        self._exact: dict[str, str] = {}
        self._folded: dict[str, str] = {}
        for entry in entries:
            added = capabilities.added(list(entry.capabilities))
            for model in entry.models:
                self._add(entry, model, added)
        for offered in self.all.values():
            for alias in sorted(offered.aliases):
                self._exact.setdefault(alias, offered.name)
        for name in self.all:
            self._exact[name] = name
        for name, row in self._exact.items():
            self._folded.setdefault(name.casefold(), row)

    def find(self, name: str) -> str | None:
        """The row that a request for this name counts for."""
        return self._exact.get(name) or self._folded.get(name.casefold())

    def _add(self, entry: Entry, model: ModelEntry, added: tuple[str, ...]) -> None:
        name = model.canonical_name or model.id
        offered = self.all.get(name)
        if offered is None:
            offered = self.all[name] = Offered(name)
        offered.offers.append((entry, model))
        offered.aliases.add(model.id)
        offered.aliases.update(_aliases(model.id, model.canonical_name))
        able = _together(model.capabilities, added)
        offered.capabilities.update(able)
        offered.known = offered.known and bool(able)


_aliases = lru_cache(maxsize=4096)(names.aliases)
_together = lru_cache(maxsize=1024)(capabilities.together)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which models, in which order."""

    q: str = ""  # in any of its names
    capability: str = ""
    endpoint_id: str = ""
    state: str = ""
    sort: str = BY_NAME


class Rows(Sequence[Row]):
    """Models in order, each made into a row when it is looked at: a page shows few of thousands."""

    def __init__(self, found: list[Offered], make: Callable[[Offered], Row]) -> None:
        self._found = found
        self._make = make

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return [self._make(offered) for offered in self._found[at]]
        return self._make(self._found[at])


def models(moment: Moment, wanted: Wanted) -> Rows:
    """What is wanted. One query."""
    catalogue = Catalogue(moment.entries)
    asked = _asked(catalogue, _counts(moment.figures.date, WEEK))
    speeds = _speeds(catalogue, moment)

    def place(offered: Offered) -> tuple[Any, ...]:
        if wanted.sort == BY_REQUESTS:
            return tuple(-sum(it[name] for it in asked.get(offered.name, ())) for name in _REQUESTS)
        if wanted.sort == BY_SPEED:
            return (-(_fastest(speeds.get(offered.name, ())) or 0),)
        return (-_online(offered), -len(offered.offers)) if wanted.sort == BY_ENDPOINTS else ()

    found = [offered for offered in catalogue.all.values() if _is_wanted(offered, wanted)]
    found.sort(key=lambda offered: (*place(offered), offered.name.casefold(), offered.name))
    return Rows(found, lambda it: _row(it, moment, asked.get(it.name, ()), speeds.get(it.name, [])))


def model(moment: Moment, name: str, days: int = MONTH) -> Row | None:
    """One of them by any of its names, with its days; None where no endpoint has it and nobody asked for it in this
    time. Two queries.
    """
    catalogue = Catalogue(moment.entries)
    row_name = catalogue.find(name)
    offered = catalogue.all[row_name] if row_name else Offered(name, known=False)
    counts = _counts(moment.figures.date, days)
    asked = (
        _asked(catalogue, counts).get(offered.name, ()) if row_name else [it for it in counts if it["model"] == name]
    )
    if row_name is None and not asked:
        return None
    row = _row(offered, moment, asked, _speeds(catalogue, moment).get(offered.name, []))
    row["asked_names"] = sorted(it["model"] for it in asked)
    row["days"] = _days(row["asked_names"], moment.figures.date, days)
    return row


def route(name: str, kind: str, now: float) -> dict[str, Any] | None:
    """What /api/route tells; None while nothing is published or nobody has the model."""
    known = surroundings.snapshot()
    if known is None:
        return None
    found = routes.candidates(known, name, kind, surroundings.in_flight(), surroundings.trials(), now)
    return routes.told(name, kind, found) if found else None


# Rows


def _is_wanted(offered: Offered, wanted: Wanted) -> bool:
    if wanted.q and not any(wanted.q.casefold() in name.casefold() for name in (offered.name, *offered.aliases)):
        return False
    if wanted.capability and wanted.capability not in offered.capabilities:
        return False
    if wanted.state and bool(_online(offered)) != (wanted.state == READY):
        return False
    return not wanted.endpoint_id or any(entry.id == wanted.endpoint_id for entry, _ in offered.offers)


def _row(offered: Offered, moment: Moment, asked: Sequence[Mapping[str, Any]], speeds: list[Row]) -> Row:
    offers = sorted(offered.offers, key=lambda offer: (_severity(offer[0]), offer[0].name))
    by_endpoint = _by_endpoint(speeds)
    return {
        "id": offered.name,
        "object": "model",
        "created": 0,
        "owned_by": "routerdash",
        "lifecycle_status": "registered",
        "download_progress": None,
        "ready": _online(offered) > 0,
        "capabilities": [word for word in CAPABILITIES if word in offered.capabilities],
        "supported_apis": _apis(offered),
        "max_tokens": max((model.max_tokens for _, model in offers if model.max_tokens), default=None),
        "endpoint_ids": sorted({entry.id for entry, _ in offers}),
        "canonical_name": next((model.canonical_name for _, model in offers if model.canonical_name), None),
        "aliases": sorted(offered.aliases - {offered.name}),
        "endpoints": [
            {
                "endpoint_id": entry.id,
                "endpoint_name": entry.name,
                "model_id": model.id,
                "status": entry.status,
                "operator_state": entry.operator_state,
                "shown_status": str(entry.shown_status),
                "max_tokens": model.max_tokens,
                "active_requests": moment.in_flight.get(entry.id, 0),
                "max_concurrency": entry.slots,
                "fastest_tps": _fastest(by_endpoint.get(entry.id, ())),
                "speeds": by_endpoint.get(entry.id, []),
            }
            for entry, model in offers
        ],
        "endpoints_online": _online(offered),
        "fastest_tps": _fastest(speeds),
        **{name: sum(it[name] or 0 for it in asked) for name in _COUNTED},
    }


def _online(offered: Offered) -> int:
    return sum(entry.shown_status == Status.ONLINE for entry, _ in offered.offers)


def _fastest(speeds: Iterable[Row]) -> float | None:
    return max((it["tps"] for it in speeds), default=None)


def _severity(entry: Entry) -> int:
    """Those that answer come first."""
    if entry.operator_state != OperatorState.ENABLED:
        return 4
    order: dict[str, int] = {Status.ONLINE: 0, Status.PENDING: 1, Status.ERROR: 2}
    return order.get(entry.status, 3)


def _apis(offered: Offered) -> list[str]:
    """The kinds of requests that go to it: all, while what it can do is unknown."""
    if not offered.known:
        return _ALL_APIS
    return sorted(api for word in offered.capabilities for api in _APIS[word])


# Speeds


def _speeds(catalogue: Catalogue, moment: Moment) -> dict[str, list[Row]]:
    """Moving averages by row, under every name that was asked for, of endpoints that there are."""
    known = {entry.id: entry.name for entry in moment.entries}
    found: dict[str, list[Row]] = {}
    for (endpoint_id, asked, kind), tps in sorted(moment.figures.speeds.items()):
        name = catalogue.find(asked)
        if name is not None and endpoint_id in known:
            today = moment.figures.today.get((endpoint_id, asked, kind))
            told = {
                "endpoint_id": endpoint_id,
                "model_id": asked,
                "api_kind": kind,
                "tps": tps,
                "request_count": today.successful if today else 0,
            }
            found.setdefault(name, []).append(told)
    return found


def _by_endpoint(speeds: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in speeds:
        found.setdefault(row["endpoint_id"], []).append(row)
    return found


# Counts, from the day roll-ups

_REQUESTS = ("requests_7_days", "requests_today")  # by which models are sorted
_COUNTED = (
    "requests_today", "failed_today", "cancelled_today",
    "requests_7_days", "failed_7_days", "cancelled_7_days", "input_tokens_7_days", "output_tokens_7_days",
)  # fmt: skip


def _counts(today: str, days: int) -> list[Row]:
    """By the name that was asked for: counts of today and of seven days, also of names asked for in `days` only."""
    first = date.fromisoformat(today)
    spans = {"today": Q(date=today), "7_days": Q(date__gt=(first - timedelta(days=WEEK)).isoformat())}
    sums = {
        f"{told}_{span}": Sum(column, filter=only)
        for span, only in spans.items()
        for told, column in (
            ("ok", "requests_ok"),
            ("failed", "requests_failed"),
            ("cancelled", "requests_cancelled"),
            ("input_tokens", "input_tokens"),
            ("output_tokens", "output_tokens"),
        )
    }
    since = (first - timedelta(days=days)).isoformat()
    found: Any = DayRollUp.objects.filter(date__gt=since, date__lte=today).exclude(model="")
    rows = list(found.values("model").annotate(**sums))
    for row in rows:
        for span in spans:
            row[f"requests_{span}"] = (row[f"ok_{span}"] or 0) + (row[f"failed_{span}"] or 0)
    return rows


def _asked(catalogue: Catalogue, counts: Iterable[Row]) -> dict[str, list[Row]]:
    """By row."""
    found: dict[str, list[Row]] = {}
    for row in counts:
        name = catalogue.find(row["model"])
        if name is not None:
            found.setdefault(name, []).append(row)
    return found


_SUMMED = (
    "requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens", "ok_duration_us",
)  # fmt: skip


def _days(asked: Sequence[str], today: str, days: int) -> list[Row]:
    """Days that have requests, newest first."""
    since = (date.fromisoformat(today) - timedelta(days=days)).isoformat()
    found: Any = DayRollUp.objects.filter(date__gt=since, date__lte=today, model__in=asked)
    rows = found.values_list("date").annotate(*map(Sum, _SUMMED)).order_by("-date")
    return [
        {
            "day": day,
            "requests": ok + failed,
            "successful_requests": ok,
            "failed_requests": failed,
            "cancelled_requests": cancelled,
            "input_tokens": tokens_in,
            "output_tokens": tokens_out,
            "average_duration_ms": duration_us / ok / 1000 if ok else None,
        }
        for day, ok, failed, cancelled, tokens_in, tokens_out, duration_us in rows
        if ok or failed or cancelled
    ]
