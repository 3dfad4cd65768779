"""Items that need an operator, from memory alone, so that they are available without the database."""

import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import groupby
from typing import TypedDict, Unpack, cast

from django.conf import settings

from endpoints import clouds
from endpoints.model_names.registry import model_names
from endpoints.models import OperatorState, Status
from endpoints.registry import Entry
from gateway.base import volumes
from gateway.providers.errors import ErrorCause
from gateway.routing.set_aside import AsideNote
from metrics.memory.endpoint_events import endpoint_events
from metrics.memory.name_steps import name_steps
from metrics.memory.runtime import runtime
from metrics.memory.used_budgets import used_budgets
from metrics.queries import breakers
from metrics.queries.model_names.states import NO_ENDPOINT, NOT_OFFERED, NameView
from metrics.queries.payloads import AttentionPayload, StatsPayload
from metrics.queries.slowdowns import slowdowns
from metrics.times import json_time

BAD, WARN = "bad", "warn"
SEVERITIES = (BAD, WARN)
UNRECORDED, DISK, OFFLINE, ERROR, BREAKER = "unrecorded", "disk", "offline", "error", "breaker"
UNRESTORED, WAITING, PASSWORD, BOUND = "unrestored", "waiting", "password", "bound"
PLAIN_HTTP, VOLATILE, CLEAR_KEYS = "plain_http", "volatile", "clear_keys"
UNPUBLISHED, DRIFT, SLOW, ACCOUNT = "unpublished", "drift", "slow", "account"
NAME_STEP, NAME_TARGET, NAME_ENDPOINT = "name_step", "name_target", "name_endpoint"
BUDGET_SPENT, BUDGET, MORE_BUDGETS, UNPRICED = "budget_spent", "budget", "more_budgets", "unpriced"
KINDS = (
    UNRECORDED, UNPUBLISHED, DISK, OFFLINE, ERROR, ACCOUNT, BREAKER, UNRESTORED, WAITING, DRIFT, NAME_ENDPOINT,
    NAME_TARGET, NAME_STEP, SLOW, BUDGET_SPENT, BUDGET, MORE_BUDGETS, UNPRICED, BOUND, VOLATILE,
    CLEAR_KEYS, PASSWORD, PLAIN_HTTP,
)  # fmt: skip

FULL_BYTES = 1 << 30  # a disk with less free space is nearly full
FULL_SHARE, FULL_AT_MOST = 0.03, 20 << 30  # also nearly full: less than 3 %, if that is less than 20 GiB
BUDGET_PERCENT = 80  # of a budget: from here on it needs attention
MAX_BUDGETS = 5  # with an item each
MAX_UNPRICED = 5  # models without a price that the item names
DRIFT_SECONDS = 86_400  # for which a difference between database and gateways is shown
# Causes of a pause that need an operator, with the remarks of health checks about the same.
_OF_THE_ACCOUNT: Mapping[str | None, str] = {
    ErrorCause.KEY_REFUSED.value: clouds.KEY_REFUSED,
    ErrorCause.MONEY.value: clouds.NO_CREDIT,
}
FREE_STEP = 100 << 20  # bytes: free space is rounded down, so that the item does not change all the time


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


def items(
    entries: tuple[Entry, ...],
    trials: Mapping[str, str],
    aside: Mapping[str, AsideNote],
    stats: StatsPayload,
    at: float,
    most: int | None = None,
) -> tuple[list[AttentionPayload], int]:
    """Return the items, the worst first, at most so many (None: all), and the number of all.

    `trials` has the state of each circuit breaker that is not closed, `aside` the endpoints that get no requests;
    `at` is in seconds since 1970.
    """
    away = [entry for entry in entries if _is_away(entry)]
    shown = _first(away, most)
    attention_items = [*_recording(stats, at), *_disk(), *_away(shown, entries), *_limits(at)]
    attention_items += _reachable(entries, trials, aside)
    attention_items += [*_storage(entries), *_publication(at), *_slow(entries, at), *_passwords()]
    attention_items += [*_model_names(entries, at), *_budgets(at)]
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
}


