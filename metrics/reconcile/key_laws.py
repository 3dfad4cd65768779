"""L9: the last use of each API key is its newest request in the history; refusals by reason are those of the totals."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from metrics import sql
from metrics.reconcile.comparison import Comparison, FigureDifference, Query
from metrics.reconcile.scope import Scope, bound, moment

_START = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def refusals(scope: Scope) -> Comparison:
    """Express L9: refusals by key and reason are those of day roll-ups, on days that began after the upgrade."""
    after = scope.local_date(_counted_since())
    return Comparison(
        law="L9",
        table="rollup_refused_days",
        source="rollup_days",
        keys=("date", "api_key_id"),
        columns=("requests_rejected",),
        expected=Query("SELECT date, api_key_id, requests_rejected FROM rollup_days WHERE date > %s", (after,)),
        found=Query("SELECT date, api_key_id, requests_rejected FROM rollup_refused_days WHERE date > %s", (after,)),
    )


def reasons_are_part(scope: Scope) -> Iterator[FigureDifference]:
    """Check L9: refusals of each reason on all days are not more than its total."""
    counted = sql.select(["code", "SUM(requests_rejected) AS counted"], "rollup_refused_days", group_by="code")
    source = f"{sql.subquery(counted, 'part')} LEFT JOIN metric_totals ON name = 'rejected:' || code"
    statement = sql.select(["code", "counted", "COALESCE(value, 0)"], source, where="counted > COALESCE(value, 0)")
    for code, part, total in Query(statement).rows():
        where = f"rollup_refused_days code={code}"
        yield FigureDifference("L9", "requests_rejected", where, f"at most {int(total)}", int(part))


def last_uses(scope: Scope) -> Iterator[FigureDifference]:
    """Check L9: no key was used later than its last use, nor is that after the newest request of a full history."""
    since = max(scope.history_since, _counted_since())
    newest = sql.select(
        ["api_key_id", "MAX(completed_at)"],
        "request_history",
        where=["outcome IS NOT NULL", "api_key_id IS NOT NULL", "completed_at >= %s"],
        group_by="api_key_id",
    )
    expected = {
        str(key): (moment(completed_at) - _START) // _MICROSECOND
        for key, completed_at in Query(newest, (bound(since),)).rows()
    }
    for key, last_used in Query("SELECT api_key_id, last_used_us FROM api_key_last_uses ORDER BY api_key_id").rows():
        latest = expected.pop(key, None)
        is_later = scope.every_row and last_used > (since * 60_000_000 if latest is None else latest)
        if is_later or (latest is not None and last_used < latest):
            yield _difference(key, latest, last_used)
    for key, latest in expected.items():
        yield _difference(key, latest, None)


def _difference(key: str, expected: int | None, stored: int | None) -> FigureDifference:
    return FigureDifference("L9", "last_used_us", f"api_key_last_uses api_key_id={key}", expected, stored)


def _counted_since() -> int:
    """Return the minute of the upgrade to the release with these tables; 0: there was none."""
    ((since,),) = Query("SELECT key_use_since FROM installation").rows()
    return int(since or 0)
