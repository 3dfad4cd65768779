"""Which price a request has, and what it costs."""

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.prices.book import NANO, PriceBook, service_tier_of
from gateway.prices.evaluation import PricedUsage, cost
from gateway.registry.patterns import matches
from gateway.registry.prices import Price, PriceWindow

NOON = int(datetime(2026, 11, 4, 12, tzinfo=UTC).timestamp())  # a Wednesday
DAY = 86_400
BASE = Price(1, "*", "", "", 0, None, "USD", 0, "")


def row(number, pattern="*", **fields):
    return msgspec.structs.replace(BASE, id=number, pattern=pattern, **fields)


def chosen(*rows, catalogue=(), **request):
    book = PriceBook(rows, lambda provider: [price for price in catalogue if price.provider == provider])
    asked = {"served": "gpt-5", "canonical": "", "endpoint_id": "e1", "provider": "openai"}
    price_row = book.price(**{**asked, "completed_at": NOON, "prompt": 100, **request})
    return price_row and price_row.id


class TestPrice:
    def test_no_row_is_no_price(self):
        assert chosen() is None
        assert chosen(row(1, "gpt-4")) is None

    def test_an_endpoint_comes_before_a_provider_before_any(self):
        any_row, provider, endpoint = row(3, "gpt-5"), row(2, provider="openai"), row(1, endpoint_id="e1")
        assert chosen(any_row, provider, endpoint) == 1
        assert chosen(any_row, provider, endpoint, endpoint_id="e2") == 2
        assert chosen(any_row, provider, endpoint, endpoint_id="e2", provider="azure") == 3

    def test_a_row_for_endpoint_and_provider_needs_both(self):
        both = row(1, endpoint_id="e1", provider="vllm")
        assert chosen(both) is None
        assert chosen(both, provider="vllm") == 1

    def test_an_exact_name_comes_before_the_longest_literal(self):
        rows = [row(1), row(2, "gpt*"), row(3, "gpt-5*"), row(4, "*-5")]
        assert chosen(*rows, row(5, "gpt-5")) == 5
        assert chosen(*rows) == 3

    def test_the_canonical_name_counts_after_the_served_model(self):
        rows = [row(1, "openai/gpt-5"), row(2, "gpt-5")]
        assert chosen(*rows, canonical="openai/gpt-5") == 2
        assert chosen(*rows, served="mine", canonical="openai/gpt-5") == 1

    def test_case_does_not_matter(self):
        assert chosen(row(1, "GPT-5"), served="gpt-5") == 1
        assert chosen(row(1, "qwen*"), served="Qwen3") == 1

    def test_the_latest_valid_row_counts(self):
        rows = [row(1), row(2, valid_from=NOON), row(3, valid_from=NOON + DAY)]
        assert chosen(*rows, completed_at=NOON - 1) == 1
        assert chosen(*rows, completed_at=NOON) == 2
        assert chosen(*rows, completed_at=NOON + DAY + 0.5) == 3

    def test_a_row_ends_before_its_valid_until(self):
        rows = [row(1), row(2, "gpt-5", valid_until=NOON)]
        assert chosen(*rows, completed_at=NOON - 0.001) == 2
        assert chosen(*rows, completed_at=NOON) == 1

    def test_a_less_specific_row_counts_while_the_specific_one_is_not_valid_yet(self):
        assert chosen(row(1), row(2, "gpt-5", valid_from=NOON + 1)) == 1

    @pytest.mark.parametrize(("prompt", "expected"), [(0, 1), (200_000, 1), (200_001, 2), (272_001, 3)])
    def test_a_cliff_counts_for_prompts_of_more_tokens(self, prompt, expected):
        assert chosen(row(1), row(2, min_prompt=200_000), row(3, min_prompt=272_000), prompt=prompt) == expected

    @pytest.mark.parametrize(
        ("tier", "expected"),
        [("", 1), ("default", 1), ("standard", 1), ("Flex", 2), ("priority", 1)],
    )
    def test_a_tier_without_a_row_has_the_default_price(self, tier, expected):
        assert chosen(row(1), row(2, tier="flex"), tier=tier) == expected

    def test_a_row_for_a_tier_never_counts_for_the_default_one(self):
        assert chosen(row(1, tier="batch")) is None

    def test_tier_comes_before_size_before_hours_before_date(self):
        tier, size = row(1, tier="flex"), row(2, min_prompt=10)
        hours, late = row(3, window=PriceWindow(0, 0)), row(4, valid_from=NOON)
        assert chosen(tier, size, hours, late, tier="flex") == 1
        assert chosen(tier, size, hours, late) == 2
        assert chosen(hours, late) == 3

    def test_any_own_row_comes_before_the_catalogue(self):
        listed = row(-1, "gpt-5", provider="openai")
        assert chosen(row(1), catalogue=[listed]) == 1
        assert chosen(row(1, "gpt-4"), catalogue=[listed]) == -1
        assert chosen(catalogue=[listed], provider="vllm") is None

    def test_the_catalogue_of_a_provider_is_read_once(self):
        read = []

        def catalogue(provider):
            read.append(provider)
            return ()

        book = PriceBook([], catalogue)
        for served in ("a", "b", "a"):
            book.price(served=served, canonical="", endpoint_id="", provider="xai", completed_at=0, prompt=0)
        assert read == ["xai"]

    def test_rows_of_a_model_are_listed_in_the_order_of_their_use(self):
        book = PriceBook([row(1), row(2, "gpt-5"), row(3, "gpt-4"), row(4, "gpt-*", provider="openai")])
        rows = book.rows_for(served="gpt-5", canonical="gpt-5", endpoint_id="e1", provider="openai")
        assert [price.id for price in rows] == [4, 2, 1]


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("gpt", "gpt", True),
        ("gpt", "gpt-5", False),
        ("gpt*", "gpt", True),
        ("*", "", True),
        ("a*a", "a", False),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("*b*", "abc", True),
        ("ab*bc", "abc", False),
    ],
)
def test_a_star_stands_for_any_characters(pattern, name, expected):
    assert matches(pattern, name) is expected


