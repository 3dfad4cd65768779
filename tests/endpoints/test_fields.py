import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from django.db import connection
from django.db.models import Max

from endpoints.fields import LineField, iso
from endpoints.models import Endpoint, HealthCheck
from tests.endpoints.conftest import make_endpoint, sql

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]
on_sqlite = pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite stores these types as text")

ID = "0a1b2c3d-4e5f-4071-8a9b-0c1d2e3f4a5b"
MOMENT = datetime(2026, 4, 15, 1, 2, 3, 123456, tzinfo=UTC)


def insert_endpoint(endpoint_id: str = ID, registered_at: str = "2026-04-15T01:02:03+00:00") -> None:
    """Insert a row as llmlb does, with the defaults of the table."""
    columns = "INSERT INTO endpoints (id, name, base_url, registered_at)"
    sql(f"{columns} VALUES (%s, 'theirs', 'http://theirs:1', %s)", endpoint_id, registered_at)


def insert_check(endpoint: Endpoint, checked_at: str, error: str | None = None) -> None:
    sql(
        "INSERT INTO endpoint_health_checks (endpoint_id, checked_at, success, error_message, status_before,"
        " status_after) VALUES (%s, %s, %s, %s, 'online', 'online')",
        str(endpoint.pk),
        checked_at,
        True,
        error or checked_at,
    )


# UUIDs


@on_sqlite
def test_a_uuid_is_written_hyphenated_in_lower_case() -> None:
    make_endpoint(id=uuid.UUID(ID.upper()))
    assert sql("SELECT id FROM endpoints") == [(ID,)]


@pytest.mark.parametrize("condition", [ID, ID.upper(), ID.replace("-", ""), uuid.UUID(ID)])
def test_a_uuid_written_by_sql_is_found(condition: Any) -> None:
    insert_endpoint()
    assert Endpoint.objects.get(pk=condition).pk == uuid.UUID(ID)


def test_a_foreign_key_written_by_sql_is_followed() -> None:
    insert_endpoint()
    endpoint = Endpoint.objects.get(pk=ID)
    insert_check(endpoint, "2026-04-15T01:02:03+00:00")
    assert HealthCheck.objects.select_related("endpoint").get().endpoint == endpoint
    assert endpoint.health_checks.count() == 1


def test_uuids_are_found_by_in_lookups() -> None:
    insert_endpoint()
    assert Endpoint.objects.filter(pk__in=[uuid.UUID(ID), uuid.uuid4()]).count() == 1


@on_sqlite
@pytest.mark.parametrize("bad", ["", "gpu-box", "0a1b2c3d", ID + "0"])
def test_a_bad_uuid_reads_as_the_nil_uuid(bad: str) -> None:
    insert_endpoint(bad)
    assert [row.pk for row in Endpoint.objects.all()] == [uuid.UUID(int=0)]


@pytest.mark.parametrize("field", [Endpoint._meta.get_field("id"), HealthCheck._meta.get_field("endpoint")])
def test_a_uuid_has_the_type_of_its_database(field: Any) -> None:
    assert field.db_type(connection) == {"sqlite": "text", "postgresql": "uuid"}[connection.vendor]


# Timestamps


def test_iso_converts_any_zone_to_utc_with_six_digits() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert iso(datetime(2026, 4, 15, 10, 2, 3, tzinfo=tokyo)) == "2026-04-15T01:02:03.000000+00:00"


def test_iso_texts_sort_by_time() -> None:
    moments = [MOMENT + timedelta(microseconds=step) for step in (0, 1, 999_999, 60_000_000)]
    assert sorted(iso(moment) for moment in moments) == [iso(moment) for moment in moments]


@on_sqlite
def test_a_timestamp_is_written_with_six_digits_and_an_offset() -> None:
    make_endpoint(registered_at=MOMENT.replace(microsecond=0))
    assert sql("SELECT registered_at FROM endpoints") == [("2026-04-15T01:02:03.000000+00:00",)]


