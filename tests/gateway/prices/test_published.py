"""Costs in a gateway are those that control computes from the same record."""

import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from gateway.ipc.live_page import LivePage
from gateway.ipc.record import OK, RequestRecord
from gateway.prices import catalogue
from gateway.prices.book import NANO, PriceBook
from gateway.prices.costs import Pricing
from gateway.prices.published import PublishedPrices
from gateway.prices.rates import Rates, moment_of
from gateway.prices.rows import KEPT_SECONDS, rows_of
from gateway.registry.kinds import PRICES
from gateway.registry.prices import DatedRate, Price, PriceFacts
from gateway.registry.reader import RegistryReader
from gateway.registry.schema import RATES, price_key
from gateway.registry.writer import Changes, RegistryWriter
from metrics.counting.cells import local_date
from tests.gateway.prices.any_prices import MINUTE, any_price, any_request
from tests.metrics.records import AT, A, B, attempt, request

ZONE = ZoneInfo("Asia/Kolkata")
DAY = 86_400
PROVIDERS = {A: "openai", B: ""}


class Published:
    """A registry store, and the prices of a gateway that follows it."""

    def __init__(self, root: Path) -> None:
        self.page = LivePage(root / "live-page")
        self.writer = RegistryWriter(root / "registry", self.page)
        self.writer.rebuild("database-1", {})
        self.reader = RegistryReader(root / "registry", self.page, lambda update: None)
        self.prices = PublishedPrices(self.reader, lambda endpoint_id: PROVIDERS.get(endpoint_id, ""), ZONE)

    def publish(self, prices: list[Price], rates: list[DatedRate], now: float = AT) -> None:
        self.writer.apply(Changes(prices=rows_of(prices, "USD", rates, now)))
        self.reader.follow()


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Published]:
    made = Published(tmp_path)
    yield made
    made.reader.close()
    made.writer.close()


def of_control(prices: list[Price], rates: list[DatedRate], entry: RequestRecord) -> int | None:
    """Return what control computes and shows: the cost when the record is folded, converted as Usage does."""
    pricing = Pricing(PriceBook(prices, catalogue.prices), lambda endpoint_id: PROVIDERS.get(endpoint_id, ""))
    cost = pricing.cost(entry)
    if cost is None:
        return None
    day = local_date(entry.completed_us // 60_000_000, ZONE)
    return Rates("USD", rates).converted(cost[2], cost[1], moment_of(day, ZONE))


ANY_RATE = st.builds(
    DatedRate,
    st.sampled_from(("EUR", "JPY")),
    st.sampled_from(("USD", "USD", "EUR")),
    st.integers(MINUTE - 3 * DAY, MINUTE + 2 * DAY),
    st.integers(1, 3 * NANO),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(any_request(), min_size=1, max_size=8, unique_by=lambda entry: entry.id),
    st.lists(any_price(("Tiny", "large", "*", "t*Y", "gpt-4o")), max_size=6, unique_by=lambda price: price.id),
    st.lists(ANY_RATE, max_size=4, unique_by=lambda rate: (rate.currency, rate.reporting, rate.valid_from)),
)
def test_costs_equal_those_of_control(
    published: Published, entries: list[RequestRecord], prices: list[Price], rates: list[DatedRate]
) -> None:
    published.publish(prices, rates)
    for entry in entries:
        last = entry.attempts[-1]
        of_cloud = structs.replace(entry, attempts=(structs.replace(last, endpoint_id=A, served="gpt-4o"),))
        for each in (entry, of_cloud):
            assert published.prices.cost_of(each) == of_control(prices, rates, each)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    any_request(),
    st.lists(any_price(), max_size=6, unique_by=lambda price: price.id),
    st.lists(ANY_RATE, max_size=4, unique_by=lambda rate: (rate.currency, rate.reporting, rate.valid_from)),
    st.integers(0, DAY),
)
def test_no_request_costs_more_than_the_most(
    published: Published, entry: RequestRecord, prices: list[Price], rates: list[DatedRate], ago: int
) -> None:
    published.publish(prices, rates)
    cost, last = published.prices.cost_of(entry), entry.attempts[-1]
    if cost is None:
        return
    rows = published.prices.rows_for(last.served or entry.model, last.canonical, last.endpoint_id)
    counts = (max(0, amount or 0) for amount in (entry.input_tokens, entry.output_tokens, entry.images, entry.audio_ms))
    most = published.prices.most_cost(rows, entry.completed_us / 1e6 - ago, *counts)
    assert most is not None
    assert cost <= most


