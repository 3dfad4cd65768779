"""Names, owners and use of API keys. Their model is in `access`, which this package may not import."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db.models import Max, QuerySet, Sum

from metrics import sql
from metrics.costs.of_period import CostsPayload, CurrencySums, cost_sums, costs_of
from metrics.counting.reported_details import TokenDetailsPayload, detail_counts
from metrics.counting.token_details import DETAIL_COLUMNS
from metrics.models import DayRollUp
from metrics.queries.stored import flushed
from metrics.queries.usage_periods import Period

BATCH = 5000  # ids in one query
RECENT_ROWS = 5000  # daily rows that are read for the last used keys
_USED = ("requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class KeyOwner:
    id: str
    username: str


def stored_keys() -> QuerySet[Any]:
    manager: Any = apps.get_model("access", "ApiKey")._default_manager
    return manager.all()  # type: ignore[no-any-return]


def deleted_keys() -> QuerySet[Any]:
    """Return the deleted API keys, with the users that they belonged to."""
    manager: Any = apps.get_model("access", "DeletedKey")._default_manager
    return manager.all()  # type: ignore[no-any-return]


def key_names(ids: Iterable[str | None]) -> dict[str, str]:
    """Return the names of these API keys by id, without those that do not exist."""
    return {str(key): name for keys in _batches(ids) for key, name in keys.values_list("pk", "name")}


def key_owners(ids: Iterable[str | None]) -> dict[str, KeyOwner]:
    """Return the owners of these API keys by the keys' ids; of a deleted one, the user that it belonged to."""
    columns, ids = ("pk", "created_by_id", "created_by__username"), list(ids)
    owners = {
        str(key): KeyOwner(str(owner), name)
        for keys in _batches(ids)
        for key, owner, name in keys.values_list(*columns)
    }
    return owners | _owners_of_deleted(key for key in ids if key not in owners)


def _owners_of_deleted(ids: Iterable[str | None]) -> dict[str, KeyOwner]:
    owners: dict[str, str] = {}
    for batch in _parts(ids):
        owners |= {
            str(key): str(user) for key, user in deleted_keys().filter(pk__in=batch).values_list("pk", "user_id")
        }
    users: Any = apps.get_model("access", "User")._default_manager
    names: dict[str, str] = {}
    for batch in _parts(set(owners.values())):
        names |= {str(user): name for user, name in users.filter(pk__in=batch).values_list("pk", "username")}
    return {key: KeyOwner(user, names[user]) for key, user in owners.items() if user in names}


def _batches(ids: Iterable[str | None]) -> Iterator[QuerySet[Any]]:
    """Yield one query for each BATCH of ids, and none without ids."""
    return (stored_keys().filter(pk__in=batch) for batch in _parts(ids))


def _parts(ids: Iterable[str | None]) -> Iterator[list[str | None]]:
    """Yield these ids, each once, at most BATCH at a time."""
    distinct = iter(dict.fromkeys(name for name in ids if is_uuid(name)))
    while batch := list(islice(distinct, BATCH)):
        yield batch


def is_uuid(text: str | None) -> bool:
    """Return True for a text that a query for ids of the database may contain."""
    try:
        return bool(text and uuid.UUID(text))
    except ValueError:
        return False


def some_keys(limit: int) -> dict[str, str]:
    """Return the names of any API keys by id, at most `limit`. One query, which reads no other row."""
    return {str(key): name for key, name in stored_keys().order_by("pk").values_list("pk", "name")[:limit]}


def recently_used() -> list[str]:
    """Return the ids of API keys in the last daily rows, at most RECENT_ROWS. One query."""
    rows = DayRollUp.objects.order_by("-pk").values_list("api_key_id", flat=True)[:RECENT_ROWS]
    return list(dict.fromkeys(key for key in rows if key))


class KeyUse(TokenDetailsPayload, CostsPayload):
    """Requests, tokens and costs of an API key, as `usage` counts them, and its last local day with requests."""

    requests: int
    input_tokens: int
    output_tokens: int
    last_day: str | None


def keys_used(ids: Sequence[str], since: date) -> dict[str, KeyUse]:
    """Return what each of these keys was used for since a local day."""
    flushed()
    days = DayRollUp.objects.filter(date__gte=since.isoformat(), api_key_id__in=ids)
    sums = days.values_list("api_key_id").annotate(Max("date"), *map(Sum, _USED), *map(Sum, DETAIL_COLUMNS))
    period = Period(since, datetime.now(settings.ROUTERDASH.zone).date())
    costs = cost_sums("api_key_id", period, [f"api_key_id IN {sql.placeholders(len(ids))}"], ids)
    unused = {key: _use({}, None, 0, 0, 0, 0, 0) for key in ids}
    return unused | {key: _use(costs.get(key, {}), *columns) for key, *columns in sums}


def _use(
    costs: CurrencySums, last: str | None, ok: int, failed: int, cancelled: int, tokens_in: int, tokens_out: int,
    *details: int | None,
) -> KeyUse:  # fmt: skip
    return {
        "requests": ok + failed,
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "last_day": last,
        **detail_counts(details),
        **costs_of(ok + failed + cancelled, costs),
    }
