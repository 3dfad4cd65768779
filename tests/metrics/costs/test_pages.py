"""The page of prices."""

import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from endpoints.models import EndpointModel, EndpointOptions
from endpoints.registry import registry
from gateway.prices.book import NANO
from metrics.costs.price_cache import price_cache
from metrics.models import CurrencyRate, DayRollUp, PriceRow
from tests.markup import one_line
from tests.metrics.world import add_endpoint

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("empty_caches")]


def served(endpoint_id, model):
    sums = dict.fromkeys(
        ("requests_failed", "requests_cancelled", "attempts_ok", "attempts_failed", "ok_duration_us"), 0
    )
    DayRollUp.objects.create(
        date=timezone.localdate().isoformat(), endpoint_id=endpoint_id, model=model, kind="chat_completions",
        api_key_id="", requests_ok=1234, input_tokens=5678, output_tokens=99, **sums,
    )  # fmt: skip


@pytest.fixture
def models():
    """A server with a model, and a cloud."""
    server, cloud = add_endpoint(str(uuid.uuid4()), "server"), add_endpoint(str(uuid.uuid4()), "cloud")
    EndpointOptions.objects.create(endpoint=cloud, cloud_type="openai")
    EndpointModel.objects.create(endpoint=server, model_id="llama <3>")
    EndpointModel.objects.create(endpoint=cloud, model_id="gpt-4o-mini")
    registry.reload()
    return server


def page(people, query=""):
    response = people.get(f"/prices{query}")
    assert response.status_code == 200
    return one_line(response.content.decode())


def add(**fields):
    values = {"pattern": "llama*", "valid_from": timezone.now() - timedelta(days=1), "currency": "USD", "input": NANO}
    PriceRow.objects.create(**{**values, **fields})
    price_cache.reload()


def test_a_model_without_a_price_has_none(as_viewer, models):
    served(models.pk, "llama <3>")
    text = page(as_viewer)
    assert "Served without a price" in text
    assert "llama &lt;3&gt;" in text
    assert "1,234" in text
    assert "no price" in text


def test_prices_have_their_source(as_viewer, models):
    add(input=2_500_000_000)
    text = page(as_viewer)
    assert "Served without a price" not in text
    assert ">2.5<" in text
    assert ">0.15<" in text  # of the catalogue
    assert "administrator" in text
    assert "catalogue" in text


def test_a_currency_without_a_rate_is_marked(as_viewer, models):
    add(currency="EUR")
    assert "no rate to USD" in page(as_viewer)
    CurrencyRate.objects.create(
        currency="EUR", reporting="USD", valid_from=timezone.now() - timedelta(days=1), rate=NANO
    )
    price_cache.reload()
    assert "no rate to USD" not in page(as_viewer)


def test_the_list_is_searched(as_viewer, models):
    assert "gpt-4o-mini" not in page(as_viewer, "?q=LLAMA")
    assert "No model matches." in page(as_viewer, "?q=%00nothing%3C")
    assert "llama" in page(as_viewer, "?page=x")


def test_only_staff_gets_links_to_the_admin(as_viewer, as_admin, models):
    assert "/admin/metrics/pricerow/" not in page(as_viewer)
    assert "/admin/metrics/pricerow/" in page(as_admin)
