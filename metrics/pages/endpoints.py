"""The list of endpoints: everything on it is in memory. What is chosen and how it is sorted stands in the address."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils.functional import Promise
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache

from endpoints.models import Kind, OperatorState, Status
from endpoints.registry import Entry, registry
from endpoints.selection import Selection
from endpoints.views import is_htmx
from metrics import queries
from metrics.pages.signs import signed
from metrics.queries import Moment

PAGE = 200  # rows
MODELS = 200  # that the filter offers: the most widely offered; the search finds all
SEVERITY = (
    Status.OFFLINE, Status.ERROR, Status.PENDING, OperatorState.DRAINING, Status.ONLINE, OperatorState.DISABLED,
)  # fmt: skip
_RANK = {str(state): rank for rank, state in enumerate(SEVERITY)}

KINDS: dict[str, Any] = dict(Kind.choices)

Row = dict[str, Any]
Key = Callable[[Row], Any]


def _severity(row: Row) -> Any:
    return _RANK.get(row["entry"].shown_status, 0)


def _name(row: Row) -> Any:
    return row["name"].casefold()


@dataclass(frozen=True, slots=True)
class Column:
    """`down`: the first press sorts the largest first. Rows without a value come last either way."""

    name: str
    label: str | Promise
    key: Key
    down: bool = False
    css: str = "n"


COLUMNS = (
    Column("name", _("Name"), _name, css="c-name"),
    Column("status", _("Status"), _severity, css="c-status"),
    Column("in_flight", _("In flight"), lambda row: row["active_requests"], down=True),
    Column("speed", _("Tokens/s"), lambda row: row["tokens_per_second"], down=True),
    Column("latency", _("Latency"), lambda row: row["latency_ms"]),
    Column("attempts", _("Attempts"), lambda row: row["total_requests"], down=True),
    Column("failed", _("Failed"), lambda row: row["failed_requests"], down=True),
    Column("models", _("Models"), lambda row: row["model_count"], down=True, css="n opt"),
)
# As a list to choose from, where there are no heads to press: on phones.
ORDERS = [
    (f"{sign}{it.name}", format_lazy("{} {}", it.label, arrow))
    for it in COLUMNS
    for sign, arrow in (("", "↑"), ("-", "↓"))
]
BY_NAME = {column.name: column for column in COLUMNS}
DEFAULT = "status"


@dataclass(frozen=True, slots=True)
class Head:
    """A column's head: where a press on it leads, and how the table is sorted by it now."""

    column: Column
    query: str
    order: str  # ascending, descending or empty


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address says. What it cannot mean is left out, and `notes` tells."""

    selection: Selection
    sort: str
    down: bool
    page: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Asked":
        sort, down = query.get("sort", DEFAULT).removeprefix("-"), query.get("sort", "").startswith("-")
        page = query.get("page", "1")
        notes = []
        if sort not in BY_NAME:
            notes.append("sort")
            sort, down = DEFAULT, False
        if not (page.isascii() and page.isdigit() and 0 < len(page) < 6):
            notes.append("page")
            page = "1"
        chosen = (query.get(name, "").strip()[:200] or None for name in ("q", "status", "type", "model", "tag"))
        return cls(Selection(*chosen), sort, down, max(1, int(page)), tuple(notes))

    @property
    def filters(self) -> dict[str, str]:
        chosen = self.selection
        values = {
            "q": chosen.search, "status": chosen.status, "type": chosen.kind, "model": chosen.model, "tag": chosen.tag,
        }  # fmt: skip
        return {name: value for name, value in values.items() if value}

    def query(self, **changed: str | None) -> str:
        """This address with something changed; without what is as it would be anyway. The page begins anew."""
        sort = ("-" if self.down else "") + self.sort
        values = {**self.filters, "sort": None if sort == DEFAULT else sort, **changed}
        return urlencode({name: value for name, value in values.items() if value})

    def head(self, column: Column) -> Head:
        here = column.name == self.sort
        down = not self.down if here else column.down
        order = ("descending" if self.down else "ascending") if here else ""
        return Head(column, self.query(sort=("-" if down else "") + column.name), order)


def rows(asked: Asked, moment: Moment) -> list[Row]:
    """Those of the selection, sorted; equal ones by name."""
    chosen = {entry.id for entry in asked.selection.of(moment.entries)}
    pairs = zip(queries.endpoints(moment), moment.entries, strict=True)
    found = [
        row | {"entry": entry, "kind": KINDS.get(entry.kind, entry.kind)} for row, entry in pairs if entry.id in chosen
    ]
    key = BY_NAME[asked.sort].key
    found.sort(key=_name)
    measured = [row for row in found if key(row) is not None]
    measured.sort(key=key, reverse=asked.down)
    return measured + [row for row in found if key(row) is None]


def choices(entries: Iterable[Entry]) -> dict[str, list[tuple[str, Any, int]]]:
    """What the filters offer: what there is, and how many endpoints have it."""
    every = list(entries)
    states = Counter(entry.shown_status for entry in every)
    kinds = Counter(entry.kind for entry in every)
    models = Counter(name for entry in every for name in {it.id for it in entry.models}).most_common(MODELS)
    tags = Counter(tag for entry in every for tag in set(entry.tags))
    labels = dict(Status.choices) | dict(OperatorState.choices)
    return {
        "states": [(name, labels.get(name, name), states[name]) for name in _RANK if states[name]],
        "kinds": [(name, label, kinds[name]) for name, label in Kind.choices if kinds[name]],
        "models": [(name, name, number) for name, number in sorted(models)],
        "tags": [(name, name, number) for name, number in sorted(tags.items(), key=lambda it: it[0].casefold())],
    }


@never_cache
@login_required
def endpoints(request: HttpRequest) -> HttpResponse:
    """Whole, or the table alone for an open page. No query."""
    moment = Moment.now()
    asked = Asked.of(request.GET)
    found = rows(asked, moment)
    pages = max(1, -(-len(found) // PAGE))
    page = min(asked.page, pages)
    context = {
        "asked": asked,
        "heads": [asked.head(column) for column in COLUMNS],
        "rows": signed(found[(page - 1) * PAGE : page * PAGE], quiet=True),
        "found": len(found),
        "total": len(registry.all()),
        "page": page,
        "pages": pages,
        "orders": ORDERS,
        "chosen": asked.filters,
        "page_numbers": [(number, asked.query(page=str(number))) for number in range(1, pages + 1)],
        "stats": queries.stats(moment),
        "sorted_by": ("-" if asked.down else "") + asked.sort,
        "here": request.get_full_path(),
    }
    if is_htmx(request):
        return render(request, "inc/endpoints_table.html", context)
    return render(request, "endpoints.html", context | choices(moment.entries))


URLS = [path("endpoints", endpoints, name="endpoints")]