def test_what_is_expected_is_what_a_plain_request_costs(published: Published) -> None:
    price = Price(1, "tiny", "", "", 0, None, "EUR", 0, "", input=NANO, output=3 * NANO, request=7)
    long = structs.replace(price, id=2, min_prompt=1000, input=5 * NANO)
    flex = structs.replace(price, id=3, tier="flex", input=NANO // 2)
    published.publish([price, long, flex], [DatedRate("EUR", "USD", 0, 2 * NANO)])
    prices = published.prices
    rows = prices.rows_for("tiny", None, A)
    assert prices.expected_cost(rows, AT, 1000, 10) == 2 * (1000 * 1000 + 10 * 3000)
    assert prices.expected_cost(rows, AT, 1001, 10) == 2 * (1001 * 5000 + 10 * 3000)
    assert prices.expected_cost(rows, AT, 1000, 10, "flex") == 2 * (1000 * 500 + 10 * 3000)
    assert prices.most_cost(rows, AT, 1000, 10) == 2 * (1000 * 1000 + 10 * 3000 + 1)  # rounded up
    assert prices.expected_cost(prices.rows_for("other", None, A), AT, 1, 1) is None
    assert prices.most_cost(prices.rows_for("other", None, A), AT, 1, 1) is None


def test_a_currency_without_a_rate_has_no_cost(published: Published) -> None:
    price = Price(1, "tiny", "", "", 0, None, "JPY", 0, "", input=NANO)
    published.publish([price], [])
    rows = published.prices.rows_for("tiny", None, B)
    assert rows
    assert published.prices.expected_cost(rows, AT, 1, 1) is None
    assert published.prices.most_cost(rows, AT, 1, 1) is None
    entry = request(OK, model="tiny", attempts=(attempt(OK, B),), input_tokens=5)
    assert published.prices.cost_of(entry) is None
    published.publish([price], [DatedRate("JPY", "USD", int(AT) - DAY, NANO // 100)])
    assert published.prices.expected_cost(rows, AT, 1, 1) == 10


def test_a_change_at_noon_counts_for_what_completes_after_it(published: Published) -> None:
    noon = MINUTE
    old = Price(1, "tiny", "", "", 0, None, "USD", 0, "", input=NANO)
    new = Price(2, "tiny", "", "", noon, None, "USD", 0, "", input=2 * NANO)
    published.publish([old, new], [])
    entry = request(OK, model="tiny", attempts=(attempt(OK, B),), input_tokens=1000)
    before, after = (structs.replace(entry, completed_us=int(noon * 1e6) + offset) for offset in (-1, 0))
    assert (published.prices.cost_of(before), published.prices.cost_of(after)) == (1_000_000, 2_000_000)


def test_prices_of_the_catalogue_count_without_rows(published: Published) -> None:
    published.publish([], [])
    rows = published.prices.rows_for("gpt-4o", None, A)
    assert [row.provider for row in rows] == ["openai"] * len(rows)
    assert rows
    assert not published.prices.rows_for("gpt-4o", None, B)


def test_nothing_is_published_any_more(published: Published) -> None:
    price = Price(1, "tiny", "", "", 0, None, "USD", 0, "", input=NANO)
    published.publish([price], [])
    assert published.reader.prices_version
    assert published.prices.rows_for("TINY", None, B) == [price]
    published.writer.apply(Changes(prices={}))
    published.reader.follow()
    assert not published.reader.prices_version
    assert not published.prices.rows_for("tiny", None, B)


def test_equal_prices_are_no_change(published: Published) -> None:
    prices = [
        Price(1, "tiny", "", "", 0, None, "USD", 0, "", input=NANO),
        Price(2, "b*", "", "", 0, None, "EUR", 0, ""),
    ]
    rates = [DatedRate("EUR", "USD", 5, NANO)]
    published.publish(prices, rates)
    before = published.page.version
    published.publish(prices[::-1], rates)
    assert published.page.version == before


def test_a_store_of_an_earlier_release_has_no_prices(tmp_path: Path) -> None:
    made = Published(tmp_path)
    assert made.writer._store is not None
    made.writer._store._execute("DROP TABLE prices")
    made.reader.follow()
    assert not made.reader.prices_version
    assert not made.prices.rows_for("tiny", None, B)
    made.writer.close()
    made.writer = RegistryWriter(tmp_path / "registry", made.page)  # control opens it
    made.publish([Price(1, "tiny", "", "", 0, None, "USD", 0, "", input=NANO)], [])
    assert made.prices.rows_for("tiny", None, B)
    made.reader.close()
    made.writer.close()


def test_rows_that_cannot_count_any_more_are_left_out() -> None:
    price, number = Price(1, "Tiny", "", "", 0, None, "USD", 0, ""), count(1)
    ends = (None, AT + 1, AT - KEPT_SECONDS, AT - KEPT_SECONDS - 1)
    prices = [
        structs.replace(price, id=next(number), valid_until=None if end is None else math.floor(end)) for end in ends
    ]
    starts = (0, AT - 3 * KEPT_SECONDS, AT - 2 * KEPT_SECONDS, AT - 5, AT + DAY)
    rates = [DatedRate("EUR", reporting, int(start), NANO) for start in starts for reporting in ("USD", "JPY")]
    rows = rows_of(prices, "USD", rates, AT)
    assert rows.keys() == {price_key("tiny"), RATES}
    assert [kept.id for kept in rows[price_key("tiny")].prices] == [1, 2]
    assert rows[RATES] == PriceFacts(
        (), "USD", tuple(DatedRate("EUR", "USD", int(start), NANO) for start in starts[2:])
    )


def test_every_field_of_a_price_is_stored() -> None:
    for price in catalogue.prices("openai")[:50]:
        assert PRICES.unpack(PRICES.pack(PriceFacts((price,)))).prices == (price,)
