"""The triggers of the tables of limits, and those that delete the limits of a deleted key or user."""

import pytest
from django.db import connection

from access.limits.tables import BudgetRow, DeletedKey, LimitRow
from access.models import ApiKey
from endpoints.changes import log as change_log
from endpoints.changes.watched import LIMIT
from tests.access.limits.made import EVERYONE, budget, limit
from tests.access.people import key_for, make_admin
from tests.endpoints.changes.conftest import changes
from tests.endpoints.conftest import sql

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("logged")]

ONE, TWO = ("key", "1"), ("user", "2")


def logged(*subjects: tuple[str, str]) -> set[tuple[str, str]]:
    return {("limit", ":".join(subject)) for subject in subjects}


def test_new_limits() -> None:
    limit(ONE, requests=60)
    assert changes() == [*logged(ONE)]
    budget()
    assert changes() == [("limit", "everyone:")]


@pytest.mark.parametrize(
    "change",
    [
        lambda: LimitRow.objects.filter(level="key").update(requests=61),
        lambda: LimitRow.objects.filter(level="key").update(waiting=["tokens"]),
        lambda: LimitRow.objects.filter(level="key").delete(),
        lambda: BudgetRow.objects.filter(level="key").update(amount=7),
        lambda: BudgetRow.objects.filter(level="key").update(hard=True),
        lambda: BudgetRow.objects.filter(level="key").update(instead="small"),
        lambda: BudgetRow.objects.filter(level="key").delete(),
    ],
)
def test_a_change_names_only_its_subject(change) -> None:
    for subject in (ONE, TWO):
        limit(subject, requests=60)
        budget(subject)
    changes()
    change()
    assert changes() == [*logged(ONE)]


def test_limits_that_move_to_another_subject_name_both() -> None:
    limit(ONE, requests=60)
    changes()
    LimitRow.objects.update(level="user", subject_id="2")
    assert set(changes()) == logged(ONE, TWO)


def test_an_update_without_a_difference_is_no_change() -> None:
    limit(ONE, requests=60)
    changes()
    LimitRow.objects.update(requests=60)
    assert changes() == []


def test_the_log_has_subjects() -> None:
    limit(ONE, requests=60)
    limit(requests=60)
    sql("INSERT INTO registry_changes (kind, object_id) VALUES ('limit', 'team:1'), ('limit', '')")  # a later release
    assert change_log.read().of(LIMIT) == {ONE, EVERYONE}


@pytest.mark.parametrize(
    ("statement", "left"),
    [
        ("DELETE FROM api_keys WHERE name = 'a'", {"b", "user", "everyone"}),
        ("DELETE FROM api_keys", {"user", "everyone"}),
        ("DELETE FROM users", {"everyone"}),
    ],
)
def test_other_programs_delete_the_limits_with_their_subject(statement: str, left: set[str]) -> None:
    user = make_admin()
    subjects = {"user": ("user", str(user.pk)), "everyone": EVERYONE}
    for name in ("a", "b"):
        key_for(user, name=name)
        subjects[name] = ("key", str(ApiKey.objects.get(name=name).pk))
    limit(("user", str(ApiKey.objects.get(name="a").pk)), requests=1)  # the id of a key at another level
    subjects["other"] = ("user", str(ApiKey.objects.get(name="a").pk))
    for subject in (subjects[name] for name in ("user", "everyone", "a", "b")):
        limit(subject, requests=60)
        budget(subject)
    changes()
    if "users" in statement:
        sql("DELETE FROM api_keys")
    sql(statement)
    kept = {subjects[name] for name in left}
    assert {(row.level, row.subject_id) for row in LimitRow.objects.all()} == {*kept, subjects["other"]}
    assert {(row.level, row.subject_id) for row in BudgetRow.objects.all()} == kept
    gone = {subject for name, subject in subjects.items() if name not in {*left, "other"}}
    assert {entry for entry in changes() if entry[0] == "limit"} == logged(*gone)


def test_a_deleted_key_is_kept_with_its_user_until_the_user_is_deleted() -> None:
    first, second = make_admin(), make_admin("second")
    for user, name in ((first, "a"), (first, "b"), (second, "c")):
        key_for(user, name=name)
    a, _, c = (ApiKey.objects.get(name=name) for name in "abc")
    sql("DELETE FROM api_keys WHERE name IN ('a', 'c')")
    assert set(DeletedKey.objects.values_list("pk", "user_id")) == {(a.pk, first.pk), (c.pk, second.pk)}
    first.delete()  # with the key "b"
    assert list(DeletedKey.objects.values_list("pk", "user_id")) == [(c.pk, second.pk)]


def test_a_key_that_is_created_and_deleted_again_has_its_last_user() -> None:
    first, second = make_admin(), make_admin("second")
    key_for(first, name="a")
    key = ApiKey.objects.get()
    sql("DELETE FROM api_keys")
    key.created_by = second
    key.save(force_insert=True)
    sql("DELETE FROM api_keys")
    assert list(DeletedKey.objects.values_list("pk", "user_id")) == [(key.pk, second.pk)]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no TRUNCATE")
def test_truncated_keys_are_kept_with_their_users() -> None:
    user = make_admin()
    key_for(user, name="a")
    key = ApiKey.objects.get()
    sql("SET CONSTRAINTS ALL IMMEDIATE")  # else the new key has a check pending
    sql("TRUNCATE api_keys")
    assert list(DeletedKey.objects.values_list("pk", "user_id")) == [(key.pk, user.pk)]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no TRUNCATE")
def test_truncated_keys_have_no_limits() -> None:
    limit(ONE, requests=60)
    limit(TWO, requests=60)
    changes()
    sql("TRUNCATE api_keys")
    assert [row.subject_id for row in LimitRow.objects.all()] == ["2"]
    assert set(changes()) == logged(ONE)


@pytest.mark.skipif(connection.vendor != "sqlite", reason="a form of SQLite's SQL")
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR REPLACE INTO limits (id, level, subject_id, requests) SELECT id, 'user', '2', 60 FROM limits",
        "INSERT OR REPLACE INTO budgets SELECT id, 'user', '2', unit, period, amount, hard, refuses_unpriced, instead "
        "FROM budgets",
    ],
)
def test_a_row_that_replaces_another_one_names_both_subjects(statement: str) -> None:
    limit(ONE, requests=60)
    budget(ONE)
    changes()
    sql(statement)
    assert set(changes()) == logged(ONE, TWO)


@pytest.mark.skipif(connection.vendor != "sqlite", reason="a form of SQLite's SQL")
def test_an_ignored_insert_keeps_the_limits_of_the_key() -> None:
    key_for(make_admin())
    subject = ("key", str(ApiKey.objects.get().pk))
    limit(subject, requests=60)
    sql("INSERT OR IGNORE INTO api_keys SELECT * FROM api_keys")
    assert LimitRow.objects.exists()