class TestWindow:
    @pytest.mark.parametrize(("minute", "expected"), [(59, False), (60, True), (239, True), (240, False)])
    def test_the_end_is_excluded(self, minute, expected):
        assert PriceWindow(60, 240).contains(NOON - 12 * 3600 + minute * 60) is expected

    @pytest.mark.parametrize(
        ("hour", "expected"),
        [(15, False), (16, True), (23.9, True), (24.2, True), (24.6, False), (40.2, False), (0.2, False)],
    )
    def test_a_window_over_midnight_belongs_to_the_day_of_its_start(self, hour, expected):
        on_wednesdays = PriceWindow(16 * 60, 30, weekdays=0b0000100)
        assert on_wednesdays.contains(NOON - 12 * 3600 + hour * 3600) is expected

    def test_equal_ends_are_a_whole_day(self):
        assert all(PriceWindow(0, 0).contains(NOON + hour * 3600) for hour in range(24))


class TestCost:
    PRICE = row(1, input=2 * NANO, cached=NANO // 5, write_short=3 * NANO, write_long=4 * NANO, output=10 * NANO)

    def test_each_kind_has_its_price(self):
        usage = PricedUsage(input=1_000_000, cached=200_000, write_short=100_000, write_long=50_000, output=10_000)
        expected = Decimal("0.65") * 2 + Decimal("0.04") + Decimal("0.3") + Decimal("0.2") + Decimal("0.1")
        assert cost(self.PRICE, usage) == expected * NANO

    @pytest.mark.parametrize(
        ("amounts", "expected"),
        [
            ({"input": 1}, 4),
            ({"input": 1, "cached": 10}, 13),
            ({"input": 1, "write_short": 10}, 22),
            ({"input": 1, "write_long": 10}, 13),
            ({"output": 1}, 3),
            ({"output": 1, "reasoning": 10}, 12),
            ({"reasoning": 10}, 10),
            ({"cached": 0, "input": 1}, 3),
        ],
    )
    def test_without_a_price_a_kind_costs_as_its_parent(self, amounts, expected):
        usage = PricedUsage(input=4, cached=1, write_short=1, write_long=1, output=3, reasoning=1)
        assert cost(row(1, **{kind: amount * 1_000_000 for kind, amount in amounts.items()}), usage) == expected

    def test_parts_are_at_most_the_whole(self):
        usage = PricedUsage(input=100, cached=150, write_short=10, write_long=10, output=5, reasoning=9)
        assert cost(self.PRICE, usage) == cost(self.PRICE, PricedUsage(input=100, cached=100, output=5, reasoning=5))

    def test_what_was_not_reported_costs_nothing(self):
        assert cost(self.PRICE, PricedUsage()) == 0
        assert cost(self.PRICE, PricedUsage(cached=5, reasoning=5)) == 0

    def test_requests_images_and_audio(self):
        price = row(1, request=5 * NANO, image=40 * NANO, minute=6 * NANO)
        assert cost(price, PricedUsage()) == 5_000_000
        assert cost(price, PricedUsage(images=2, audio_ms=90_000)) == 5_000_000 + 80_000_000 + 9_000_000

    @pytest.mark.parametrize(("amount", "expected"), [(499_999, 0), (500_000, 1), (1_499_999, 1), (1_500_000, 2)])
    def test_half_is_rounded_up(self, amount, expected):
        assert cost(row(1, input=amount), PricedUsage(input=1)) == expected

    def test_a_request_is_rounded_once(self):
        price = row(1, input=400_000, output=400_000, request=200)
        assert cost(price, PricedUsage(input=1, output=1)) == 1

    @given(
        st.lists(st.one_of(st.none(), st.integers(0, 10**13)), min_size=6, max_size=6),
        st.lists(st.integers(0, 10**7), min_size=6, max_size=6),
    )
    def test_the_sum_is_exact(self, amounts, parts):
        plain, cached, short, long, rest, reasoning = parts
        of = dict(zip(("input", "cached", "write_short", "write_long", "output", "reasoning"), amounts, strict=True))
        usage = PricedUsage(plain + cached + short + long, cached, short, long, rest + reasoning, reasoning)
        of_input, of_output = of["input"], of["output"]
        of_short = of_input if of["write_short"] is None else of["write_short"]
        terms = [
            (plain, of_input),
            (cached, of_input if of["cached"] is None else of["cached"]),
            (short, of_short),
            (long, of_short if of["write_long"] is None else of["write_long"]),
            (rest, of_output),
            (reasoning, of_output if of["reasoning"] is None else of["reasoning"]),
        ]
        exact = sum((Decimal(count) * (amount or 0) for count, amount in terms), Decimal(0)) / 1_000_000
        assert cost(row(1, **of), usage) == exact.quantize(Decimal(1), ROUND_HALF_UP)


def test_the_default_tier_has_no_name():
    assert [service_tier_of(tier) for tier in ("", "default", "Standard", " auto ", "FLEX")] == ["", "", "", "", "flex"]
