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
from django.db.models import QuerySet

from gateway.ipc.journal import Position
from gateway.registry.limits import EVERYONE_LEVEL, KEY_LEVEL, MONEY, TOKENS, TOTAL, USER_LEVEL, Subject
from metrics import sql
from metrics.queries.api_keys import deleted_keys, is_uuid, stored_keys
from metrics.queries.stored import run_sql
from metrics.spending.money import converted_sums
from metrics.spending.subjects import Kind, Tag, tag_of

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
    rows = run_sql("SELECT writer, segment, position FROM journal_positions", ())
    return {writer: (int(segment), int(position)) for writer, segment, position in rows}


def has_budgets() -> bool:
    return bool(run_sql("SELECT 1 FROM budgets LIMIT 1", ()))


def kinds_of(level: str, ids: Collection[str]) -> dict[Subject, frozenset[Kind]]:
    """Return the units and periods of the budgets of these subjects, without those that have none."""
    by_subject: dict[Subject, set[Kind]] = defaultdict(set)
    for part in parts_of(ids):
        where = ["level = %s", f"subject_id IN {sql.placeholders(len(part))}"]
        for subject_id, unit, period in run_sql(
            sql.select(("subject_id", "unit", "period"), "budgets", where=where), (level, *part)
        ):
            by_subject[level, str(subject_id)].add((str(unit), str(period)))
    return {subject: frozenset(kinds) for subject, kinds in by_subject.items()}


def owners_of(keys: Iterable[str]) -> dict[str, str]:
    """Return the ids of the users that API keys belong to, or belonged to when they were deleted, by the keys' ids."""
    owners: dict[str, str] = {}
    for part in parts_of(filter(is_uuid, keys)):
        owners |= _owners(deleted_keys().filter(pk__in=part), stored_keys().filter(pk__in=part))
    return owners


def keys_of(users: Collection[str]) -> dict[str, str]:
    """Return the owners of all API keys of these users, the deleted ones too, by the keys' ids."""
    owners: dict[str, str] = {}
    for part in parts_of(filter(is_uuid, users)):
        owners |= _owners(deleted_keys().filter(user_id__in=part), stored_keys().filter(created_by_id__in=part))
    return owners


def _owners(deleted: QuerySet[Any], stored: QuerySet[Any]) -> dict[str, str]:
    rows = chain(deleted.values_list("pk", "user_id"), stored.values_list("pk", "created_by_id"))
    return {str(key): str(owner) for key, owner in rows}


def read_all(since: date) -> StoredSums:
    """Return the amounts of all budgets in periods from this day on, without those that have spent nothing.

    Read it as of one moment. `since` is the first day of a period of each length.
    """
    sums = StoredSums()
    if not has_budgets():
        return sums
    by_key: dict[str, list[tuple[str, date | None, int]]] = defaultdict(list)
    for unit, day, key, amount in _sums(since, None):
        by_key[key].append((unit, day, amount))
    sums.kinds |= kinds_of(EVERYONE_LEVEL, [""])
    for part in parts_of(by_key):
        owners = owners_of(part)
        sums.owners |= owners
        users = {owner for owner in owners.values() if (USER_LEVEL, owner) not in sums.kinds}
        sums.kinds |= kinds_of(KEY_LEVEL, part) | kinds_of(USER_LEVEL, users)
    _add_all(sums, by_key)
    return sums


def read_some(subjects: Collection[Subject], since: date) -> StoredSums:
    """Return the amounts of the budgets of these subjects, those with nothing too."""
    sums = StoredSums()
    by_level: dict[str, list[str]] = defaultdict(list)
    for level, subject_id in subjects:
        by_level[level].append(subject_id)
    for level, ids in by_level.items():
        sums.kinds |= kinds_of(level, ids)
    users = [subject_id for level, subject_id in sums.kinds if level == USER_LEVEL]
    sums.owners = keys_of(users)
    keys = {subject_id for level, subject_id in sums.kinds if level == KEY_LEVEL} | sums.owners.keys()
    by_key: dict[str, list[tuple[str, date | None, int]]] = defaultdict(list)
    of_everyone = (EVERYONE_LEVEL, "") in sums.kinds
    parts: Iterable[tuple[str, ...] | None] = [None] if of_everyone else parts_of(keys)
    for part in parts:
        for unit, day, key, amount in _sums(since, part):
            by_key[key].append((unit, day, amount))
    _add_all(sums, by_key)
    return sums


def _add_all(sums: StoredSums, by_key: Mapping[str, list[tuple[str, date | None, int]]]) -> None:
    for key, amounts in by_key.items():
        for subject in ((KEY_LEVEL, key), (USER_LEVEL, sums.owners.get(key, "")), (EVERYONE_LEVEL, "")):
            if subject in sums.kinds:
                for unit, day, amount in amounts:
                    sums.add(subject, unit, day, amount)


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
        for day, key, total in run_sql(statement, values):
            yield unit, date.fromisoformat(str(day)), str(key), int(total or 0)
    for each, key, total in (*converted_sums(since, keys), *converted_sums(None, keys)):
        yield MONEY, each, key, total
    for unit, table, amount, where, values in (
        (TOKENS, "rollup_months", tokens, of_keys, chosen),
        (MONEY, "rollup_cost_days", "SUM(cost)", ["currency = %s", *of_keys], [currency, *chosen]),
    ):
        statement = sql.select(("api_key_id", amount), table, where=where, group_by="api_key_id")
        for key, total in run_sql(statement, values):
            yield unit, None, str(key), int(total or 0)


def parts_of(ids: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield these ids, each once, AT_ONCE at a time."""
    rest = iter(set(ids))
    while part := tuple(islice(rest, AT_ONCE)):
        yield part
