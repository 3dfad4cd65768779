"""Reading of the change log: which endpoints, API keys and users have changed, and when it was read.

A reader takes a batch, reads these objects, and then forgets the batch. So a change is seen at least once, and
repeating is harmless. The position names the state that the reader has built: in a restored database it is another one.
A reader of all objects takes the ids of the log's rows alone, because the log may be longer than the tables.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from django.db import connection, transaction

from endpoints.changes.models import RegistryChange, RegistryPosition
from endpoints.changes.watched import ENDPOINT, LOGGED

BATCH = 5000
RANGES = 200  # of ids, per statement
IDS = 20_000  # per query

IdRanges = Sequence[tuple[int, int]]  # first and last id of rows without a gap in between


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """Changes in the order of the log, without repetitions. An unreadable id is the nil UUID, as in TextUUIDField."""

    ids: tuple[int, ...]  # of the log's rows
    objects: Mapping[str, frozenset[Any]]  # ids by kind of entry (endpoints.changes.watched)
    more: bool  # the log has further rows

    def of(self, kind: str) -> frozenset[Any]:
        """Return the ids of the changed objects of a kind: hashes of API keys, level and id of limited subjects."""
        return self.objects.get(kind, frozenset())

    @property
    def ranges(self) -> IdRanges:
        return list(_ranges(self.ids))


NO_CHANGES = ChangeBatch((), {}, more=False)


def read(limit: int = BATCH) -> ChangeBatch:
    """Return the oldest changes, at most `limit` rows of the log. Raises django.db.Error."""
    # A blob, because one damaged id must not make the log unreadable.
    column = "CAST(object_id AS BLOB)" if connection.vendor == "sqlite" else "object_id"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT id, kind, {column} FROM registry_changes ORDER BY id LIMIT %s", [limit + 1])  # noqa: S608
        rows = cursor.fetchall()
    ids_by_kind: dict[str, set[Any]] = {}
    for _, kind, object_id in rows[:limit]:
        if kind in LOGGED and (read_id := LOGGED[kind](_text(object_id))) is not None:
            ids_by_kind.setdefault(kind, set()).add(read_id)
    return ChangeBatch(
        ids=tuple(row[0] for row in rows[:limit]),
        objects={kind: frozenset(ids) for kind, ids in ids_by_kind.items()},
        more=len(rows) > limit,
    )


def read_ids() -> IdRanges:
    """Return the ids of all rows of the log. Raises django.db.Error.

    Millions of rows that one program has written take a few bytes: ids without a gap are one range.
    """
    return list(_ranges(_all_ids()))


def _all_ids() -> Iterator[int]:
    after = 0
    while True:
        rows = RegistryChange.objects.filter(pk__gt=after).order_by("pk").values_list("pk", flat=True)
        part = list(rows[:IDS])
        yield from part
        if len(part) < IDS:
            return
        after = part[-1]


def _ranges(ids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of sorted ids."""
    rest = iter(ids)
    first = last = next(rest, None)
    if first is None or last is None:
        return
    for each in rest:
        if each != last + 1:
            yield first, last
            first = each
        last = each
    yield first, last


def add_endpoint(endpoint_id: object) -> None:
    """Log a change of an endpoint that triggers skip, in the transaction of the change. Raises django.db.Error."""
    RegistryChange.objects.create(kind=ENDPOINT, object_id=str(endpoint_id))


def count(limit: int) -> int:
    """Return the number of rows in the log, at most `limit`. Raises django.db.Error."""
    return RegistryChange.objects.all()[:limit].count()


def token() -> str | None:
    """Return the token of the last `forget`; None if there is none. Raises django.db.Error."""
    return RegistryPosition.objects.filter(pk=1).values_list("token", flat=True).first()


def forget(ranges: IdRanges, *, token_before: str | None, token: str) -> bool:
    """Delete exactly these rows and set the token, in one transaction. Raises django.db.Error.

    Return False, and change nothing, if the token is not `token_before`: another process reads the log, the database
    was restored, or triggers were missing. Rows of a smaller id may commit later on PostgreSQL, so ids between two
    ranges are left.
    """
    with transaction.atomic():
        if not _replace_token(token_before, token):
            return False
        rest = iter(ranges)
        while part := list(islice(rest, RANGES)):
            within = " OR ".join(["id BETWEEN %s AND %s"] * len(part))
            with connection.cursor() as cursor:
                cursor.execute(f"DELETE FROM registry_changes WHERE {within}", [*chain.from_iterable(part)])  # noqa: S608
    return True


def _replace_token(before: str | None, token: str) -> bool:
    if before is None:
        return RegistryPosition.objects.get_or_create(pk=1, defaults={"token": token})[1]
    return RegistryPosition.objects.filter(pk=1, token=before).update(token=token) == 1


def _text(object_id: str | bytes) -> str:
    return object_id.decode(errors="replace") if isinstance(object_id, bytes) else object_id
