"""The list of endpoints, from memory. Its URL has the filters and the order."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils.functional import Promise
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache

from endpoints.clouds.kinds import KIND_CHOICES, KIND_LABELS
from endpoints.filters import Selection
from endpoints.lists.page_links import PageLinks
from endpoints.models import OperatorState, Status
from endpoints.page_parts import wants_part
from endpoints.registry import Entry
from metrics.counting.cells import Counters
from metrics.memory.runtime import runtime
from metrics.pages.status_badges import BadgedEndpoint, badge_renderer
from metrics.queries import figures, overview
from metrics.queries.figures import Moment

PAGE = 100  # rows
MODELS = 200  # in the filter: the most widely offered; the search finds all
SEVERITY = (
    Status.OFFLINE, Status.ERROR, Status.PENDING, OperatorState.DRAINING, Status.ONLINE, OperatorState.DISABLED,
)  # fmt: skip
_RANK = {str(state): rank for rank, state in enumerate(SEVERITY)}


Key = Callable[[Entry, Moment], Any]


def _severity(entry: Entry, moment: Moment) -> Any:
    return _RANK.get(entry.shown_status, 0)


def _name(entry: Entry, moment: Moment) -> Any:
    return entry.name.casefold()


def _attempts(name: str) -> Key:
    """Return the key of a counter of attempts."""
    none = Counters()
    return lambda entry, moment: getattr(moment.figures.endpoints.get(entry.id, none), name)


@dataclass(frozen=True, slots=True)
class Column:
    """Column of the list. `down` sorts the largest first at the first click. Rows without a value are always last."""

    name: str
    label: str | Promise
    key: Key
    down: bool = False
    css: str = "n"


COLUMNS = (
    Column("name", _("Name"), _name, css="c-name"),
    Column("status", _("Status"), _severity, css="c-status"),
    Column("in_flight", _("In flight"), lambda entry, moment: moment.in_flight.get(entry.id, 0), down=True),
    Column("speed", _("tok/s"), figures.tokens_per_second, down=True),
    Column("latency", _("Latency"), lambda entry, moment: entry.latency_ms),
    Column("attempts", _("Attempts"), _attempts("total"), down=True),
    Column("failed", _("Failed"), _attempts("failed"), down=True),
    Column("models", _("Models"), lambda entry, moment: len(entry.models), down=True, css="n opt"),
)
# A list to choose from, for phones, where the table has no header.
ORDERS = [
    (f"{sign}{column.name}", format_lazy("{} {}", column.label, arrow))
    for column in COLUMNS
    for sign, arrow in (("", "↑"), ("-", "↓"))
]
BY_NAME = {column.name: column for column in COLUMNS}
DEFAULT = "status"


@dataclass(frozen=True, slots=True)
class ColumnHeader:
    """Header of a column: the link that sorts by it, and the present order."""

    column: Column
    query: str
    order: str  # ascending, descending or empty


@dataclass(frozen=True, slots=True)
class EndpointListQuery:
    """The valid parameters of the URL. `notes` names the ignored ones."""

    selection: Selection
    sort: str
    down: bool
    page: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "EndpointListQuery":
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
        """Return the query of the first page with some parameters changed; defaults are omitted."""
        sort = ("-" if self.down else "") + self.sort
        values = {**self.filters, "sort": None if sort == DEFAULT else sort, **changed}
        return urlencode({name: value for name, value in values.items() if value})

    def head(self, column: Column) -> ColumnHeader:
        here = column.name == self.sort
        down = not self.down if here else column.down
        order = ("descending" if self.down else "ascending") if here else ""
        return ColumnHeader(column, self.query(sort=("-" if down else "") + column.name), order)


def select(query: EndpointListQuery, moment: Moment) -> list[Entry]:
    """Return the selected endpoints, sorted; equal ones by name."""
    key = BY_NAME[query.sort].key
    selected = sorted(query.selection.of(moment.entries), key=lambda entry: (entry.name.casefold(), entry.id))
    values = {entry.id: key(entry, moment) for entry in selected}
    measured = [entry for entry in selected if values[entry.id] is not None]
    measured.sort(key=lambda entry: values[entry.id], reverse=query.down)
    return measured + [entry for entry in selected if values[entry.id] is None]


def rows(entries: list[Entry], moment: Moment) -> list[BadgedEndpoint]:
    badges = badge_renderer(quiet=True)
    return [
        {
            **row,
            **badges(entry.shown_status, row),
            "entry": entry,
            "kind": KIND_LABELS.get(entry.kind, entry.kind),
        }
        for row, entry in zip(figures.endpoints(moment, entries), entries, strict=True)
    ]


def choices(entries: Iterable[Entry]) -> dict[str, list[tuple[str, Any, int]]]:
    """Return the choices of the filters, each with its number of endpoints."""
    all_entries = list(entries)
    states = Counter(entry.shown_status for entry in all_entries)
    kinds = Counter(entry.kind for entry in all_entries)
    models = _most_offered(all_entries)
    tags = Counter(tag for entry in all_entries for tag in set(entry.tags))
    labels = dict(Status.choices) | dict(OperatorState.choices)
    return {
        "states": [(name, labels.get(name, name), states[name]) for name in _RANK if states[name]],
        "kinds": [(name, label, kinds[name]) for name, label in KIND_CHOICES if kinds[name]],
        "models": [(name, name, number) for name, number in sorted(models)],
        "tags": [(name, name, number) for name, number in sorted(tags.items(), key=lambda pair: pair[0].casefold())],
    }


def _most_offered(entries: Iterable[Entry]) -> list[tuple[str, int]]:
    """Return the models that most endpoints have, with the numbers of endpoints."""
    return Counter(name for entry in entries for name in {model.id for model in entry.models}).most_common(MODELS)


@never_cache
@login_required
def endpoints(request: HttpRequest) -> HttpResponse:
    """Return the page, or the table alone for an open page. No query."""
    moment = Moment.now()
    query = EndpointListQuery.of(request.GET)
    selected = select(query, moment)
    page = Paginator(selected, PAGE).get_page(query.page)
    context = {
        "list_query": query,
        "heads": [query.head(column) for column in COLUMNS],
        "rows": rows(list(page), moment),
        "match_count": len(selected),
        "total": len(moment.entries),
        "prefix": runtime.installation.prefix_share(),
        "page": page,
        "pages": PageLinks.of(page, query.query),
        "digests": overview.digests(moment),
        "orders": ORDERS,
        "chosen": query.filters,
        "stats": figures.stats(moment),
        "sorted_by": ("-" if query.down else "") + query.sort,
        "here": request.get_full_path(),
    }
    if wants_part(request):
        return render(request, "endpoints/table.html", context)
    return render(request, "endpoints/page.html", context | choices(moment.entries))


URLS = [path("endpoints", endpoints, name="endpoints")]
