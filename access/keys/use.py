"""Use of API keys for pages and API: when each was last used, and its refused requests of the last days.

The tables are in `metrics`, which this package may not import.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db.models import OuterRef, QuerySet, Subquery, TextField
from django.db.models.functions import Cast

from access.limits.tables import LEVEL_LABELS, LIMIT_LABELS, PERIOD_LABELS, UNIT_LABELS
from access.models import ApiKey

REFUSED_DAYS = 7


@dataclass(frozen=True, slots=True)
class RefusedRequests:
    """Refused requests of a key for one reason."""

    code: str
    limit: str | None  # such as `key:requests`
    today: int
    last_7_days: int

    @property
    def label(self) -> str:
        """The limit as pages show it: `API key: requests a minute`, or a budget as `user: tokens, day`."""
        level, _colon, name = (self.limit or "").partition(":")
        if level not in LEVEL_LABELS:
            return self.limit or ""
        unit, _line, period = name.partition("_")
        if unit in UNIT_LABELS and period in PERIOD_LABELS:
            return f"{LEVEL_LABELS[level]}: {UNIT_LABELS[unit]}, {PERIOD_LABELS[period]}"
        return f"{LEVEL_LABELS[level]}: {LIMIT_LABELS.get(name, name)}"


@dataclass(slots=True)
class UseOfKey:
    """Use of one key. `last_used` is None if it was not used since an upgrade to the release that stores it."""

    last_used: datetime | None = None
    refused: list[RefusedRequests] = field(default_factory=list)


def uses_of(ids: Iterable[object]) -> Mapping[str, UseOfKey]:
    """Return the use of these keys, by id. Two queries, whose size does not depend on the number of requests."""
    uses = {str(key): UseOfKey() for key in ids}
    if uses:
        for key, last_us in _rows("LastUse").filter(pk__in=uses).values_list("pk", "last_used_us"):
            uses[key].last_used = moment_of(last_us)
        _add_refusals(uses)
    return uses


def moment_of(last_us: int) -> datetime:
    """Return a moment in µs since 1970, exactly."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=last_us)


def with_last_use(keys: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
    """Return the keys with `last_used_us`, in µs since 1970 or None."""
    last = _rows("LastUse").filter(pk=Cast(OuterRef("pk"), TextField())).values("last_used_us")
    return keys.annotate(last_used_us=Subquery(last))


def _add_refusals(uses: Mapping[str, UseOfKey]) -> None:
    now = datetime.now(settings.ROUTERDASH.zone).date()
    today, *before = [(now - timedelta(days=ago)).isoformat() for ago in range(REFUSED_DAYS)]
    counts: dict[tuple[str, str, str], list[int]] = {}
    rows = _rows("RefusedDayRollUp").filter(date__in=[today, *before], api_key_id__in=uses)
    for date, *reason, count in rows.values_list("date", "api_key_id", "code", "limit_name", "requests_rejected"):
        sums = counts.setdefault((reason[0], reason[1], reason[2]), [0, 0])
        sums[0] += count if date == today else 0
        sums[1] += count
    for (key, code, limit), (of_today, of_days) in sorted(counts.items()):
        uses[key].refused.append(RefusedRequests(code, limit or None, of_today, of_days))


def _rows(model: str) -> Any:
    return apps.get_model("metrics", model)._default_manager
