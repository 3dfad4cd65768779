"""Budgets and the amounts they have spent, as the database has them: the sums that the Usage page shows.

The tables of keys and budgets belong to `access`, which this package may not import.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import chain, islice
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import QuerySet

from gateway.ipc.journal import Position
from gateway.registry.limits import EVERYONE_LEVEL, KEY_LEVEL, MONEY, TOKENS, TOTAL, USER_LEVEL
from metrics import sql
from metrics.queries.api_keys import deleted_keys, is_uuid, stored_keys
from metrics.spending.money import converted_sums
from metrics.spending.subjects import Kind, Subject, Tag, tag_of

AT_ONCE = 500  # ids in one query


@dataclass(slots=True)
class StoredSums:
    """Amounts by tag, the budgets of the subjects that have any of these amounts, and the owners of keys."""

    amounts: dict[Tag, int] = field(default_factory=lambda: defaultdict(int))
    kinds: dict[Subject, frozenset[Kind]] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)

    def add(self, subject: Subject, unit: str, day: date | None, amount: int) -> None:
        """Add an amount of one day, or of all time (None), to the budgets of a subject."""
        for of_unit, period in self.kinds.get(subject, ()):
            if of_unit == unit and (period == TOTAL) == (day is None):
                self.amounts[tag_of(subject, unit, period, day or date.min)] += amount


def positions() -> dict[str, Position]:
    """Return the journal positions up to which records are in the database."""
    rows = read_rows("SELECT writer, segment, position FROM journal_positions")
    return {writer: (int(segment), int(position)) for writer, segment, position in rows}


def has_budgets() -> bool:
    return bool(list(read_rows("SELECT 1 FROM budgets LIMIT 1")))


def budgets_of(subjects: Collection[Subject]) -> Iterator[tuple[str, str, str, str, int]]:
    """Yield level, subject, unit, period and amount of the budgets of these subjects."""
    by_level: dict[str, set[str]] = defaultdict(set)
    for level, subject_id in subjects:
        by_level[level].add(subject_id)
    for level, ids in by_level.items():
        for part in parts_of(ids):
            where = ["level = %s", f"subject_id IN {sql.placeholders(len(part))}"]
            yield from _budgets(sql.select(_BUDGET, "budgets", where=where), (level, *part))


def some_budgets(limit: int) -> Iterator[tuple[str, str, str, str, int]]:
    """Yield the same of at most so many budgets of all subjects."""
    yield from _budgets(sql.select(_BUDGET, "budgets", limit=limit), ())


_BUDGET = ("level", "subject_id", "unit", "period", "amount")


def _budgets(statement: str, values: Iterable[str]) -> Iterator[tuple[str, str, str, str, int]]:
    for level, subject_id, unit, period, amount in read_rows(statement, values):
        yield str(level), str(subject_id), str(unit), str(period), int(amount)


def kinds_of(level: str, ids: Collection[str]) -> dict[Subject, frozenset[Kind]]:
    """Return the units and periods of the budgets of these subjects, without those that have none."""
    found: dict[Subject, set[Kind]] = defaultdict(set)
    for part in parts_of(ids):
        where = ["level = %s", f"subject_id IN {sql.placeholders(len(part))}"]
        for subject_id, unit, period in read_rows(
            sql.select(("subject_id", "unit", "period"), "budgets", where=where), (level, *part)
        ):
            found[level, str(subject_id)].add((str(unit), str(period)))
    return {subject: frozenset(kinds) for subject, kinds in found.items()}


def owners_of(keys: Iterable[str]) -> dict[str, str]:
    """Return the ids of the users that API keys belong to, or belonged to when they were deleted, by the keys' ids."""
    found: dict[str, str] = {}
    for part in parts_of(filter(is_uuid, keys)):
        found |= _owners(deleted_keys().filter(pk__in=part), stored_keys().filter(pk__in=part))
    return found


def keys_of(users: Collection[str]) -> dict[str, str]:
    """Return the owners of all API keys of these users, the deleted ones too, by the keys' ids."""
    found: dict[str, str] = {}
    for part in parts_of(filter(is_uuid, users)):
        found |= _owners(deleted_keys().filter(user_id__in=part), stored_keys().filter(created_by_id__in=part))
    return found


def _owners(deleted: QuerySet[Any], stored: QuerySet[Any]) -> dict[str, str]:
    rows = chain(deleted.values_list("pk", "user_id"), stored.values_list("pk", "created_by_id"))
    return {str(key): str(owner) for key, owner in rows}


