"""The list of subjects with limits, in parts."""

import pytest
from django.core.paginator import Paginator

from access.limits.listed import LimitedSubjects
from tests.access.limits.made import EVERYONE, budget, limit

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]
LIMITED = [EVERYONE, ("key", "1"), ("key", "2"), ("key", "3"), ("user", "1")]
WITH_BUDGETS_ALONE = [("key", "0"), ("user", "2")]
LISTED = [*LIMITED, *WITH_BUDGETS_ALONE]


@pytest.fixture(autouse=True)
def _stored() -> None:
    for subject in reversed(LIMITED):
        limit(subject, requests=1)
    for subject in (*WITH_BUDGETS_ALONE, EVERYONE, ("key", "2")):
        budget(subject)
        budget(subject, period="month")


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8])
def test_parts_have_each_subject_once(size: int, *, counted: bool) -> None:
    subjects = LimitedSubjects()
    if counted:  # then the last parts are read from the end
        assert len(subjects) == 7
    parts = [subjects[start : start + size] for start in range(0, 9, size)]
    assert [subject for part in parts for subject in part] == LISTED
    assert (len(subjects), subjects[:], subjects[6]) == (7, LISTED, ("user", "2"))
    with pytest.raises(IndexError):
        _ = subjects[7]


def test_the_subjects_of_a_level() -> None:
    assert LimitedSubjects("key")[:] == [("key", "1"), ("key", "2"), ("key", "3"), ("key", "0")]
    assert (len(LimitedSubjects("user")), LimitedSubjects("everyone")[:]) == (2, [EVERYONE])


@pytest.mark.parametrize(("number", "queries"), [(1, 3), (2, 4), (3, 4)])
def test_a_page_needs_few_queries(number: int, queries: int, django_assert_num_queries) -> None:
    with django_assert_num_queries(queries):
        page = list(Paginator(LimitedSubjects(), 3).get_page(number))
    assert page == LISTED[3 * number - 3 : 3 * number]


def test_the_last_page_does_not_pass_over_all_rows(django_assert_num_queries) -> None:
    with django_assert_num_queries(3) as captured:
        assert list(Paginator(LimitedSubjects("key"), 1).get_page(3)) == [("key", "3")]
    assert " DESC " in captured[2]["sql"]
    assert "OFFSET" not in captured[2]["sql"]