def _item(kind: str, severity: str, since: datetime | None = None, **details: Unpack[_Details]) -> AttentionPayload:
    # Joined, not listed: a fleet that is away has hundreds of items, and each page and event needs them.
    item = {"kind": kind, "severity": severity, "since": json_time(since), **_NO_DETAILS, **details}
    return cast(AttentionPayload, item)


def _recording(stats: StatsPayload, at: float) -> Iterator[AttentionPayload]:
    if not stats["figures_restored"]:
        yield _item(UNRESTORED, WARN)
    if (seconds := stats["records_waiting_secs"]) is not None:
        yield _item(WAITING, WARN, datetime.fromtimestamp(round(at - seconds), UTC), cause=stats["writer_error"])
    if stats["records_unrecorded"]:
        yield _item(UNRECORDED, BAD)


def _publication(at: float) -> Iterator[AttentionPayload]:
    installation = runtime.installation
    if (failure := installation.publication_failure()) is not None:
        yield _item(UNPUBLISHED, BAD, cause=failure)
    drifted_at = installation.drifted_at()
    if drifted_at is not None and at - drifted_at < DRIFT_SECONDS:
        yield _item(DRIFT, WARN, datetime.fromtimestamp(round(drifted_at), UTC))


def _disk() -> Iterator[AttentionPayload]:
    try:
        disk = shutil.disk_usage(settings.ROUTERDASH.data_dir)
    except OSError:
        return
    if disk.free < max(FULL_BYTES, min(disk.total * FULL_SHARE, FULL_AT_MOST)):
        yield _item(DISK, BAD, free_bytes=disk.free // FREE_STEP * FREE_STEP)


def _is_away(entry: Entry) -> bool:
    """Return True for enabled endpoints only: a drained or disabled one is in the state that its operator chose."""
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


def _model_names(entries: tuple[Entry, ...], at: float) -> Iterator[AttentionPayload]:
    """Yield one item of each kind per enabled name. `cause` is the model of a target, or the number of a step."""
    names = [name for name in model_names.all() if name.enabled]
    if not names:
        return
    view, left = NameView.of_entries(entries, ()), name_steps.left(at)
    for name in names:
        targets = [target for step in view.state(name)["steps"] for target in step["targets"]]
        for kind, state in ((NAME_ENDPOINT, NO_ENDPOINT), (NAME_TARGET, NOT_OFFERED)):
            if found := [target for target in targets if target["state"] == state]:
                yield _item(kind, WARN, cause=found[0]["model"], model=name.name, models=len(found))
    for requested, use in left.items():
        since = datetime.fromtimestamp(round(use.later_since), UTC)
        yield _item(NAME_STEP, WARN, since, cause=str(use.step), model=requested)


def _slow(entries: tuple[Entry, ...], at: float) -> Iterator[AttentionPayload]:
    """Yield one item per endpoint that serves requests, with its model that has become the slowest."""
    of_endpoint = {id: list(slow) for id, slow in groupby(slowdowns.current(at), lambda it: it.endpoint_id)}
    for entry in entries:
        slow = of_endpoint.get(entry.id)
        if slow and entry.operator_state == OperatorState.ENABLED and entry.status == Status.ONLINE:
            yield _item(
                SLOW,
                WARN,
                slow[0].since,
                endpoint_id=entry.id,
                endpoint_name=entry.name,
                models=len({it.model for it in slow}),
                model=slow[0].model,
                factor=slow[0].factor,
            )


def _limits(at: float) -> Iterator[AttentionPayload]:
    """Yield one item per limit, regardless of the number of clients that reached it."""
    for name, since in runtime.installation.limit_hits.recent(at).items():
        yield _item(BOUND, WARN, datetime.fromtimestamp(since, UTC), cause=name)


def _budgets(at: float) -> Iterator[AttentionPayload]:
    """Yield one item for each of the fullest budgets, without its amount: all users see the items."""
    most_used, noticed = used_budgets.current()
    full = [it for it in most_used if it.percent >= BUDGET_PERCENT and (it.resets_at is None or it.resets_at > at)]
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
