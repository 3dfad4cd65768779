"""The cost of one request by its parts."""

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest

from gateway.prices.book import NANO
from metrics.costs.price_cache import price_cache
from metrics.costs.tables import PriceRow
from metrics.models import CurrencyRate
from metrics.queries.requests.lookups import request_detail
from tests.metrics.costs.pricing import add_price
from tests.metrics.records import NOW, load, request
from tests.metrics.world import World, rows

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


def detail(request_id: str) -> Any:
    payload = request_detail(request_id)
    assert payload is not None
    return payload


def test_the_parts_add_up_to_the_cost(world: World, prices: list[PriceRow]) -> None:
    world.gateway(*load(41, 150))
    world.write()
    priced = 0
    for (request_id,) in rows("SELECT id FROM request_history"):
        payload = detail(str(request_id))
        parts = [Decimal(part["cost"]) for part in payload["cost_parts"] if part["cost"] is not None]
        if payload["cost"] is None:
            assert (parts, payload["reporting_cost"]) == ([], None)
            continue
        priced += 1
        assert sum(parts, Decimal()).quantize(Decimal("1e-9"), ROUND_HALF_UP) == Decimal(payload["cost"])
        counts = {part["part"]: part["count"] for part in payload["cost_parts"]}
        assert counts.get("output", 0) + counts.get("reasoning", 0) == (payload["output_tokens"] or 0)
        assert sum(counts.get(part, 0) for part in ("input", "cached", "write_short", "write_long")) == (
            payload["input_tokens"] or 0
        )
    assert priced > 50


def test_every_kind_of_token_has_a_part(world: World, prices: list[PriceRow]) -> None:
    add_price("all", input=NANO, cached=2, write_short=3, write_long=4, output=5, reasoning=6, request=7)
    entry = request(
        model="all", input_tokens=100, cached_tokens=10, cache_write_tokens=30, long_write_tokens=20, output_tokens=9,
        reasoning_tokens=4,
    )  # fmt: skip
    world.gateway(entry)
    world.write()
    parts = [(part["part"], part["count"], part["cost"]) for part in detail(entry.id)["cost_parts"]]
    assert parts == [
        ("input", 60, "0.00006"),
        ("cached", 10, "0.00000000000002"),
        ("write_short", 10, "0.00000000000003"),
        ("write_long", 20, "0.00000000000008"),
        ("output", 5, "0.000000000000025"),
        ("reasoning", 4, "0.000000000000024"),
        ("request", 1, "0.000000000007"),
    ]


def test_images_and_audio_have_a_part(world: World, prices: list[PriceRow]) -> None:
    add_price("seen", input=NANO, image=40 * NANO, minute=6 * NANO)
    entry = request(model="seen", input_tokens=1000, output_tokens=0, images=2, audio_ms=90_000)
    world.gateway(entry)
    world.write()
    payload = detail(entry.id)
    assert [(part["part"], part["count"], part["amount"], part["cost"]) for part in payload["cost_parts"]] == [
        ("input", 1000, "1", "0.001"), ("image", 2, "40", "0.08"), ("minute", 90_000, "6", "0.009"),
    ]  # fmt: skip
    assert (payload["cost"], payload["partly_priced"]) == ("0.09", False)


def test_a_kind_of_token_without_an_amount_is_named(world: World, prices: list[PriceRow]) -> None:
    add_price("half", input=NANO)
    entry = request(model="half", input_tokens=1000, output_tokens=5)
    world.gateway(entry)
    world.write()
    payload = detail(entry.id)
    assert (payload["partly_priced"], payload["cost"], payload["cost_parts"][-1]["cost"]) == (True, "0.001", None)


def test_a_cost_is_converted_at_the_rate_of_its_day(world: World, prices: list[PriceRow]) -> None:
    entry = request(model="large", input_tokens=1000, output_tokens=0)
    world.gateway(entry)
    world.write()
    assert detail(entry.id)["reporting_cost"] is None
    CurrencyRate.objects.create(currency="EUR", reporting="USD", valid_from=NOW, rate=NANO // 2)
    price_cache.reload()
    payload = detail(entry.id)
    assert (payload["cost"], payload["reporting_cost"]) == ("0.003", "0.0015")
