"""/api/prices and /api/currency-rates."""

import json
import time
import uuid
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone

from endpoints.models import EndpointModel, EndpointOptions
from endpoints.registry import registry
from gateway.prices.book import NANO
from metrics.costs.in_effect import priced_models, unpriced_models
from metrics.costs.price_cache import price_cache
from metrics.models import CurrencyRate, DayRollUp, PriceRow, ServedDayRollUp
from tests.metrics.costs.pricing import count_cost
from tests.metrics.world import add_endpoint

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("empty_caches")]
TOMORROW = (timezone.now() + timedelta(days=1)).replace(microsecond=0)


def made(**fields):
    values = {"pattern": "m", "valid_from": timezone.now() - timedelta(days=1), "currency": "USD", "input": NANO}
    return PriceRow.objects.create(**{**values, **fields})


def send(people, method, path, body):
    return getattr(people, method)(path, json.dumps(body), content_type="application/json")


class TestPrices:
    def test_a_price_is_added(self, as_admin):
        sent = {"pattern": "gpt-*", "endpoint_type": "openai", "currency": "eur", "input": "2.5", "output": 10}
        response = send(as_admin, "post", "/api/prices", sent)
        assert response.status_code == 201, response.content
        row = PriceRow.objects.get()
        assert (row.currency, row.provider, row.input, row.output) == ("EUR", "openai", 2_500_000_000, 10 * NANO)
        assert {name: response.json()[name] for name in ("input", "output", "cached", "source")} == {
            "input": "2.5",
            "output": "10",
            "cached": None,
            "source": "operator",
        }
        assert row.valid_from > timezone.now()
        assert LogEntry.objects.count() == 1

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"currency": "DEM"}, "currency"),
            ({"endpoint_type": "x"}, "endpoint_type"),
            ({"input": "-1"}, "input"),
            ({"input": True}, "input"),
            ({"input": []}, "input"),
            ({"input": "0.0000000001"}, "input"),
            ({"input": None}, "input"),
            ({"input": "1e999999999"}, "input"),
            ({"input": "1e-999999999"}, "input"),
            ({"pattern": "a*b*"}, "pattern"),
            ({"weekdays": 0}, "weekdays"),
            ({"valid_from": "soon"}, "valid_from"),
            ({"min_prompt": -1}, "min_prompt"),
            ({"note": "a\nb"}, "note"),
        ],
    )
    def test_a_bad_price_is_refused(self, as_admin, change, field):
        sent = {"pattern": "m", "currency": "USD", "input": "1", **change}
        response = send(as_admin, "post", "/api/prices", sent)
        assert (response.status_code, list(response.json()["fields"])) == (400, [field])
        assert not PriceRow.objects.exists()

    def test_prices_are_listed(self, as_viewer):
        made(), made(pattern="other")
        page = as_viewer.get("/api/prices?q=OTH&limit=1").json()
        assert ([price["pattern"] for price in page["prices"]], page["total"]) == (["other"], 1)
        assert as_viewer.get(f"/api/prices/{made().pk}").json()["input"] == "1"

    def test_a_price_that_counts_can_only_end(self, as_admin):
        path = f"/api/prices/{made().pk}"
        response = send(as_admin, "patch", path, {"input": "3"})
        assert (response.status_code, list(response.json()["fields"])) == (400, ["input"])
        response = send(as_admin, "patch", path, {"valid_until": TOMORROW.isoformat(), "note": "ends"})
        assert response.status_code == 200, response.content
        assert PriceRow.objects.get().valid_until == TOMORROW

    def test_a_future_price_can_be_changed(self, as_admin):
        row = made(valid_from=TOMORROW)
        assert send(as_admin, "patch", f"/api/prices/{row.pk}", {"input": "3"}).json()["input"] == "3"

    @pytest.mark.parametrize("body", [[], None, 5, "x"])
    def test_a_change_that_is_no_object_is_refused(self, as_admin, body):
        assert send(as_admin, "patch", f"/api/prices/{made().pk}", body).status_code == 400

    def test_a_search_may_have_any_character(self, as_viewer):
        made()
        for path in ("/api/prices", "/api/prices/in-effect"):
            assert as_viewer.get(f"{path}?q=%00m%ff").status_code == 200

    def test_an_unused_price_is_deleted(self, as_admin):
        used, unused = made(), made(pattern="n")
        count_cost(used)
        assert as_admin.delete(f"/api/prices/{used.pk}").status_code == 409
        assert as_admin.delete(f"/api/prices/{unused.pk}").status_code == 204
        assert as_admin.delete(f"/api/prices/{unused.pk}").status_code == 404
        assert as_admin.get(f"/api/prices/{1 << 70}").status_code == 404
        assert list(PriceRow.objects.all()) == [used]

    def test_viewers_may_only_read(self, as_viewer):
        sent = {"pattern": "m", "currency": "USD", "input": "1"}
        assert send(as_viewer, "post", "/api/prices", sent).status_code == 403
        assert as_viewer.delete(f"/api/prices/{made().pk}").status_code == 403


