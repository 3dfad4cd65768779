"""Cost of one request, and sums over a batch: which requests have one, and in which cells they count."""

from collections.abc import Iterable
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import msgspec
import pytest

from gateway.ipc import record
from gateway.prices.book import NANO, PriceBook
from gateway.prices.costs import Pricing
from gateway.registry.prices import Price
from metrics.costs.of_batch import Costs, costs_of
from metrics.costs.sums import CostSums
from metrics.counting.fold import Fold
from tests.metrics.records import KEY, A, attempt, load, request
from tests.metrics.world import UTC_ZONE

SINCE = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())


def price(number: int = 1, pattern: str = "tiny", **fields: Any) -> Price:
    row = Price(number, pattern, "", "", SINCE, None, "USD", 0, "", input=2 * NANO, output=10 * NANO)
    return msgspec.structs.replace(row, **fields)


def pricing(*prices: Price, provider: str = "") -> Pricing:
    return Pricing(PriceBook(prices), lambda endpoint_id: provider)


def batch(entries: Iterable[record.Entry], book: Pricing) -> Costs:
    return costs_of(Fold(UTC_ZONE).add_all(entries), book)


def test_a_cost_is_that_of_the_tokens() -> None:
    charge = pricing(price()).cost(request(input_tokens=1000, output_tokens=50))
    assert charge == (1, "USD", 1000 * 2000 + 50 * 10_000)


def test_parts_of_tokens_have_prices_of_their_own() -> None:
    row = price(cached=NANO, write_short=3 * NANO, reasoning=4 * NANO)
    made = request(input_tokens=1000, cached_tokens=300, cache_write_tokens=200, output_tokens=50, reasoning_tokens=20)
    charge = pricing(row).cost(made)
    assert charge is not None
    assert charge[2] == 500 * 2000 + 300 * 1000 + 200 * 3000 + 30 * 10_000 + 20 * 4000


def test_tokens_written_to_a_cache_for_long_have_a_price_of_their_own() -> None:
    row = price(write_short=3 * NANO, write_long=4 * NANO)
    for long, cost in ((None, 200 * 3000), (50, 150 * 3000 + 50 * 4000), (900, 200 * 4000)):
        made = request(input_tokens=200, cache_write_tokens=200, long_write_tokens=long)
        charge = pricing(row).cost(made)
        assert charge is not None
        assert charge[2] == cost


def test_the_service_tier_of_the_response_decides() -> None:
    book = pricing(price(), price(2, tier="flex", input=NANO))
    for tier, price_id in ((None, 1), ("flex", 2), ("priority", 1)):
        charge = book.cost(request(input_tokens=1, service_tier=tier))
        assert charge is not None
        assert charge[0] == price_id


@pytest.mark.parametrize("outcome", [record.CANCELLED, record.TRUNCATED])
def test_a_response_that_ended_early_costs_its_tokens(outcome: str) -> None:
    charge = pricing(price()).cost(request(outcome, output_tokens=1))
    assert charge is not None
    assert charge[2] == 10_000


@pytest.mark.parametrize(
    "made",
    [
        request(record.REJECTED),
        request(record.NO_ENDPOINT),
        request(record.QUEUE, attempts=(attempt(record.FAILED),), input_tokens=1),
        request(record.FAILED),
        request(record.REFUSED),
        request(),  # no tokens, and no price of a request
        request(input_tokens=1, model="other"),
        request(input_tokens=-1, output_tokens=1 << 60),
    ],
)
def test_no_price_is_no_cost(made: record.RequestRecord) -> None:
    assert pricing(price()).cost(made) is None
    assert batch([made], pricing(price())) == Costs()


def test_a_price_per_request_needs_no_tokens_but_a_response() -> None:
    book = pricing(price(input=None, output=None, request=1500))
    assert book.cost(request()) == (1, "USD", 2)  # 1.5, rounded half up
    assert book.cost(request(record.FAILED)) is None


def test_images_and_minutes_of_audio_have_prices_of_their_own() -> None:
    book = pricing(price(image=40 * NANO, minute=6 * NANO))
    assert book.cost(request(images=3)) == (1, "USD", 120_000_000)
    assert book.cost(request(audio_ms=90_500)) == (1, "USD", 9_050_000)
    assert book.cost(request(images=1, input_tokens=10)) == (1, "USD", 40_000_000 + 20_000)
    assert book.cost(request(record.TRUNCATED, images=1)) == (1, "USD", 40_000_000)
    assert batch([request(images=3)], book).by_id.popitem()[1][2] == 120_000_000


@pytest.mark.parametrize("count", [{"images": 2}, {"audio_ms": 1000}, {"images": -1, "audio_ms": 1 << 60}])
def test_images_and_audio_without_an_amount_have_no_cost(count: dict[str, Any]) -> None:
    assert pricing(price()).cost(request(**count)) is None


def test_free_of_charge_is_a_cost() -> None:
    assert pricing(price(input=0, output=0)).cost(request(input_tokens=5)) == (1, "USD", 0)


def test_the_served_model_of_the_last_attempt_decides() -> None:
    last = msgspec.structs.replace(attempt(), served="large:q4", canonical="maker/large", step=2)
    made = request(attempts=(attempt(record.FAILED), last), input_tokens=1_000_000)
    book = pricing(price(), price(2, "maker/large", input=5 * NANO, currency="EUR"))
    assert book.cost(made) == (2, "EUR", 5 * NANO)
    (key,) = batch([made], book).sums
    assert key == ("2026-03-10", A, "tiny", made.kind, "", "large:q4", "maker/large", 2, 2, "EUR")


def test_the_type_of_the_endpoint_decides() -> None:
    assert pricing(price(provider="groq")).cost(request(input_tokens=1)) is None
    assert pricing(price(provider="groq"), provider="groq").cost(request(input_tokens=1)) is not None


def test_the_price_at_completion_counts() -> None:
    made = request(input_tokens=1_000_000)
    second = made.completed_us // 1_000_000
    for valid_from, cost in ((second, NANO), (second + 1, 2 * NANO)):
        book = pricing(price(), price(2, valid_from=valid_from, input=NANO))
        charge = book.cost(made)
        assert charge is not None
        assert charge[2] == cost


def test_sums_are_those_of_the_requests() -> None:
    entries = load(7, 400)
    rows = (price(input=NANO // 3), price(2, "large", currency="EUR", request=7))
    costs = batch(entries, pricing(*rows))
    total = CostSums()
    for sums in costs.sums.values():
        total.add(sums)
    assert (total.requests, total.cost) == (len(costs.by_id), sum(charge[2] for charge in costs.by_id.values()))
    assert {key[-2:] for key in costs.sums} == {(1, "USD"), (2, "EUR")}


def test_estimated_counts_are_marked() -> None:
    entries = [request(output_tokens=1, estimated=estimated, api_key_id=KEY) for estimated in (True, False, True)]
    (sums,) = batch(entries, pricing(price())).sums.values()
    assert sums == CostSums(3, 2, 30_000, 20_000)


def test_each_request_is_rounded_once() -> None:
    row = price(input=NANO // 3, output=NANO // 7)
    for tokens in range(1, 50):
        charge = pricing(row).cost(request(input_tokens=tokens, output_tokens=2 * tokens))
        exact = Fraction(tokens * (NANO // 3) + 2 * tokens * (NANO // 7), 1_000_000)
        assert charge is not None
        assert charge[2] == int(exact + Fraction(1, 2))
