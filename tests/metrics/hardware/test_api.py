"""/api/hardware and /api/hardware-rates."""

import json
import time
import uuid
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone

from endpoints.models import Endpoint
from gateway.prices.book import NANO
from metrics.costs.hardware_rates import HOUR
from metrics.costs.price_cache import price_cache
from metrics.models import HardwareRateRow
from tests.metrics.costs.hardware_rates import add_rate
from tests.metrics.records import AT, NOW, A, request
from tests.metrics.world import add_endpoint

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("empty_caches")]
RATES = "/api/hardware-rates"


def send(people, method, path, body):
    return getattr(people, method)(path, json.dumps(body), content_type="application/json")


@pytest.fixture
def place():
    return str(add_endpoint(str(uuid.uuid4()), "gpu").pk)


class TestRates:
    def test_a_rate_is_added(self, as_admin, place):
        sent = {"endpoint_id": place, "currency": "eur", "idle_watts": "61.5", "busy_watts": 412, "per_kwh": "0.3127"}
        response = send(as_admin, "post", RATES, sent)
        assert response.status_code == 201, response.content
        row = HardwareRateRow.objects.get()
        assert (row.currency, row.idle_watts, row.busy_watts, row.per_kwh) == (
            "EUR", 61_500_000_000, 412 * NANO, 312_700_000,
        )  # fmt: skip
        assert row.valid_from > timezone.now()
        assert {name: response.json()[name] for name in ("per_hour", "busy_watts")} == {
            "per_hour": None, "busy_watts": "412",
        }  # fmt: skip
        assert LogEntry.objects.count() == 1
        assert not price_cache.hardware().rate(place, time.time())

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"currency": "DEM"}, "currency"),
            ({"endpoint_id": A}, "endpoint_id"),
            ({"endpoint_id": "x"}, "endpoint_id"),
            ({"per_hour": "-1"}, "per_hour"),
            ({"per_hour": None}, "per_hour"),
            ({"per_hour": "1000001"}, "per_hour"),
            ({"idle_watts": "1"}, "busy_watts"),
            ({"idle_watts": "2", "busy_watts": "1", "per_kwh": "1"}, "busy_watts"),
            ({"valid_from": "2020-01-01T00:00:00Z"}, "valid_from"),
            ({"valid_until": "2020-01-01T00:00:00Z"}, "valid_until"),
            ({"note": "a\nb"}, "note"),
        ],
    )
    def test_a_bad_rate_is_refused(self, as_admin, place, change, field):
        response = send(as_admin, "post", RATES, {"endpoint_id": place, "currency": "USD", "per_hour": "1", **change})
        assert (response.status_code, list(response.json()["fields"])) == (400, [field])
        assert not HardwareRateRow.objects.exists()

    def test_only_the_end_of_a_rate_that_counts_can_change(self, as_admin, place):
        row = add_rate(place, since=timezone.now() - timedelta(days=1), per_hour="1")
        path = f"{RATES}/{row.pk}"
        assert list(send(as_admin, "patch", path, {"per_hour": "2"}).json()["fields"]) == ["per_hour"]
        past, later = (timezone.now() + timedelta(hours=offset) for offset in (-1, 1))
        assert list(send(as_admin, "patch", path, {"valid_until": past.isoformat()}).json()["fields"]) == [
            "valid_until"
        ]
        assert send(as_admin, "patch", path, {"valid_until": later.isoformat()}).status_code == 200
        assert as_admin.delete(path).status_code == 409

    def test_a_future_rate_can_be_changed_and_deleted(self, as_admin, place):
        row = add_rate(place, since=(timezone.now() + timedelta(days=1)).replace(microsecond=0), per_hour="1")
        path = f"{RATES}/{row.pk}"
        assert send(as_admin, "patch", path, {"per_hour": "2"}).json()["per_hour"] == "2"
        same = {"endpoint_id": place, "currency": "USD", "per_hour": "1", "valid_from": row.valid_from.isoformat()}
        assert list(send(as_admin, "post", RATES, same).json()["fields"]) == ["valid_from"]
        assert as_admin.get(RATES).json()["total"] == 1
        assert as_admin.delete(path).status_code == 204
        assert as_admin.get(path).status_code == 404

    def test_viewers_may_not_edit(self, as_viewer, place):
        row = add_rate(place, since=timezone.now() + timedelta(days=1), per_hour="1")
        sent = {"endpoint_id": place, "currency": "USD", "per_hour": "1"}
        assert send(as_viewer, "post", RATES, sent).status_code == 403
        assert as_viewer.delete(f"{RATES}/{row.pk}").status_code == 403
        assert as_viewer.get(f"{RATES}/{row.pk}").json()["per_hour"] == "1"


