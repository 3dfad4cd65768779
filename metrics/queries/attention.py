"""Items that need an administrator, from memory alone, so that they are available without the database."""

import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import groupby
from typing import Annotated, TypedDict, Unpack, cast

from django.conf import settings

from endpoints import clouds
from endpoints.models import OperatorState, Status
from endpoints.openapi.payload_fields import Choices, Help, TimeText, UuidText
from endpoints.registry import Entry
from gateway.base import volumes
from gateway.providers.errors import ErrorCause
from gateway.registry.limits import LEVELS, PERIODS, UNITS
from gateway.routing.set_aside import AsideNote
from metrics.learning.current_slowdowns import slowdowns
from metrics.memory.endpoint_events import endpoint_events
from metrics.memory.runtime import runtime
from metrics.model_names.faults import NAME_ENDPOINT, NAME_STEP, NAME_TARGET, name_faults
from metrics.queries import breakers
from metrics.queries.payloads import StatsPayload
from metrics.spending.used_budgets import used_budgets
from metrics.times import json_time

BAD, WARN = "bad", "warn"
SEVERITIES = (BAD, WARN)
UNRECORDED, DISK, OFFLINE, ERROR, BREAKER = "unrecorded", "disk", "offline", "error", "breaker"
UNRESTORED, WAITING, PASSWORD, BOUND = "unrestored", "waiting", "password", "bound"
PLAIN_HTTP, VOLATILE, CLEAR_KEYS = "plain_http", "volatile", "clear_keys"
UNPUBLISHED, DRIFT, SLOW, ACCOUNT = "unpublished", "drift", "slow", "account"
ASSUMED_SLOTS = "assumed_slots"
BUDGET_SPENT, BUDGET, MORE_BUDGETS, UNPRICED = "budget_spent", "budget", "more_budgets", "unpriced"
KINDS = (
    UNRECORDED, UNPUBLISHED, DISK, OFFLINE, ERROR, ACCOUNT, BREAKER, UNRESTORED, WAITING, DRIFT, NAME_ENDPOINT,
    NAME_TARGET, NAME_STEP, SLOW, ASSUMED_SLOTS, BUDGET_SPENT, BUDGET, MORE_BUDGETS, UNPRICED, BOUND, VOLATILE,
    CLEAR_KEYS, PASSWORD, PLAIN_HTTP,
)  # fmt: skip

FULL_BYTES = 1 << 30  # a disk with less free space is nearly full
FULL_SHARE, FULL_AT_MOST = 0.03, 20 << 30  # also nearly full: less than 3 %, if that is less than 20 GiB
BUDGET_PERCENT = 80  # of a budget: from here on it needs attention
MAX_BUDGETS = 5  # with an item each
MAX_UNPRICED = 5  # models without a price that the item names
DRIFT_SECONDS = 86_400  # for which a difference between database and gateways is shown
# Causes of a pause that need an administrator, with the remarks of health checks about the same.
_OF_THE_ACCOUNT: Mapping[str | None, str] = {
    ErrorCause.KEY_REFUSED.value: clouds.KEY_REFUSED,
    ErrorCause.MONEY.value: clouds.NO_CREDIT,
}
FREE_STEP = 100 << 20  # bytes: free space is rounded down, so that the item does not change all the time


