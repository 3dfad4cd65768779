"""The catalogue of prices that comes with a release."""

import hashlib

import pytest

from endpoints.clouds.kinds import CLOUDS
from gateway.prices import catalogue
from gateway.prices.book import PriceBook

BOOK = PriceBook([], catalogue.prices)
NOON = 1_796_040_000  # 2026-11-30


def price(provider, served, **request):
    asked = {"canonical": "", "endpoint_id": "", "completed_at": NOON, "prompt": 1000, **request}
    return BOOK.price(served=served, provider=provider, **asked)


def test_the_manifest_has_the_checksums_of_all_files():
    files = {path.name: path.read_bytes() for path in catalogue.DATA.iterdir() if path.name != "manifest.json"}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} == catalogue.manifest().files


def test_each_cloud_has_a_file():
    assert {f"{kind}.json" for kind in CLOUDS} | {"LICENSE"} == set(catalogue.manifest().files)


def test_other_types_have_no_prices():
    assert catalogue.prices("vllm") == []
    assert catalogue.prices("../manifest") == []


def test_numbers_are_unique_and_lead_to_their_rows():
    rows = [row for kind in CLOUDS for row in catalogue.prices(kind)]
    assert len({row.id for row in rows}) == len(rows)
    assert all(row.id < 0 for row in rows)
    assert catalogue.find(rows[0].id) == rows[0]
    assert catalogue.find(0) is None


@pytest.mark.parametrize("kind", CLOUDS)
def test_each_row_has_amounts(kind):
    amounts = ("input", "cached", "write_short", "write_long", "output", "reasoning", "request", "image", "minute")
    for row in catalogue.prices(kind):
        values = [getattr(row, name) for name in amounts]
        assert any(amount is not None for amount in values)
        assert all(amount is None or amount >= 0 for amount in values)
        assert row.valid_until is None or row.valid_until > row.valid_from


def test_prices_of_a_model_with_a_cliff_and_tiers():
    amounts = [
        (row.input, row.cached, row.output)
        for size in (200_000, 200_001)
        for tier in ("", "batch")
        if (row := price("gemini", "gemini-2.5-pro", prompt=size, tier=tier))
    ]
    assert amounts == [
        (1_250_000_000, 125_000_000, 10_000_000_000),
        (625_000_000, 125_000_000, 5_000_000_000),
        (2_500_000_000, 250_000_000, 15_000_000_000),
        (1_250_000_000, 250_000_000, 7_500_000_000),
    ]


def test_a_long_lived_cache_write_has_its_price():
    row = price("anthropic", "claude-sonnet-4-5-20250929")
    assert (row.input, row.cached, row.write_short, row.write_long) == (
        3_000_000_000,
        300_000_000,
        3_750_000_000,
        6_000_000_000,
    )


def test_azure_has_the_prices_of_the_vendors_of_its_models():
    assert price("azure", "gpt-4o-mini").input == price("openai", "gpt-4o-mini").input


def test_peak_hours():
    at_three = NOON - NOON % 86_400 + 3 * 3600
    flash = [price("deepseek", "deepseek-v4-flash", completed_at=at_three + hours * 3600) for hours in (0, 1)]
    assert [row.input for row in flash] == [300_000_000, 150_000_000]
