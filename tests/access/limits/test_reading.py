"""Limits that are read from the database, whichever program wrote them."""

from collections.abc import Iterator

import pytest
from django.db import IntegrityError, connection, transaction

from access.limits import reading
from access.limits.reading import MAX_CONCURRENCY, MAX_TOKENS, SubjectWalk, all_limits, limit_changes, read_limits
from access.limits.tables import BudgetRow, LimitRow
from access.models import ApiKey, User
from gateway.registry.limits import LEVELS, LimitFacts
from tests.access.limits.made import EVERYONE, budget, limit
from tests.access.people import key_for, make_user, without_database
from tests.endpoints.conftest import rolled_back, sql

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

ONE, TWO = ("key", "1"), ("user", "1")

Announced = list[dict[tuple[str, str], LimitFacts | None]]


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Announced]:
    """The limits that listeners receive."""
    changes: Announced = []
    monkeypatch.setattr(limit_changes, "_listeners", [changes.append])
    yield changes
    limit_changes.outdated, limit_changes.failed_reads = False, 0


def test_limits_and_budgets_of_a_subject_are_read_together() -> None:
    limit(ONE, concurrency=4, requests=60, tokens=1000, waiting=["tokens"])
    limit(TWO, concurrency=9)
    month = budget(ONE, 5, "money", "month", hard=True, refuses_unpriced=True, instead="small")
    day = budget(ONE, 7)
    limits = read_limits([ONE, ("key", "other")])
    assert limits.keys() == {ONE}
    facts = limits[ONE]
    assert (facts.concurrency, facts.requests, facts.tokens, facts.waiting) == (4, 60, 1000, ("tokens",))
    assert [
        (stored_budget.id, stored_budget.unit, stored_budget.period, stored_budget.amount)
        for stored_budget in facts.budgets
    ] == [
        (str(month.pk), "money", "month", 5),
        (str(day.pk), "tokens", "day", 7),
    ]
    assert [
        (stored_budget.hard, stored_budget.refuses_unpriced, stored_budget.instead) for stored_budget in facts.budgets
    ] == [
        (True, True, "small"),
        (False, False, None),
    ]


def test_budgets_alone_are_limits() -> None:
    budget(ONE)
    facts = read_limits([ONE])[ONE]
    assert (facts.concurrency, facts.waiting, len(facts.budgets)) == (None, ("concurrency",), 1)


def test_a_row_without_limits_is_none() -> None:
    limit(ONE, waiting=["tokens"])
    assert read_limits([ONE]) == {}


@pytest.mark.parametrize(
    ("stored", "waiting"),
    [
        ("NULL", ("concurrency",)),
        ("'[]'", ()),
        ("""'["tokens", "requests"]'""", ("requests", "tokens")),
        ("""'["other"]'""", ()),
        ("'7'", ("concurrency",)),
    ],
)
def test_what_a_request_waits_for(stored: str, waiting: tuple[str, ...]) -> None:
    sql(f"INSERT INTO limits (level, requests, waiting) VALUES ('everyone', 60, {stored})")
    assert read_limits([EVERYONE])[EVERYONE].waiting == waiting


def test_numbers_of_other_programs_are_bounded() -> None:
    sql("INSERT INTO limits (level, concurrency, tokens) VALUES ('everyone', 999999999, 9000000000000000000)")
    facts = read_limits([EVERYONE])[EVERYONE]
    assert (facts.concurrency, facts.tokens) == (MAX_CONCURRENCY, MAX_TOKENS)


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL refuses it")
def test_a_damaged_number_is_not_no_limit() -> None:
    sql("INSERT INTO limits (level, concurrency, requests) VALUES ('everyone', 'much', 1.5)")
    facts = read_limits([EVERYONE])[EVERYONE]
    assert (facts.concurrency, facts.requests) == (1, 1)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO limits (level, requests) VALUES ('everyone', 0)",
        "INSERT INTO limits (level, tokens) VALUES ('everyone', -1)",
        "INSERT INTO limits (level, concurrency) VALUES ('nobody', 1)",
        "UPDATE budgets SET amount = 0",
        "UPDATE budgets SET unit = 'hours'",
        "UPDATE budgets SET period = 'year'",
    ],
)
def test_the_database_refuses_what_means_nothing(statement: str) -> None:
    budget()
    with pytest.raises(IntegrityError), transaction.atomic():
        sql(statement)