# Item that needs an administrator. Fields that do not apply to its kind are None.
class AttentionPayload(TypedDict):
    kind: Annotated[str, Choices(KINDS)]
    severity: Annotated[str, Choices(SEVERITIES)]
    since: Annotated[TimeText | None, Help("Null if unknown.")]
    cause: Annotated[
        str | None,
        Help(
            "Error of the health check or database, state of the circuit breaker, name of the limit, or of "
            "`unpriced` the names of at most five models."
        ),
    ]
    endpoint_id: UuidText | None
    endpoint_name: str | None
    models: Annotated[
        int | None,
        Help(
            "Number of models of the endpoint; for `slow`, of those that slowed down; for `unpriced`, of those "
            "for which budgets of money count nothing."
        ),
    ]
    models_nowhere_else: Annotated[int | None, Help("Number of these models that no online endpoint has.")]
    user_id: UuidText | None
    username: str | None
    free_bytes: Annotated[int | None, Help("Free bytes on the disk of the data directory.")]
    keys: Annotated[int | None, Help("Number of upstream keys stored in plain text.")]
    model: Annotated[
        str | None,
        Help(
            "The model of a slow-down; of several, the one that slowed down most. Of a budget, the model name "
            "to which requests go once it is spent. Of `unpriced`, the most used one."
        ),
    ]
    factor: Annotated[float | None, Help("By how much longer its requests take than before, beside as many others.")]
    level: Annotated[str | None, Choices(LEVELS), Help("Whose budget it is.")]
    subject_id: Annotated[UuidText | None, Help("Id of the API key or user with the budget.")]
    subject_name: Annotated[str | None, Help("Name of the API key or user with the budget.")]
    unit: Annotated[str | None, Choices(UNITS), Help("Unit of the budget.")]
    period: Annotated[str | None, Choices(PERIODS), Help("Period of the budget.")]
    percent: Annotated[int | None, Help("Spent part of the budget, rounded down.")]
    until: Annotated[TimeText | None, Help("End of the budget's period; null: it has none.")]
    budgets: Annotated[int | None, Help("Number of further budgets that are spent, or nearly so.")]
    slots: Annotated[
        int | None, Help("Requests at a time that are assumed for the endpoint, while others wait for it.")
    ]


class _Details(TypedDict, total=False):
    """Fields of an item beside its kind, severity and time."""

    cause: str | None
    endpoint_id: str | None
    endpoint_name: str | None
    models: int | None
    models_nowhere_else: int | None
    user_id: str | None
    username: str | None
    free_bytes: int | None
    keys: int | None
    model: str | None
    factor: float | None
    level: str | None
    subject_id: str | None
    subject_name: str | None
    unit: str | None
    period: str | None
    percent: int | None
    until: str | None
    budgets: int | None
    slots: int | None


def items(
    entries: tuple[Entry, ...],
    trials: Mapping[str, str],
    aside: Mapping[str, AsideNote],
    stats: StatsPayload,
    now: float,
    most: int | None = None,
) -> tuple[list[AttentionPayload], int]:
    """Return the items, the worst first, at most so many (None: all), and the number of all.

    `trials` has the state of each circuit breaker that is not closed, `aside` the endpoints that get no requests;
    `now` is in seconds since 1970.
    """
    away = [entry for entry in entries if _is_away(entry)]
    shown = _first(away, most)
    attention_items = [*_recording(stats, now), *_disk(), *_away(shown, entries), *_limits(now)]
    attention_items += _reachable(entries, trials, aside)
    attention_items += [
        *_storage(entries),
        *_publication(now),
        *_slow(entries, now),
        *_assumed_slots(entries),
        *_passwords(),
    ]
    attention_items += [*_model_names(entries, now), *_budgets(now)]
    if settings.ROUTERDASH.plain_http:
        attention_items.append(_item(PLAIN_HTTP, WARN))
    attention_items.sort(
        key=lambda item: (item["severity"] != BAD, KINDS.index(item["kind"]), item["endpoint_name"] or "")
    )
    return attention_items[:most], len(attention_items) + len(away) - len(shown)


_NO_DETAILS: _Details = {
    "cause": None,
    "endpoint_id": None,
    "endpoint_name": None,
    "models": None,
    "models_nowhere_else": None,
    "user_id": None,
    "username": None,
    "free_bytes": None,
    "keys": None,
    "model": None,
    "factor": None,
    "level": None,
    "subject_id": None,
    "subject_name": None,
    "unit": None,
    "period": None,
    "percent": None,
    "until": None,
    "budgets": None,
    "slots": None,
}


def _item(kind: str, severity: str, since: datetime | None = None, **details: Unpack[_Details]) -> AttentionPayload:
    # Joined, not listed: a fleet that is away has hundreds of items, and each page and event needs them.
    item = {"kind": kind, "severity": severity, "since": json_time(since), **_NO_DETAILS, **details}
    return cast(AttentionPayload, item)