def read_all(since: date) -> StoredSums:
    """Return the amounts of all budgets in periods from this day on, without those that have spent nothing.

    Read it as of one moment. `since` is the first day of a period of each length.
    """
    found = StoredSums()
    if not has_budgets():
        return found
    by_key: dict[str, list[tuple[str, date | None, int]]] = defaultdict(list)
    for unit, day, key, amount in _sums(since, None):
        by_key[key].append((unit, day, amount))
    found.kinds |= kinds_of(EVERYONE_LEVEL, [""])
    for part in parts_of(by_key):
        owners = owners_of(part)
        found.owners |= owners
        users = {owner for owner in owners.values() if (USER_LEVEL, owner) not in found.kinds}
        found.kinds |= kinds_of(KEY_LEVEL, part) | kinds_of(USER_LEVEL, users)
    _add_all(found, by_key)
    return found


def read_some(subjects: Collection[Subject], since: date) -> StoredSums:
    """Return the amounts of the budgets of these subjects, those with nothing too."""
    found = StoredSums()
    by_level: dict[str, list[str]] = defaultdict(list)
    for level, subject_id in subjects:
        by_level[level].append(subject_id)
    for level, ids in by_level.items():
        found.kinds |= kinds_of(level, ids)
    users = [subject_id for level, subject_id in found.kinds if level == USER_LEVEL]
    found.owners = keys_of(users)
    keys = {subject_id for level, subject_id in found.kinds if level == KEY_LEVEL} | found.owners.keys()
    by_key: dict[str, list[tuple[str, date | None, int]]] = defaultdict(list)
    of_everyone = (EVERYONE_LEVEL, "") in found.kinds
    parts: Iterable[tuple[str, ...] | None] = [None] if of_everyone else parts_of(keys)
    for part in parts:
        for unit, day, key, amount in _sums(since, part):
            by_key[key].append((unit, day, amount))
    _add_all(found, by_key)
    return found


def _add_all(found: StoredSums, by_key: Mapping[str, list[tuple[str, date | None, int]]]) -> None:
    for key, amounts in by_key.items():
        for subject in ((KEY_LEVEL, key), (USER_LEVEL, found.owners.get(key, "")), (EVERYONE_LEVEL, "")):
            if subject in found.kinds:
                for unit, day, amount in amounts:
                    found.add(subject, unit, day, amount)


def _sums(since: date, keys: Collection[str] | None) -> Iterator[tuple[str, date | None, str, int]]:
    """Yield unit, day, API key and amount, for each day from one on, and for all time (None). `keys`: of these only."""
    of_keys = [] if keys is None else [f"api_key_id IN {sql.placeholders(len(keys))}"]
    tokens, currency = "SUM(input_tokens + output_tokens)", settings.ROUTERDASH.currency
    chosen = list(keys or ())
    first = since.isoformat()
    for unit, table, amount, where, values in (
        (TOKENS, "rollup_days", tokens, ["date >= %s", *of_keys], [first, *chosen]),
        (MONEY, "rollup_cost_days", "SUM(cost)", ["date >= %s", "currency = %s", *of_keys], [first, currency, *chosen]),
    ):
        statement = sql.select(("date", "api_key_id", amount), table, where=where, group_by="date, api_key_id")
        for day, key, total in read_rows(statement, values):
            yield unit, date.fromisoformat(str(day)), str(key), int(total or 0)
    for each, key, total in (*converted_sums(since, keys), *converted_sums(None, keys)):
        yield MONEY, each, key, total
    for unit, table, amount, where, values in (
        (TOKENS, "rollup_months", tokens, of_keys, chosen),
        (MONEY, "rollup_cost_days", "SUM(cost)", ["currency = %s", *of_keys], [currency, *chosen]),
    ):
        statement = sql.select(("api_key_id", amount), table, where=where, group_by="api_key_id")
        for key, total in read_rows(statement, values):
            yield unit, None, str(key), int(total or 0)


def parts_of(ids: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield these ids, each once, AT_ONCE at a time."""
    rest = iter(set(ids))
    while part := tuple(islice(rest, AT_ONCE)):
        yield part


def read_rows(statement: str, values: Iterable[Any] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a statement. Raises django.db.Error."""
    with connection.cursor() as cursor:
        cursor.execute(statement, list(values))
        yield from cursor.fetchall()
