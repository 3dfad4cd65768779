"""The triggers of the change log: what they log, for each way to change a row, and what they do not."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from access.models import ApiKey, Role, User
from endpoints.changes.watched import WATCHED
from endpoints.checks.model_lists import ListedModel
from endpoints.endpoint_fields import FIELDS
from endpoints.models import HEALTH_FIELDS, Endpoint, EndpointModel, EndpointOptions
from endpoints.sync import store
from tests.access.people import make_admin, make_user
from tests.endpoints.changes.conftest import changes, of
from tests.endpoints.conftest import make_endpoint, make_model, rolled_back, sql

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("logged")]

sqlite_only = pytest.mark.skipif(connection.vendor != "sqlite", reason="a form of SQLite's SQL")


def make_key(owner: User, name: str = "script", **fields: Any) -> ApiKey:
    return ApiKey.issue(owner, name, (), **fields)[0]


# Endpoints


def test_a_new_endpoint() -> None:
    endpoint = make_endpoint()
    assert changes() == of(endpoint)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", "other"),
        ("base_url", "http://other:1"),
        ("endpoint_type", "vllm"),
        ("health_check_interval_secs", 7),
        ("inference_timeout_secs", 7),
        ("registered_at", datetime(2020, 1, 1, tzinfo=UTC)),
        ("notes", "n"),
        ("capabilities", ["embeddings"]),
        ("device_info", {"gpu": 1}),
        ("api_key_encrypted", "sk-plain"),
    ],
)
def test_an_update_of_an_endpoint(column: str, value: Any) -> None:
    endpoint, other = make_endpoint(), make_endpoint("bystander")
    changes()
    Endpoint.objects.filter(pk=endpoint.pk).update(**{column: value})
    assert changes() == of(endpoint)
    Endpoint.objects.filter(pk=endpoint.pk).update(**{column: value})
    endpoint.refresh_from_db()
    endpoint.save()
    other.save()
    assert changes() == []


def test_each_field_of_an_endpoint_is_watched_or_written_by_health_checks() -> None:
    columns = {table.name: set(table.columns) for table in WATCHED}
    assert columns["endpoints"] | set(HEALTH_FIELDS) == {field.column for field in FIELDS if not field.is_option}
    assert not columns["endpoints"] & set(HEALTH_FIELDS)
    assert columns["endpoint_options"] >= {field.column for field in FIELDS if field.is_option}


def test_an_update_from_null_and_to_null() -> None:
    endpoint = make_endpoint()
    changes()
    for value in ("n", None):
        sql("UPDATE endpoints SET notes = %s", value)
        assert changes() == of(endpoint)


def test_health_checks_and_counters_write_nothing() -> None:
    endpoint = make_endpoint()
    changes()
    for success in (True, False, False, True):
        Endpoint.record_check(endpoint.pk, success=success, latency_ms=3, error="down", checked_at=timezone.now())
    columns = (*HEALTH_FIELDS, "total_requests", "successful_requests", "failed_requests", "inference_latency_ms")
    for column in columns:
        value: Any = {"status": "offline", "last_error": "e", "last_seen": "2026-01-01T00:00:00+00:00"}.get(column, 9)
        sql(f'UPDATE endpoints SET "{column}" = %s', value)
    endpoint.refresh_from_db()
    assert (endpoint.total_requests, endpoint.error_count, endpoint.status) == (9, 9, "offline")
    assert changes() == []


def test_a_deleted_endpoint_with_its_parts() -> None:
    endpoint = make_endpoint()
    make_model(endpoint)
    endpoint.set_operator_state("disabled")
    changes()
    expected = of(endpoint)[0]
    endpoint.delete()
    entries = changes()
    assert set(entries) == {expected}
    assert len(entries) == 3  # of the endpoint, of its options, of its model


def test_options() -> None:
    endpoint = make_endpoint()
    changes()
    endpoint.set_options(max_concurrency=3)
    assert changes() == of(endpoint)
    endpoint.set_options(max_concurrency=3)
    assert changes() == []
    endpoint.set_options(tags=["a"])
    assert changes() == of(endpoint)
    EndpointOptions.objects.all().delete()
    assert changes() == of(endpoint)


def test_options_that_move_to_another_endpoint() -> None:
    one, two = make_endpoint("one"), make_endpoint("two")
    one.set_options(max_concurrency=3)
    changes()
    EndpointOptions.objects.update(endpoint=two)
    assert sorted(changes()) == sorted(of(one, two))


def test_models() -> None:
    endpoint = make_endpoint()
    changes()
    make_model(endpoint, "a")
    assert changes() == of(endpoint)
    of_endpoint = EndpointModel.objects.filter(endpoint=endpoint)
    for values in (
        {"capabilities": ["chat_completion"]},
        {"max_tokens": 5},
        {"canonical_name": "org/a"},
        {"max_output_tokens": 5},
        {"lacks": ["tools"]},
        {"features": ["vision"]},
    ):
        of_endpoint.update(**values)
        assert changes() == of(endpoint), values
        of_endpoint.update(**values)
        assert changes() == [], values
    of_endpoint.update(last_checked=timezone.now(), supported_apis=["responses"])
    assert changes() == []
    of_endpoint.update(model_id="b")
    assert changes() == of(endpoint)
    of_endpoint.delete()
    assert changes() == of(endpoint)


def test_many_models_at_once() -> None:
    one, two = make_endpoint("one"), make_endpoint("two")
    changes()
    rows = [EndpointModel(endpoint=endpoint, model_id=f"m{number}") for endpoint in (one, two) for number in range(5)]
    EndpointModel.objects.bulk_create(rows)
    entries = changes()
    assert set(entries) == set(of(one, two))
    assert len(entries) == (2 if connection.vendor == "postgresql" else 10)
    EndpointModel.objects.filter(model_id="m1").delete()
    assert sorted(changes()) == sorted(of(one, two))


def test_a_model_sync_without_a_change_logs_the_endpoint_once() -> None:
    endpoint = make_endpoint()
    listed = [ListedModel(f"m{number}", 4096, ("chat_completion",), True) for number in range(3)]
    store(endpoint, listed, slots=4)
    assert set(changes()) == set(of(endpoint))
    store(endpoint, listed, slots=4)
    assert changes() == of(endpoint)


def test_an_upsert() -> None:
    endpoint = make_endpoint()
    make_model(endpoint, "a", max_tokens=1)
    changes()
    upsert = (
        "INSERT INTO endpoint_models (endpoint_id, model_id, max_tokens) VALUES (%s, 'a', %s) "
        "ON CONFLICT (endpoint_id, model_id) DO UPDATE SET max_tokens = excluded.max_tokens"
    )
    sql(upsert, str(endpoint.pk), 1)
    assert changes() == []
    sql(upsert, str(endpoint.pk), 2)
    assert changes() == of(endpoint)


# Keys and users


def test_keys() -> None:
    admin = make_admin()
    assert changes() == of(admin)
    key = make_key(admin)
    assert changes() == of(key)
    expires = timezone.now() + timedelta(days=1)
    for values in (
        {"permissions": ["metrics.read"]},
        {"expires_at": expires},
        {"expires_at": None},
        {"name": "renamed"},
        {"key_prefix": "sk_other"},
        {"created_at": expires},
        {"created_by": make_user()},
    ):
        changes()
        ApiKey.objects.filter(pk=key.pk).update(**values)
        assert changes() == of(key), values
        ApiKey.objects.filter(pk=key.pk).update(**values)
        assert changes() == [], values
    ApiKey.objects.update(scopes="legacy")
    assert changes() == []
    expected = of(key)
    key.delete()
    assert changes() == expected


def test_many_keys_at_once() -> None:
    admin = make_admin()
    changes()
    keys = [ApiKey(name=str(number), key_hash=str(number), created_by=admin) for number in range(4)]
    ApiKey.objects.bulk_create(keys)
    assert sorted(changes()) == sorted(of(*keys))
    ApiKey.objects.filter(name__in=("1", "2")).update(expires_at=timezone.now())
    assert sorted(changes()) == sorted(of(*keys[1:3]))
    sql("DELETE FROM api_keys")
    assert sorted(changes()) == sorted(of(*keys))


def test_users() -> None:
    user = make_user()
    assert changes() == of(user)
    for values in (
        {"role": Role.ADMIN},
        {"username": "vera2"},
        {"password": "bcrypt$$2b$12$x"},
        {"must_change_password": True},
        {"view_bodies": True},
        {"created_at": timezone.now()},
    ):
        User.objects.update(**values)
        assert changes() == of(user), values
    user.refresh_from_db()
    user.last_login = timezone.now()
    user.save()
    assert changes() == []


def test_a_deleted_user_with_keys() -> None:
    user, other = make_user(), make_user("other")
    key, others = make_key(user), make_key(other)
    changes()
    expected = of(user, key)
    user.delete()
    assert sorted(changes()) == sorted(expected)
    others.refresh_from_db()


def test_the_columns_of_keys_and_users_are_watched() -> None:
    columns = {table.name: set(table.columns) for table in WATCHED}
    assert columns["api_keys"] == {field.column for field in ApiKey._meta.concrete_fields} - {
        "scopes",
        "disabled_by_admin",
    }
    assert columns["users"] == {field.column for field in User._meta.concrete_fields} - {"last_login"}


# Transactions


def test_a_change_that_is_rolled_back_leaves_nothing() -> None:
    endpoint = make_endpoint()
    changes()
    with rolled_back():
        endpoint.set_options(max_concurrency=3)
        make_user()
        endpoint.delete()
    assert changes() == []


def test_a_refused_change_leaves_nothing() -> None:
    one = make_endpoint("one")
    make_endpoint("two")
    changes()
    with pytest.raises(IntegrityError), transaction.atomic():
        sql("UPDATE endpoints SET name = 'two' WHERE id = %s", str(one.pk))
    assert changes() == []


# Other programs


def test_a_changed_hash_names_both_keys() -> None:
    key = make_key(make_admin())
    changes()
    new = "00" * 32
    sql("UPDATE api_keys SET key_hash = %s", new)
    assert sorted(changes()) == sorted([*of(key), ("key", new)])


@sqlite_only
def test_rows_that_replace_displaces() -> None:
    admin = make_admin()
    key, endpoint = make_key(admin), make_endpoint("one")
    second = make_endpoint("two")
    changes()
    new, insert = str(uuid.uuid4()), "INSERT OR REPLACE INTO api_keys (id, key_hash, name, created_by, created_at) "
    sql(insert + "VALUES (%s, %s, 'new', %s, '')", new, key.key_hash, str(admin.pk))
    assert set(changes()) == set(of(key))
    assert not ApiKey.objects.filter(pk=key.pk).exists()
    sql("UPDATE OR REPLACE endpoints SET name = 'one' WHERE id = %s", str(second.pk))
    assert sorted(changes()) == sorted(of(endpoint, second))
    viewer, new = make_user("vera"), str(uuid.uuid4())
    insert = "INSERT OR REPLACE INTO users (id, username, password_hash, role, created_at) "
    changes()
    sql(insert + "VALUES (%s, 'vera', '', 'admin', '')", new)
    assert sorted(changes()) == sorted([*of(viewer), ("user", new)])


@sqlite_only
def test_damaged_ids_make_no_write_fail() -> None:
    make_endpoint("one")
    changes()
    sql("UPDATE endpoints SET id = x'ff00'")
    sql("UPDATE endpoints SET notes = 'n'")
    sql("DELETE FROM endpoints")
    assert sql("SELECT count(*) FROM registry_changes") == [(4,)]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no TRUNCATE")
@pytest.mark.django_db(transaction=True)
def test_truncated_tables() -> None:
    admin = make_admin()
    keys = [make_key(admin, name) for name in "ab"]
    changes()
    sql("TRUNCATE api_keys")
    assert sorted(changes()) == sorted(of(*keys))
    sql("TRUNCATE users, api_keys, registry_changes CASCADE")
    assert changes() == []