@on_sqlite
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-04-15T01:02:03+00:00", MOMENT.replace(microsecond=0)),
        ("2026-04-15T01:02:03.123+00:00", MOMENT.replace(microsecond=123000)),
        ("2026-04-15T01:02:03.123456+00:00", MOMENT),
        ("2026-04-15T01:02:03.123456789+00:00", MOMENT),
        ("2026-04-15T01:02:03.123456Z", MOMENT),
        ("2026-04-15T10:02:03.123456+09:00", MOMENT),
        ("2026-04-15 01:02:03", MOMENT.replace(microsecond=0)),
    ],
)
def test_every_written_form_is_read(text: str, expected: datetime) -> None:
    insert_endpoint(registered_at=text)
    assert Endpoint.objects.get().registered_at == expected


@on_sqlite
@pytest.mark.parametrize("bad", ["", "yesterday", "2026-13-01T00:00:00+00:00", "1776214923"])
def test_a_malformed_timestamp_reads_as_none(bad: str) -> None:
    insert_endpoint(registered_at=bad)
    assert Endpoint.objects.get().registered_at is None


def test_a_timestamp_survives_a_round_trip() -> None:
    make_endpoint(registered_at=MOMENT, last_seen=None)
    assert Endpoint.objects.values_list("registered_at", "last_seen").get() == (MOMENT, None)


MIXED = [
    "2026-04-15T01:02:03+00:00",
    "2026-04-15T01:02:03.100+00:00",
    "2026-04-15T01:02:03.100200+00:00",
    "2026-04-15T01:02:03.100200300+00:00",
    "2026-04-15T01:02:04+00:00",
]


@pytest.fixture
def mixed() -> None:
    """Checks within one second in each written form, in no order; on PostgreSQL the fourth equals the third."""
    endpoint = make_endpoint()
    for text in [MIXED[3], MIXED[0], MIXED[4], MIXED[2], MIXED[1]]:
        insert_check(endpoint, text)


def positions(**conditions: Any) -> list[int]:
    """Return the positions in MIXED, in the order of the query."""
    rows = HealthCheck.objects.filter(**conditions).order_by("checked_at", "error_message")
    return [MIXED.index(str(row.error_message)) for row in rows]


@pytest.mark.usefixtures("mixed")
@pytest.mark.parametrize("order", ["checked_at", "-checked_at"])
def test_mixed_forms_are_ordered_in_time(order: str) -> None:
    moments = list(HealthCheck.objects.order_by(order).values_list("checked_at", flat=True))
    assert moments == sorted(moments, reverse=order.startswith("-"))
    assert len(moments) == 5


@pytest.mark.usefixtures("mixed")
def test_mixed_forms_are_filtered_by_ranges() -> None:
    second = MOMENT.replace(microsecond=0)
    middle = second + timedelta(microseconds=100_100)
    assert positions(checked_at__lt=middle) == [0, 1]
    assert positions(checked_at__gte=middle) == [2, 3, 4]
    assert positions(checked_at__range=(middle, second + timedelta(milliseconds=900))) == [2, 3]


@pytest.mark.usefixtures("mixed")
def test_a_range_may_be_given_in_any_zone() -> None:
    tokyo = MOMENT.replace(microsecond=500_000).astimezone(timezone(timedelta(hours=9)))
    assert positions(checked_at__gt=tokyo) == [4]


def test_a_range_may_be_given_as_text() -> None:
    insert_check(make_endpoint(), "2026-04-15T01:02:03+00:00")
    assert HealthCheck.objects.filter(checked_at__gt="2026-04-15T01:00:00Z").count() == 1


def test_an_aggregate_is_a_timestamp_too() -> None:
    endpoint = make_endpoint()
    insert_check(endpoint, "2026-04-15T01:02:03+00:00")
    insert_check(endpoint, "2026-04-15T01:02:03.123456+00:00")
    assert HealthCheck.objects.aggregate(last=Max("checked_at")) == {"last": MOMENT}


def test_none_is_stored_as_none() -> None:
    endpoint = make_endpoint(last_seen=MOMENT)
    Endpoint.objects.update(last_seen=None)
    endpoint.refresh_from_db()
    assert endpoint.last_seen is None


# Lines of text


def test_a_line_has_unlimited_length_and_a_single_line_input() -> None:
    field = LineField()
    assert field.db_type(connection) == "text"
    assert type(field.formfield().widget).__name__ == "TextInput"
