"""Rates of own hardware in the admin."""

import uuid
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone

from gateway.prices.book import NANO
from metrics.models import HardwareRateRow
from tests.metrics.costs.hardware_rates import add_rate
from tests.metrics.world import add_endpoint

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("empty_caches")]
RATES = "/admin/metrics/hardwareraterow/"
FORM = {
    "valid_from_0": "", "valid_from_1": "", "valid_until_0": "", "valid_until_1": "", "note": "", "currency": "USD",
    "per_hour": "1.25", "idle_watts": "", "busy_watts": "", "per_kwh": "",
}  # fmt: skip


@pytest.fixture
def place():
    return str(add_endpoint(str(uuid.uuid4()), "gpu").pk)


def test_a_rate_is_added(as_admin, place):
    energy = {"idle_watts": "60", "busy_watts": "400", "per_kwh": "0.3"}
    assert as_admin.post(f"{RATES}add/", {**FORM, **energy, "endpoint_id": place}).status_code == 302
    row = HardwareRateRow.objects.get()
    assert (str(row.endpoint_id), row.per_hour, row.busy_watts) == (place, 1_250_000_000, 400 * NANO)
    assert row.valid_from > timezone.now()
    assert LogEntry.objects.count() == 1
    assert "gpu" in as_admin.get(RATES).content.decode()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"endpoint_id": ""}, "This field is required"),
        ({"currency": "DEM"}, "Select a valid choice"),
        ({"per_hour": ""}, "Enter an amount per hour, or watts and an amount per kWh"),
        ({"busy_watts": "4"}, "Energy needs watts when idle"),
        ({"valid_from_0": "2020-01-01", "valid_from_1": "00:00:00"}, "The start must be in the future"),
    ],
)
def test_a_bad_rate_is_refused(as_admin, place, change, error):
    response = as_admin.post(f"{RATES}add/", {**FORM, "endpoint_id": place, **change})
    assert (response.status_code, HardwareRateRow.objects.count()) == (200, 0)
    assert error in response.content.decode()


def test_a_rate_that_counts_can_only_end(as_admin, place):
    row = add_rate(place, since=timezone.now() - timedelta(days=1), per_hour="1")
    form = as_admin.get(f"{RATES}{row.pk}/change/").content.decode()
    assert ('name="per_hour"' in form, 'name="valid_until_0"' in form) == (False, True)
    assert ("1000000000" in form, "gpu USD" in form) == (False, True)
    end = timezone.localtime(timezone.now() + timedelta(days=1))
    sent = {**FORM, "valid_until_0": end.strftime("%Y-%m-%d"), "valid_until_1": "12:00:00", "note": "sold"}
    assert as_admin.post(f"{RATES}{row.pk}/change/", sent).status_code == 302
    row.refresh_from_db()
    assert (row.per_hour, row.note, row.valid_until is None) == (NANO, "sold", False)
    assert as_admin.post(f"{RATES}{row.pk}/delete/", {"post": "yes"}).status_code == 403
