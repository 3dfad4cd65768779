"""Prices and currency rates in the admin."""

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone

from gateway.prices.book import NANO
from metrics.models import CurrencyRate, PriceRow
from tests.metrics.costs.pricing import count_cost

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("empty_caches")]
PRICES, RATES = "/admin/metrics/pricerow/", "/admin/metrics/currencyrate/"
FORM = {
    "pattern": "gpt-*", "endpoint_id": "", "provider": "openai", "valid_from_0": "", "valid_from_1": "",
    "valid_until_0": "", "valid_until_1": "", "note": "", "currency": "USD", "min_prompt": "0", "tier": "",
    "window_start": "", "window_end": "", "weekdays": ["0", "1", "2", "3", "4", "5", "6"],
    "input": "2.5", "output": "10",
}  # fmt: skip


def made(**fields):
    values = {"pattern": "m", "valid_from": timezone.now() - timedelta(days=1), "currency": "USD", "input": NANO}
    return PriceRow.objects.create(**{**values, **fields})


def text(response):
    return response.content.decode()


def test_a_price_is_added(as_admin):
    assert as_admin.post(f"{PRICES}add/", {**FORM, "window_start": "01:30", "window_end": "00:00"}).status_code == 302
    row = PriceRow.objects.get()
    assert (row.pattern, row.provider, row.input, row.output, row.cached) == (
        "gpt-*",
        "openai",
        2_500_000_000,
        10 * NANO,
        None,
    )
    assert (row.window_start, row.window_end, row.weekdays, row.source) == (90, 0, 127, "operator")
    assert row.valid_from > timezone.now()
    assert LogEntry.objects.count() == 1


@pytest.mark.parametrize(("path", "names"), [(PRICES, ("Valid from", "Valid until")), (RATES, ("Valid from",))])
def test_both_fields_of_a_moment_have_a_name(as_admin, path, names):
    form = text(as_admin.get(f"{path}add/"))
    assert [form.count(f'aria-label="{name}: {part}"') for name in names for part in ("Date", "Time")] == [
        1 for _ in names for _ in range(2)
    ]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"currency": "DEM"}, "DEM is no code of a currency"),
        ({"input": "-1"}, "greater than or equal to 0"),
        ({"input": "", "output": ""}, "Enter at least one amount"),
        ({"input": "0.0000000001"}, "no more than 9 decimal places"),
        ({"pattern": "a*b*"}, "only one *"),
        ({"window_start": "25:00"}, "Enter a valid time"),
        ({"weekdays": []}, "This field is required"),
        ({"endpoint_id": "x"}, "Select a valid choice"),
    ],
)
def test_a_bad_price_is_refused(as_admin, change, error):
    response = as_admin.post(f"{PRICES}add/", {**FORM, **change})
    assert (response.status_code, PriceRow.objects.count()) == (200, 0)
    assert error in text(response)


def test_an_overlapping_price_is_refused(as_admin):
    start = timezone.now() + timedelta(days=1)
    made(valid_from=start.replace(microsecond=0))
    local = timezone.localtime(start)
    when = {"valid_from_0": local.strftime("%Y-%m-%d"), "valid_from_1": local.strftime("%H:%M:%S")}
    response = as_admin.post(f"{PRICES}add/", {**FORM, "pattern": "m", "provider": "", **when})
    assert "has the same model, conditions and start" in text(response)


def test_a_price_that_counts_can_only_end(as_admin):
    row = made()
    form = text(as_admin.get(f"{PRICES}{row.pk}/change/"))
    assert ('name="input"' in form, 'name="valid_until_0"' in form) == (False, True)
    assert str(NANO) not in form  # amounts are in units of the currency
    end = timezone.localtime(timezone.now() + timedelta(days=1))
    sent = {**FORM, "valid_until_0": end.strftime("%Y-%m-%d"), "valid_until_1": "12:00:00", "note": "ended"}
    assert as_admin.post(f"{PRICES}{row.pk}/change/", sent).status_code == 302
    row.refresh_from_db()
    assert (row.pattern, row.input, row.note, row.valid_until is None) == ("m", NANO, "ended", False)


def test_its_end_cannot_be_past(as_admin):
    row = made()
    sent = {"valid_until_0": "2020-01-01", "valid_until_1": "12:00:00", "note": ""}
    assert "cannot be changed in the past" in text(as_admin.post(f"{PRICES}{row.pk}/change/", sent))


def test_a_future_price_can_be_changed(as_admin):
    row = made(valid_from=timezone.now() + timedelta(days=1))
    assert 'value="1"' in text(as_admin.get(f"{PRICES}{row.pk}/change/"))
    assert as_admin.post(f"{PRICES}{row.pk}/change/", {**FORM, "input": "3"}).status_code == 302
    row.refresh_from_db()
    assert row.input == 3 * NANO


def test_only_an_unused_price_is_deleted(as_admin):
    used, unused = made(), made(pattern="n")
    count_cost(used)
    assert as_admin.post(f"{PRICES}{used.pk}/delete/", {"post": "yes"}).status_code == 403
    assert as_admin.post(f"{PRICES}{unused.pk}/delete/", {"post": "yes"}).status_code == 302
    assert list(PriceRow.objects.all()) == [used]


def test_the_list_has_filters(as_admin):
    made(min_prompt=200_000, tier="flex", window_start=60, window_end=240)
    made(pattern="later", valid_from=timezone.now() + timedelta(days=1))
    made(pattern="ended", valid_until=timezone.now())
    assert "flex, &gt; 200,000 tokens, 01:00–04:00 UTC" in text(as_admin.get(PRICES))
    for query, count in (("validity=now", 1), ("validity=later", 1), ("validity=ended", 1), ("source=operator", 3)):
        assert f"{count} price" in text(as_admin.get(f"{PRICES}?{query}")), query
    assert "0 prices" in text(as_admin.get(f"{PRICES}?currency=EUR"))
    assert "1 price" in text(as_admin.get(f"{PRICES}?q=late"))


def test_a_rate_is_added_to_the_reporting_currency(as_admin):
    sent = {"currency": "EUR", "rate": "1.1", "valid_from_0": "", "valid_from_1": ""}
    assert as_admin.post(f"{RATES}add/", sent).status_code == 302
    rate = CurrencyRate.objects.get()
    assert (rate.currency, rate.reporting, rate.rate) == ("EUR", "USD", 1_100_000_000)
    assert "1.1" in text(as_admin.get(RATES))


def test_a_rate_to_itself_is_refused(as_admin):
    sent = {"currency": "USD", "rate": "1", "valid_from_0": "", "valid_from_1": ""}
    assert "needs no rate" in text(as_admin.post(f"{RATES}add/", sent))


def test_a_rate_that_counts_is_kept(as_admin):
    rate = CurrencyRate.objects.create(currency="EUR", reporting="USD", valid_from=timezone.now(), rate=NANO)
    assert as_admin.post(f"{RATES}{rate.pk}/delete/", {"post": "yes"}).status_code == 403
    assert as_admin.post(f"{RATES}{rate.pk}/change/", {"currency": "EUR", "rate": "2"}).status_code == 403
