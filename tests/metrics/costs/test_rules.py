"""Rules for rows of the price book and for rates."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from gateway.prices.book import NANO
from metrics.costs.rules import normalise, problems, rate_problems
from metrics.costs.tables import CurrencyRate, PriceRow

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("empty_caches")]
NOW = datetime(2026, 11, 4, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
HOURS = {"window_start": 60, "window_end": 240}


def row(**fields):
    return PriceRow(**{"pattern": "m", "valid_from": LATER, "currency": "USD", "input": NANO, **fields})


def places(draft, before=None):
    return [problem.place for problem in problems(draft, before, NOW)]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"pattern": ""}, "pattern"),
        ({"pattern": " m"}, "pattern"),
        ({"pattern": "a\tb"}, "pattern"),
        ({"pattern": "a*b*"}, "pattern"),
        ({"pattern": "a" * 257}, "pattern"),
        ({"provider": "azur"}, "provider"),
        ({"endpoint_id": uuid.uuid4()}, "endpoint_id"),
        ({"currency": "DEM"}, "currency"),
        ({"currency": ""}, "currency"),
        ({"valid_until": LATER}, "valid_until"),
        ({"tier": "a\n"}, "tier"),
        ({"input": -1}, "input"),
        ({"output": 10**19}, "output"),
        ({"input": None}, "input"),
        ({"min_prompt": -1}, "min_prompt"),
        ({"window_start": 5}, "window_end"),
        ({"window_end": 5}, "window_start"),
        ({"weekdays": 1}, "window_start"),
        ({"weekdays": 0, **HOURS}, "weekdays"),
    ],
)
def test_a_bad_row(fields, place):
    assert places(row(**fields)) == [place]


@pytest.mark.parametrize(
    "fields",
    [
        {"pattern": "gpt-*"},
        {"input": None, "request": 0},
        {"valid_from": NOW - timedelta(days=9)},
        {"valid_until": LATER + timedelta(seconds=1)},
        {"weekdays": 1, **HOURS},
    ],
)
def test_a_good_row(fields):
    assert places(row(**fields)) == []


class TestOtherRows:
    @pytest.mark.parametrize(
        "fields",
        [
            {"valid_from": LATER + timedelta(days=1)},
            {"pattern": "m*"},
            {"provider": "openai"},
            {"min_prompt": 200_000},
            {"tier": "flex"},
            HOURS,
        ],
    )
    def test_another_condition_or_start_is_no_overlap(self, fields):
        row().save()
        assert places(row(**fields)) == []

    def test_the_same_start_is_one(self):
        row().save()
        assert places(row(pattern="M", currency="EUR")) == ["valid_from"]

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"window_start": 239, "window_end": 300}, ["window_start"]),
            ({"window_start": 240, "window_end": 60}, []),
            ({"window_start": 1380, "window_end": 61}, ["window_start"]),
            ({"window_start": 0, "window_end": 0, "weekdays": 64}, ["window_start"]),
            ({**HOURS, "valid_from": LATER + timedelta(days=2)}, []),
            ({"window_start": 100, "window_end": 200, "valid_from": LATER + timedelta(days=2)}, []),
        ],
    )
    def test_hours_do_not_overlap(self, fields, expected):
        row(**HOURS, valid_until=LATER + timedelta(days=1)).save()
        assert places(row(**fields)) == expected

    def test_hours_of_other_weekdays_do_not_overlap(self):
        row(**HOURS, weekdays=0b0011111).save()
        assert places(row(window_start=0, window_end=0, weekdays=0b1100000)) == []
        # From Sunday until Monday, 01:30.
        assert places(row(window_start=1380, window_end=90, weekdays=0b1000000)) == ["window_start"]

    def test_a_row_does_not_overlap_with_itself(self):
        stored = row()
        stored.save()
        assert places(row(pk=stored.pk, input=2), stored) == []


class TestChange:
    BEGUN = {"pk": 1, "valid_from": NOW - timedelta(days=1)}  # noqa: RUF012

    def test_a_price_that_counts_is_kept(self):
        assert places(row(**self.BEGUN, input=2), row(**self.BEGUN)) == ["input"]
        assert places(row(**{**self.BEGUN, "valid_from": LATER}), row(**self.BEGUN)) == ["valid_from"]

    def test_it_can_end_and_have_a_note(self):
        assert places(row(**self.BEGUN, valid_until=NOW, note="old"), row(**self.BEGUN)) == []

    def test_it_cannot_have_ended(self):
        past = NOW - timedelta(seconds=1)
        assert places(row(**self.BEGUN, valid_until=past), row(**self.BEGUN)) == ["valid_until"]
        assert places(row(**self.BEGUN), row(**self.BEGUN, valid_until=past)) == ["valid_until"]

    def test_a_deleted_endpoint_stays_in_a_row(self):
        gone = uuid.uuid4()
        stored = row(endpoint_id=gone)
        stored.save()
        assert places(row(pk=stored.pk, endpoint_id=gone, input=2), stored) == []


def test_codes_are_written_in_one_form():
    draft = row(currency=" eur", tier="Standard", provider=None, note=" n ")
    normalise(draft)
    assert (draft.currency, draft.tier, draft.provider, draft.note) == ("EUR", "", "", "n")


class TestRate:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({}, []),
            ({"currency": "DEM"}, ["currency"]),
            ({"currency": "USD"}, ["currency"]),
            ({"rate": 0}, ["rate"]),
            ({"rate": None}, ["rate"]),
        ],
    )
    def test_a_new_rate(self, fields, expected):
        rate = CurrencyRate(**{"currency": "EUR", "reporting": "USD", "valid_from": LATER, "rate": NANO, **fields})
        assert [problem.place for problem in rate_problems(rate, None, NOW)] == expected

    def test_one_rate_for_a_moment(self):
        rate = CurrencyRate(currency="EUR", reporting="USD", valid_from=LATER, rate=NANO)
        CurrencyRate.objects.create(currency="EUR", reporting="USD", valid_from=LATER, rate=NANO)
        assert [problem.place for problem in rate_problems(rate, None, NOW)] == ["valid_from"]

    def test_a_rate_that_counts_is_kept(self):
        rate = CurrencyRate(currency="EUR", reporting="USD", valid_from=NOW, rate=NANO)
        assert [problem.place for problem in rate_problems(rate, rate, NOW)] == [""]
