"""Names of a few API keys, for pages that show figures from memory."""

import uuid

import pytest
from django.db import Error, connection
from django.test.utils import CaptureQueriesContext

from access.keys.names import FRESH_SECONDS, KeyNames
from access.models import ApiKey
from tests.access.people import make_user

pytestmark = pytest.mark.django_db


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def key() -> ApiKey:
    return ApiKey.issue(make_user(), "notebook", [])[0]


def test_names_of_existing_keys(key: ApiKey) -> None:
    assert KeyNames().of([str(key.pk), "", str(uuid.uuid4())]) == {str(key.pk): "notebook"}


def test_known_names_are_not_read_again(key: ApiKey) -> None:
    names, ids = KeyNames(Clock()), [str(key.pk), str(uuid.uuid4())]
    names.of(ids)
    with CaptureQueriesContext(connection) as queries:
        assert names.of(ids) == {str(key.pk): "notebook"}
    assert len(queries) == 0


@pytest.mark.parametrize("is_expired", [True, False])
def test_a_renamed_key_is_read_again(key: ApiKey, is_expired: bool) -> None:
    clock = Clock()
    names, ids = KeyNames(clock), [str(key.pk)]
    names.of(ids)
    ApiKey.objects.filter(pk=key.pk).update(name="laptop")
    if is_expired:
        names.expire()
    else:
        clock.now += FRESH_SECONDS
    assert names.of(ids) == {str(key.pk): "laptop"}


def test_known_names_stay_while_the_database_is_away(key: ApiKey) -> None:
    clock = Clock()
    names, ids = KeyNames(clock), [str(key.pk)]
    names.of(ids)
    names.expire()

    def fail(*_unused: object) -> None:
        raise Error("away")

    with connection.execute_wrapper(fail):
        assert names.of(ids) == {str(key.pk): "notebook"}
    assert names.of(ids) == {str(key.pk): "notebook"}  # not read again so soon