def _recording(stats: StatsPayload, now: float) -> Iterator[AttentionPayload]:
    if not stats["figures_restored"]:
        yield _item(UNRESTORED, WARN)
    if (seconds := stats["records_waiting_secs"]) is not None:
        yield _item(WAITING, WARN, datetime.fromtimestamp(round(now - seconds), UTC), cause=stats["writer_error"])
    if stats["records_unrecorded"]:
        yield _item(UNRECORDED, BAD)


def _publication(now: float) -> Iterator[AttentionPayload]:
    installation = runtime.installation
    if (failure := installation.publication_failure()) is not None:
        yield _item(UNPUBLISHED, BAD, cause=failure)
    drifted_at = installation.drifted_at()
    if drifted_at is not None and now - drifted_at < DRIFT_SECONDS:
        yield _item(DRIFT, WARN, datetime.fromtimestamp(round(drifted_at), UTC))


def _disk() -> Iterator[AttentionPayload]:
    try:
        disk = shutil.disk_usage(settings.ROUTERDASH.data_dir)
    except OSError:
        return
    if disk.free < max(FULL_BYTES, min(disk.total * FULL_SHARE, FULL_AT_MOST)):
        yield _item(DISK, BAD, free_bytes=disk.free // FREE_STEP * FREE_STEP)


def _is_away(entry: Entry) -> bool:
    """Return True for enabled endpoints only: a drained or disabled one is as an administrator wants it."""
    return entry.status in (Status.OFFLINE, Status.ERROR) and entry.operator_state == OperatorState.ENABLED


def _first(away: list[Entry], most: int | None) -> list[Entry]:
    """Return those of the endpoints that are among the first `most` items.

    A fleet that is away has hundreds of items, and each page and live event needs a few of them.
    """
    if most is None or len(away) <= most:
        return away
    return sorted(away, key=lambda entry: (entry.status != Status.OFFLINE, entry.name))[:most]


def _away(shown: list[Entry], entries: tuple[Entry, ...]) -> Iterator[AttentionPayload]:
    served = _served(entries) if shown else frozenset()
    for entry in shown:
        yield _item(
            OFFLINE if entry.status == Status.OFFLINE else ERROR,
            BAD,
            endpoint_events.since(entry.id, entry.status),
            cause=entry.last_error,
            endpoint_id=entry.id,
            endpoint_name=entry.name,
            models=len(entry.models),
            models_nowhere_else=len(entry.models.ids - served),
        )


def _served(entries: tuple[Entry, ...]) -> frozenset[str]:
    """Return the ids of the models of all endpoints that are online and enabled."""
    online = (
        entry.models.ids
        for entry in entries
        if entry.status == Status.ONLINE and entry.operator_state == OperatorState.ENABLED
    )
    return frozenset[str]().union(*online)


def _reachable(
    entries: tuple[Entry, ...], trials: Mapping[str, str], aside: Mapping[str, AsideNote]
) -> Iterator[AttentionPayload]:
    for entry in entries:
        if entry.operator_state != OperatorState.ENABLED or _is_away(entry):
            continue
        remark = _remark(entry, aside.get(entry.id))
        if remark is not None and entry.status == Status.ONLINE:
            yield _item(ACCOUNT, BAD, cause=remark, endpoint_id=entry.id, endpoint_name=entry.name)
        state = trials.get(entry.id, breakers.CLOSED)
        if state != breakers.CLOSED:
            severity = BAD if state == breakers.OPEN else WARN
            yield _item(BREAKER, severity, cause=state, endpoint_id=entry.id, endpoint_name=entry.name)


def _remark(entry: Entry, note: AsideNote | None) -> str | None:
    """Return what is wrong with the account of a cloud, by its last health check or else by the last response."""
    if entry.last_error in clouds.REMARKS:
        return entry.last_error
    return None if note is None else _OF_THE_ACCOUNT.get(note.cause)


def _model_names(entries: tuple[Entry, ...], now: float) -> Iterator[AttentionPayload]:
    for fault in name_faults(entries, now):
        yield _item(fault.kind, WARN, fault.since, cause=fault.cause, model=fault.name, models=fault.targets)


def _slow(entries: tuple[Entry, ...], now: float) -> Iterator[AttentionPayload]:
    """Yield one item per endpoint that serves requests, with its model that has become the slowest."""
    of_endpoint = {
        id: list(slow) for id, slow in groupby(slowdowns.current(now), lambda slow_model: slow_model.endpoint_id)
    }
    for entry in entries:
        slow = of_endpoint.get(entry.id)
        if slow and entry.operator_state == OperatorState.ENABLED and entry.status == Status.ONLINE:
            yield _item(
                SLOW,
                WARN,
                slow[0].since,
                endpoint_id=entry.id,
                endpoint_name=entry.name,
                models=len({slow_model.model for slow_model in slow}),
                model=slow[0].model,
                factor=slow[0].factor,
            )


def _assumed_slots(entries: tuple[Entry, ...]) -> Iterator[AttentionPayload]:
    """Yield one item per endpoint whose limit nobody has entered, while requests wait for it."""
    assumed = [entry for entry in entries if entry.has_assumed_slots]
    wanted = runtime.installation.waiting_interactive().endpoints if assumed else ()
    if not wanted:
        return
    in_flight = runtime.installation.in_flight()
    for entry in assumed:
        if entry.id in wanted and in_flight.get(entry.id, 0) >= (entry.slots or 0):
            yield _item(ASSUMED_SLOTS, WARN, endpoint_id=entry.id, endpoint_name=entry.name, slots=entry.slots)


def _limits(now: float) -> Iterator[AttentionPayload]:
    """Yield one item per limit, regardless of the number of clients that reached it."""
    for name, since in runtime.installation.bound_hits.recent(now).items():
        yield _item(BOUND, WARN, datetime.fromtimestamp(since, UTC), cause=name)


def _budgets(now: float) -> Iterator[AttentionPayload]:
    """Yield one item for each of the fullest budgets, without its amount: all users see the items."""
    most_used, noticed = used_budgets.current()
    full = [
        used_budget
        for used_budget in most_used
        if used_budget.percent >= BUDGET_PERCENT and (used_budget.resets_at is None or used_budget.resets_at > now)
    ]
    for budget in full[:MAX_BUDGETS]:
        is_spent = budget.spent >= budget.amount
        yield _item(
            BUDGET_SPENT if is_spent else BUDGET,
            BAD if is_spent and budget.instead is None else WARN,
            level=budget.level,
            subject_id=budget.subject_id or None,
            subject_name=budget.name,
            unit=budget.unit,
            period=budget.period,
            percent=budget.percent,
            until=None if budget.resets_at is None else json_time(datetime.fromtimestamp(budget.resets_at, UTC)),
            model=budget.instead,
        )
    if len(full) > MAX_BUDGETS:
        yield _item(MORE_BUDGETS, WARN, budgets=noticed - MAX_BUDGETS)
    if models := used_budgets.unpriced:
        named = [*models[:MAX_UNPRICED], *(["…"] if len(models) > MAX_UNPRICED else [])]
        yield _item(UNPRICED, WARN, cause=", ".join(named), model=models[0], models=len(models))


def _storage(entries: tuple[Entry, ...]) -> Iterator[AttentionPayload]:
    config = settings.ROUTERDASH
    if config.in_container and volumes.is_lost_with_container(config.data_dir):
        yield _item(VOLATILE, WARN)
    if keys := sum(bool(entry.plain_api_key and not entry.sealed_api_key) for entry in entries):
        yield _item(CLEAR_KEYS, WARN, keys=keys)


def _passwords() -> Iterator[AttentionPayload]:
    for user_id, username, since in runtime.installation.generated_passwords():
        yield _item(PASSWORD, WARN, since, user_id=user_id, username=username)