@pytest.mark.parametrize("make", [limit, budget])
def test_a_subject_has_one_row_of_each(make) -> None:
    make(ONE)
    with pytest.raises(IntegrityError), transaction.atomic():
        make(ONE)


def test_all_subjects_are_walked_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "AT_ONCE", 3)
    for number in range(7):
        limit(("key", str(number)), requests=1 + number)
    for number in range(5, 9):
        budget(("user", str(number)))
    walk = SubjectWalk(3)
    parts = list(iter(walk.next_part, []))
    assert [len(part) for part in parts] == [3, 3, 3, 2]
    expected = {("key", str(number)) for number in range(7)} | {("user", str(number)) for number in range(5, 9)}
    assert {subject for part in parts for subject in part} == expected
    assert dict(all_limits()).keys() == expected


def test_limits_of_all_subjects_are_read_in_the_order_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "AT_ONCE", 2)
    for number in (3, 1, 4, 0, 2):
        limit(("key", str(number)), requests=1 + number)
    limit(("user", "1"), requests=9)
    limit(requests=60)
    assert [subject for subject, _ in all_limits()] == [
        EVERYONE,
        *(("key", str(number)) for number in range(5)),
        ("user", "1"),
    ]


def test_rows_of_limits_are_read_once(django_assert_num_queries) -> None:
    """With a million of them, a query for each part took most of the time of a start."""
    for number in range(20):
        limit(("key", str(number)), requests=1 + number)
    with django_assert_num_queries(1 + 2 * len(LEVELS)), pytest.MonkeyPatch.context() as patched:
        patched.setattr(reading, "AT_ONCE", 3)
        assert len(list(all_limits())) == 20


# Changes


@pytest.mark.parametrize(
    "change",
    [
        lambda: LimitRow.objects.get().save(),
        lambda: LimitRow.objects.get().delete(),
        lambda: BudgetRow.objects.get().save(),
        lambda: BudgetRow.objects.get().delete(),
    ],
)
def test_a_change_is_announced_on_commit(change, announced: Announced, django_capture_on_commit_callbacks) -> None:
    limit(ONE, requests=60)
    budget(ONE)
    with django_capture_on_commit_callbacks(execute=True):
        change()
        assert not announced
    assert announced == [{ONE: read_limits([ONE]).get(ONE)}]


def test_a_rolled_back_change_is_not_announced(announced: Announced) -> None:
    with rolled_back():
        limit(ONE, requests=60)
    assert not announced


def test_a_deleted_subject_has_no_limits(announced: Announced, django_capture_on_commit_callbacks) -> None:
    user = make_user()
    key_for(user)
    key = ApiKey.objects.get()
    subjects = ("key", str(key.pk)), ("user", str(user.pk))
    for subject in (*subjects, ONE):
        limit(subject, requests=60)
        budget(subject)
    with django_capture_on_commit_callbacks(execute=True):
        User.objects.all().delete()
    assert [row.subject_id for model in (LimitRow, BudgetRow) for row in model.objects.all()] == ["1", "1"]
    assert {subject for change in announced for subject in change} == set(subjects)
    assert all(facts is None for change in announced for facts in change.values())


def test_without_a_listener_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_changes, "_listeners", [])
    without_database(lambda: limit_changes.read_again([ONE]))


def test_a_change_that_cannot_be_read_again_is_noted(announced: Announced, caplog: pytest.LogCaptureFixture) -> None:
    without_database(lambda: limit_changes.refresh([ONE]))
    assert (limit_changes.outdated, limit_changes.failed_reads, announced) == (True, 1, [])
    assert "limits could not be read again" in caplog.text