class TestRates:
    def test_a_rate_is_added_and_deleted(self, as_admin):
        sent = {"currency": "eur", "rate": "1.1", "valid_from": TOMORROW.isoformat()}
        assert send(as_admin, "post", "/api/currency-rates", sent).status_code == 201
        (rate,) = as_admin.get("/api/currency-rates").json()["rates"]
        assert (rate["currency"], rate["reporting"], rate["rate"]) == ("EUR", "USD", "1.1")
        assert as_admin.delete(f"/api/currency-rates/{rate['id']}").status_code == 204
        assert as_admin.delete(f"/api/currency-rates/{rate['id']}").status_code == 404

    def test_of_two_rates_at_once_one_is_refused(self, as_admin, monkeypatch):
        sent = {"currency": "EUR", "rate": "1.1", "valid_from": TOMORROW.isoformat()}
        assert send(as_admin, "post", "/api/currency-rates", sent).status_code == 201
        monkeypatch.setattr("metrics.costs.rules.rate_problems", lambda rate, before: [])  # the other is not stored yet
        response = send(as_admin, "post", "/api/currency-rates", sent)
        assert (response.status_code, list(response.json()["fields"])) == (400, ["valid_from"])

    def test_a_rate_that_counts_is_kept(self, as_admin):
        rate = CurrencyRate.objects.create(currency="EUR", reporting="USD", valid_from=timezone.now(), rate=NANO)
        assert as_admin.delete(f"/api/currency-rates/{rate.pk}").status_code == 409

    def test_a_bad_rate_is_refused(self, as_admin):
        for sent, field in (
            ({"currency": "USD", "rate": "1"}, "currency"),
            ({"currency": "EUR", "rate": "1e999999999"}, "rate"),
        ):
            response = send(as_admin, "post", "/api/currency-rates", sent)
            assert (response.status_code, list(response.json()["fields"])) == (400, [field])


class TestPricesInEffect:
    @pytest.fixture
    def endpoints(self):
        """Two servers with the same model, and a cloud."""
        servers = [add_endpoint(str(uuid.uuid4()), name) for name in ("one", "two")]
        cloud = add_endpoint(str(uuid.uuid4()), "cloud")
        EndpointOptions.objects.create(endpoint=cloud, cloud_type="openai")
        for endpoint in servers:
            EndpointModel.objects.create(endpoint=endpoint, model_id="llama")
        EndpointModel.objects.create(endpoint=cloud, model_id="gpt-4o-mini")
        registry.reload()
        return [*servers, cloud]

    def priced(self, text=""):
        return [
            (row["model"], row["endpoint_name"], row["endpoints"], row["price"] and row["price"].id, row["more"] > 0)
            for row in priced_models(registry.all(), time.time(), text)
        ]

    def test_models_of_a_type_are_one_line(self, endpoints):
        row = made(pattern="llama")
        ((cloud), (own)) = self.priced()
        assert own == ("llama", None, 2, row.pk, False)
        assert cloud[:3] == ("gpt-4o-mini", None, 1)
        assert cloud[3] < 0
        assert cloud[4]

    def test_an_endpoint_with_prices_of_its_own_has_a_line(self, endpoints):
        row = made(pattern="llama", endpoint_id=endpoints[0].pk)
        assert self.priced("LLA") == [("llama", None, 1, None, False), ("llama", "one", 1, row.pk, False)]

    def test_served_models_without_a_price(self, endpoints):
        today = timezone.localdate()
        sums = dict.fromkeys(
            ("requests_failed", "requests_cancelled", "attempts_ok", "attempts_failed", "ok_duration_us"), 0
        )
        cell = {"date": today.isoformat(), "kind": "chat_completions", "api_key_id": ""}
        tokens = {"input_tokens": 7, "output_tokens": 3}
        one, two, cloud = (endpoint.pk for endpoint in endpoints)
        for endpoint, model, count in ((one, "fast", 5), (two, "llama", 2), (cloud, "gpt-4o-mini", 9)):
            DayRollUp.objects.create(**cell, **sums, **tokens, endpoint_id=endpoint, model=model, requests_ok=count)
        of_served = {name: value for name, value in sums.items() if not name.startswith("attempts")}
        ServedDayRollUp.objects.create(
            **cell, **of_served, **tokens, endpoint_id=one, model="fast", requests_ok=5, served="llama", canonical="",
            step=1,
        )  # fmt: skip
        rows = unpriced_models(registry.all(), today, time.time())
        assert [(row["model"], row["endpoint_name"], row["requests"], row["input_tokens"]) for row in rows] == [
            ("llama", "one", 5, 7),
            ("llama", "two", 2, 7),
        ]
        made(pattern="llama", endpoint_id=one)
        price_cache.reload()
        assert [row["endpoint_name"] for row in unpriced_models(registry.all(), today, time.time())] == ["two"]

    def test_the_api_lists_both(self, endpoints, as_viewer):
        page = as_viewer.get("/api/prices/in-effect?q=gpt").json()
        assert (page["currency"], page["total"], page["unpriced"]) == ("USD", 1, [])
        price = page["models"][0]["price"]
        assert (price["currency"], price["input"], price["source"][:13]) == ("USD", "0.15", "genai-prices ")
        assert price["valid_from"] == "1970-01-01T00:00:00Z"
