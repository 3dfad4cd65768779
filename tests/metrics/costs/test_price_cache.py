"""The price book of a process: what it is made from, and when it is read again."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import DatabaseError, transaction

from endpoints.changes import counters
from gateway.prices.book import NANO
from metrics.costs.price_cache import COUNTER, price_cache
from metrics.costs.tables import CurrencyRate, PriceRow, next_start

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_caches")]
BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


def add(pattern, **fields):
    return PriceRow.objects.create(**{"pattern": pattern, "valid_from": BEGIN, "currency": "USD", **fields})


def price(served, provider="vllm", moment=BEGIN):
    return price_cache.book().price(
        served=served, canonical="", endpoint_id="", provider=provider, completed_at=moment.timestamp(), prompt=1
    )


def test_a_row_is_a_price():
    row = add("a", input=2 * NANO, window_start=0, window_end=1440, provider="vllm", tier="", source="test")
    cached_price = price("a")
    assert (cached_price.id, cached_price.input, cached_price.output, cached_price.source) == (
        row.pk,
        2 * NANO,
        None,
        "test",
    )
    assert cached_price.valid_from == BEGIN.timestamp()


def test_an_edit_is_in_effect_on_commit():
    assert price("a") is None
    with transaction.atomic():
        row = add("a")
        assert price("a") is None
    assert price("a").id == row.pk
    row.delete()
    assert price("a") is None


def test_another_process_follows_the_counter():
    row = add("a")
    before = counters.read()[COUNTER]
    assert price("a").id == row.pk
    PriceRow.objects.filter(pk=row.pk).update(pattern="b")  # as another process does, without a signal here
    price_cache.follow(before)
    assert price("a").id == row.pk
    price_cache.follow(before + 1)
    assert (price("a"), price("b").id) == (None, row.pk)


def test_the_old_book_stays_when_the_database_fails(monkeypatch, caplog):
    row = add("a")
    assert price("a").id == row.pk

    def fail():
        raise DatabaseError("away")

    monkeypatch.setattr("metrics.costs.price_cache.counters.read", fail)
    price_cache.refresh()
    assert price("a").id == row.pk
    assert "prices could not be read again: away" in caplog.text


def test_rates_lead_to_the_reporting_currency():
    CurrencyRate.objects.create(currency="EUR", reporting="USD", valid_from=BEGIN, rate=1_100_000_000)
    assert price_cache.rates().converted(100, "EUR", BEGIN.timestamp()) == 110


def test_the_catalogue_counts_below_own_rows():
    assert price("gpt-4o-mini", "openai").id < 0
    assert price("gpt-4o-mini", "vllm") is None
    row = add("gpt*")
    assert price("gpt-4o-mini", "openai").id == row.pk


@pytest.mark.parametrize(("second", "expected"), [(0, "12:01"), (49, "12:01"), (50, "12:02"), (59, "12:02")])
def test_a_new_row_starts_when_it_is_known(second, expected):
    start = next_start(BEGIN + timedelta(hours=12, seconds=second))
    assert start.strftime("%H:%M:%S") == expected + ":00"
