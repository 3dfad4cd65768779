"""Models over all endpoints: their endpoints, states, speeds and requests."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, cast, overload

from django.db.models import Q, Sum

from endpoints.models import OperatorState, Status
from endpoints.registry import Entry
from gateway.base.request_kinds import CAPABILITIES
from gateway.routing.lists.model_facts import facts_of
from gateway.routing.model_list import ModelOffer, model_payload, supported_apis
from metrics import sql
from metrics.costs.of_period import CostsPayload, CurrencySums, cost_sums, costs_of, last_days, total_of
from metrics.counting.reported_details import TokenDetailsPayload, detail_counts
from metrics.counting.token_details import DETAIL_COLUMNS
from metrics.models import DayRollUp
from metrics.queries.figures import Moment
from metrics.queries.model_catalogue import Catalogue, CatalogueModel
from metrics.queries.model_payloads import (
    CatalogueModelDetailPayload,
    CatalogueModelPayload,
    ModelCounts,
    ModelDayPayload,
    SpeedPayload,
)

WEEK, MONTH = 7, 30  # days, today included

READY, NOT_READY = "ready", "not_ready"
STATES = (READY, NOT_READY)
BY_NAME, BY_REQUESTS, BY_SPEED, BY_ENDPOINTS = "name", "requests", "speed", "endpoints"
SORTS = (BY_NAME, BY_REQUESTS, BY_SPEED, BY_ENDPOINTS)


@dataclass(frozen=True, slots=True)
class ModelFilter:
    """Conditions on models, and their order. An empty text is no condition."""

    q: str = ""  # part of any of its names
    capability: str = ""
    endpoint_id: str = ""
    state: str = ""
    sort: str = BY_NAME


class ModelRows(Sequence[CatalogueModelPayload]):
    """Models in order. A payload is built on access: a page shows few of thousands."""

    def __init__(
        self, listed_models: list[CatalogueModel], build: Callable[[CatalogueModel], CatalogueModelPayload]
    ) -> None:
        self._listed_models = listed_models
        self._build = build

    def __len__(self) -> int:
        return len(self._listed_models)

    @overload
    def __getitem__(self, index: int) -> CatalogueModelPayload: ...
    @overload
    def __getitem__(self, index: slice) -> list[CatalogueModelPayload]: ...
    def __getitem__(self, index: int | slice) -> CatalogueModelPayload | list[CatalogueModelPayload]:
        if isinstance(index, slice):
            return [self._build(listed) for listed in self._listed_models[index]]
        return self._build(self._listed_models[index])


def models(moment: Moment, model_filter: ModelFilter) -> ModelRows:
    """Return the models that match. Two queries."""
    catalogue = Catalogue(moment.entries)
    costs = _week_costs(moment)
    counts = _by_model(catalogue, _counts(moment.figures.date, WEEK))
    speeds = _speeds(catalogue, moment)

    def order(listed: CatalogueModel) -> tuple[Any, ...]:
        if model_filter.sort == BY_REQUESTS:
            names = counts.get(listed.name, ())
            return (
                -sum(listed.counts["requests_7_days"] for listed in names),
                -sum(listed.counts["requests_today"] for listed in names),
            )
        if model_filter.sort == BY_SPEED:
            return (-(_fastest(speeds.get(listed.name, ())) or 0),)
        return (-catalogue.online(listed), -len(listed.offers)) if model_filter.sort == BY_ENDPOINTS else ()

    selected = [listed for listed in catalogue.all.values() if _matches(listed, model_filter, catalogue)]
    selected.sort(key=lambda listed: (*order(listed), listed.name.casefold(), listed.name))
    return ModelRows(
        selected,
        lambda listed: _row(catalogue, listed, moment, counts.get(listed.name, ()), speeds.get(listed.name, []), costs),
    )


def model(moment: Moment, name: str, days: int = MONTH) -> CatalogueModelDetailPayload | None:
    """Return a model by any of its names, with its last days. Four queries.

    Return None if no endpoint has it and no request named it in this time.
    """
    catalogue = Catalogue(moment.entries)
    row_name = catalogue.find(name)
    listed = catalogue.all[row_name] if row_name else CatalogueModel(name, all_capabilities_known=False)
    counts = _counts(moment.figures.date, days)
    names = (
        _by_model(catalogue, counts).get(listed.name, ()) if row_name else [row for row in counts if row.model == name]
    )
    if row_name is None and not names:
        return None
    asked_names = sorted(row.model for row in names)
    rows, details, costs = _days(asked_names, moment.figures.date, days)
    return {
        **_row(catalogue, listed, moment, names, _speeds(catalogue, moment).get(listed.name, []), _week_costs(moment)),
        "asked_names": asked_names,
        "days": rows,
        "token_details": details,
        "costs": costs,
    }


# Rows


def _matches(listed: CatalogueModel, model_filter: ModelFilter, catalogue: Catalogue) -> bool:
    if model_filter.q and not any(
        model_filter.q.casefold() in name.casefold() for name in (listed.name, *listed.aliases)
    ):
        return False
    if model_filter.capability and model_filter.capability not in listed.capabilities:
        return False
    if model_filter.state and bool(catalogue.online(listed)) != (model_filter.state == READY):
        return False
    return not model_filter.endpoint_id or any(
        endpoint_id == model_filter.endpoint_id for endpoint_id, _ in listed.offers
    )


def _row(
    catalogue: Catalogue,
    listed: CatalogueModel,
    moment: Moment,
    counts: Sequence["NameCounts"],
    speeds: list[SpeedPayload],
    costs: Mapping[str, CurrencySums],
) -> CatalogueModelPayload:
    online = catalogue.online(listed)
    offers = sorted(catalogue.offers(listed), key=lambda offer: (_severity(offer[0]), offer[0].name))
    by_endpoint = _by_endpoint(speeds)
    return {
        **model_payload(
            listed.name,
            [
                ModelOffer(entry.id, model.max_tokens, model.canonical_name, entry.created(model))
                for entry, model in offers
            ],
            ready=online > 0,
            capabilities=[word for word in CAPABILITIES if word in listed.capabilities],
            apis=supported_apis(listed.capabilities, known=listed.all_capabilities_known),
            names=listed.aliases,
            facts=facts_of(model for _, model in offers),
        ),
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
        "endpoints_online": online,
        "fastest_tps": _fastest(speeds),
        **_sum_counts(counts),
        "costs_7_days": costs_of(
            sum(row.counts["requests_7_days"] + row.counts["cancelled_7_days"] for row in counts),
            total_of(costs.get(row.model, {}) for row in counts),
        ),
    }


def _week_costs(moment: Moment) -> dict[str, CurrencySums]:
    """Return the costs of seven days by requested name. One query."""
    return cost_sums("model", last_days(moment.figures.date, WEEK))


def _fastest(speeds: Iterable[SpeedPayload]) -> float | None:
    return max((speed["tps"] for speed in speeds), default=None)


def _severity(entry: Entry) -> int:
    """Rank endpoints that serve requests first."""
    if entry.operator_state != OperatorState.ENABLED:
        return 4
    order: dict[str, int] = {Status.ONLINE: 0, Status.PENDING: 1, Status.ERROR: 2}
    return order.get(entry.status, 3)


# Speeds


def _speeds(catalogue: Catalogue, moment: Moment) -> dict[str, list[SpeedPayload]]:
    """Return moving averages by row, under every requested name, of endpoints that exist."""
    ids = {entry.id for entry in moment.entries}
    by_model: dict[str, list[SpeedPayload]] = {}
    for (endpoint_id, requested, kind), tps in sorted(moment.figures.speeds.items()):
        name = catalogue.find(requested)
        if name is not None and endpoint_id in ids:
            today = moment.figures.today.get((endpoint_id, requested, kind))
            by_model.setdefault(name, []).append(
                {
                    "endpoint_id": endpoint_id,
                    "model_id": requested,
                    "api_kind": kind,
                    "tps": tps,
                    "request_count": today.successful if today else 0,
                }
            )
    return by_model


def _by_endpoint(speeds: Iterable[SpeedPayload]) -> dict[str, list[SpeedPayload]]:
    by_endpoint: dict[str, list[SpeedPayload]] = {}
    for row in speeds:
        by_endpoint.setdefault(row["endpoint_id"], []).append(row)
    return by_endpoint


# Counts, from the day roll-ups


@dataclass(frozen=True, slots=True)
class NameCounts:
    """Counts of one requested name."""

    model: str
    counts: ModelCounts


def _sum_counts(counts: Sequence[NameCounts]) -> ModelCounts:
    sums = {name: sum(row.counts[name] for row in counts) for name in ModelCounts.__annotations__}  # type: ignore[literal-required]
    return cast(ModelCounts, sums)


_SPANS = ("today", "7_days")
_SUMMED = ("requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens")


def _counts(today: str, days: int) -> list[NameCounts]:
    """Return counts of today and of seven days by requested name, also for names of `days` only."""
    last = date.fromisoformat(today)
    spans = (Q(date=today), Q(date__gt=(last - timedelta(days=WEEK)).isoformat()))
    sums = {
        f"{column}_{span}": Sum(column, filter=only)
        for span, only in zip(_SPANS, spans, strict=True)
        for column in _SUMMED
    }
    since = (last - timedelta(days=days)).isoformat()
    rows: Any = DayRollUp.objects.filter(date__gt=since, date__lte=today).exclude(model="")
    return [
        _name_counts(row)
        for row in rows.values("model").annotate(**{f"sum_{name}": expression for name, expression in sums.items()})
    ]


def _name_counts(row: Mapping[str, Any]) -> NameCounts:
    def count(column: str, span: str) -> int:
        return row[f"sum_{column}_{span}"] or 0

    today, week = _SPANS
    return NameCounts(
        row["model"],
        {
            "requests_today": count("requests_ok", today) + count("requests_failed", today),
            "failed_today": count("requests_failed", today),
            "cancelled_today": count("requests_cancelled", today),
            "requests_7_days": count("requests_ok", week) + count("requests_failed", week),
            "failed_7_days": count("requests_failed", week),
            "cancelled_7_days": count("requests_cancelled", week),
            "input_tokens_7_days": count("input_tokens", week),
            "output_tokens_7_days": count("output_tokens", week),
        },
    )


def _by_model(catalogue: Catalogue, counts: Iterable[NameCounts]) -> dict[str, list[NameCounts]]:
    """Group counts by the row that their name leads to."""
    by_model: dict[str, list[NameCounts]] = {}
    for row in counts:
        name = catalogue.find(row.model)
        if name is not None:
            by_model.setdefault(name, []).append(row)
    return by_model


def _days(
    names: Sequence[str], today: str, days: int
) -> tuple[list[ModelDayPayload], TokenDetailsPayload, CostsPayload]:
    """Return the days with requests for these names, newest first, and token details and costs of all of them."""
    since = (date.fromisoformat(today) - timedelta(days=days)).isoformat()
    rows: Any = DayRollUp.objects.filter(date__gt=since, date__lte=today, model__in=names)
    rows = rows.values_list("date").annotate(*map(Sum, (*_SUMMED, "ok_duration_us", *DETAIL_COLUMNS)))
    rows = list(rows.order_by("-date"))
    where = f"model IN {sql.placeholders(len(names))}"
    costs = cost_sums("date", last_days(today, days), [where], names) if names else {}
    details = [sum(value or 0 for value in column) for column in list(zip(*rows, strict=True))[7:]]
    shown: list[ModelDayPayload] = [
        {
            "day": day,
            "requests": ok + failed,
            "successful_requests": ok,
            "failed_requests": failed,
            "cancelled_requests": cancelled,
            "input_tokens": tokens_in,
            "output_tokens": tokens_out,
            "average_duration_ms": duration_us / ok / 1000 if ok else None,
            **costs_of(ok + failed + cancelled, costs.get(day, {})),
        }
        for day, ok, failed, cancelled, tokens_in, tokens_out, duration_us, *_ in rows
        if ok or failed or cancelled
    ]
    requests = sum(day["requests"] + day["cancelled_requests"] for day in shown)
    return shown, detail_counts(details), costs_of(requests, total_of(costs.values()))