def test_a_deleted_endpoint_costs_nothing_more(place):
    row = add_rate(place, since=timezone.now() - timedelta(days=1), per_hour="1")
    add_rate(place, since=timezone.now() + timedelta(days=1), per_hour="1")
    Endpoint.objects.get(pk=place).delete()
    (left,) = HardwareRateRow.objects.all()
    assert left.pk == row.pk
    assert left.valid_until is not None
    assert price_cache.hardware().rate(place, time.time() + 1) is None


@pytest.fixture
def hours(shown_world, endpoints, time_machine):
    """Half an hour of work in the hour before this one, of which ten minutes are so far counted provisionally."""
    time_machine.move_to(NOW, tick=False)
    start = int(AT) // HOUR * HOUR
    add_rate(A, since=datetime.fromtimestamp(start - 2 * HOUR, NOW.tzinfo), per_hour="6")
    shown_world.gateway(
        request(ago=HOUR, duration_us=1800 * 10**6, input_tokens=3_000_000, cached_tokens=1_000_000,
                output_tokens=1_000_000),
    )  # fmt: skip
    shown_world.write()
    while shown_world.writer.hours.count(AT):
        pass
    return start


def test_costs_of_a_month(as_viewer, hours):
    (row,) = as_viewer.get("/api/hardware?month=2026-03").json()["rows"]
    # One hour is counted. The hour before this one ended 30 seconds ago, so it is provisional, as are these 30 seconds.
    assert (row["endpoint_name"], row["hours"], row["provisional_hours"]) == ("a", 2 + 30 / 3600, 1 + 30 / 3600)
    assert (row["requests"], row["input_tokens"], row["cached_tokens"]) == (1, 3_000_000, 1_000_000)
    assert Decimal(row["cost"]) == Decimal("12.05")
    busy, idle = row["lines"]
    assert (busy["model"], idle["model"], idle["cost"]) == ("tiny", None, row["idle_cost"])
    assert Decimal(busy["cost"]) + Decimal(idle["cost"]) == Decimal(row["cost"])
    assert row["busy_hours"] == 0.5
    assert Decimal(busy["cost"]) == 3
    assert Decimal(row["cost_per_million_tokens"]) == Decimal("12.05") / 4
    assert row["cost_per_request"] == row["cost"]
    assert row["comparison"] is None


def test_the_same_tokens_elsewhere(as_viewer, hours):
    page = as_viewer.get("/api/hardware?month=2026-03&cloud=openai&model=gpt-4o-mini").json()
    comparison = page["rows"][0]["comparison"]
    # 2 million tokens of input at 0.15, a million cached ones at 0.075, a million of output at 0.60
    assert (comparison["cost"], comparison["currency"], comparison["cloud"]) == ("0.975", "USD", "openai")
    assert comparison["price_id"] < 0


@pytest.mark.parametrize(("query", "field"), [("month=2026-13", "month"), ("cloud=openai&model=none", "model")])
def test_a_bad_question_is_refused(as_viewer, query, field):
    response = as_viewer.get(f"/api/hardware?{query}")
    assert (response.status_code, list(response.json()["fields"])) == (400, [field])


def test_a_month_without_costs_is_empty(as_viewer):
    assert as_viewer.get("/api/hardware?month=2020-01").json() == {"month": "2020-01", "rows": [], "is_whole": True}


def test_the_page_shows_costs_and_marks_provisional_ones(as_viewer, as_admin, hours):
    text = as_viewer.get("/hardware?month=2026-03").content.decode()
    assert "12.05" in text
    assert "of them provisional" in text
    assert "Idle time" in text
    assert "hardwareraterow" not in text
    compared = as_admin.get("/hardware?month=2026-03&cloud=openai&model=gpt-4o-mini").content.decode()
    assert "0.975 USD" in compared
    assert "hardwareraterow" in compared
    assert "This model has no price." in as_viewer.get("/hardware?model=none%00").content.decode()
    assert "No endpoint had a rate" in as_viewer.get("/hardware?month=2020-01&page=x").content.decode()


def test_other_pages_lead_to_it(as_viewer, hours):
    for path in ("/models", "/prices", f"/endpoints/{A}"):
        assert 'href="/hardware"' in as_viewer.get(path).content.decode(), path
