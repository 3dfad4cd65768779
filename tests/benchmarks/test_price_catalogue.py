"""The tool that makes the catalogue of prices, on a wheel of this test."""

import zipfile
from datetime import UTC, datetime

import pytest

from benchmarks import price_catalogue
from benchmarks.price_source import Problems, patterns, providers
from gateway.prices.catalogue import CatalogueRow, manifest, read

SOURCE = """
import datetime
from decimal import Decimal
from .types import *
raise SystemExit("this module is never executed")
providers: list[Provider] = [
    Provider(id='openai', models=[
        ModelInfo(id='m', match=ClauseOr(or_=[ClauseEquals(equals='M'), ClauseStartsWith(starts_with='m-')]),
            prices=[
                ConditionalPrice(prices=ModelPrice(input_mtok=Decimal('1'))),
                ConditionalPrice(constraint=StartDateConstraint(start_date=datetime.date(2026, 6, 1)),
                    prices=ModelPrice(
                        input_mtok=TieredPrices(base=Decimal('2'), tiers=[Tier(start=200000, price=Decimal('4'))]),
                        output_mtok=Decimal('8'))),
                ConditionalPrice(constraint=TimeOfDateConstraint(
                    start_time=datetime.time(1, 30, tzinfo=datetime.UTC),
                    end_time=datetime.time(4, 0, tzinfo=datetime.UTC)), prices=ModelPrice(input_mtok=Decimal('3'))),
            ]),
        ModelInfo(id='other', match=ClauseEquals(equals='m'), prices=ModelPrice(input_mtok=Decimal('9'))),
        ModelInfo(id='w', match=ClauseEquals(equals='w'), prices=ModelPrice(audio_hours=Decimal('0.36')),
            price_variants=[PriceVariant(when={'service_tier': 'flex'}, prices=ModelPrice(input_mtok=Decimal('5')),
                constraint=StartDateConstraint(start_date=datetime.date(2026, 7, 1)))]),
    ]),
    %s
]
"""
EMPTY = ("anthropic", "google", "azure", "openrouter", "groq", "mistral", "deepseek", "x-ai", "together")
MODULE = SOURCE % "".join(f"Provider(id='{name}', models=[])," for name in EMPTY)
JUNE, JULY = (int(datetime(2026, month, 1, tzinfo=UTC).timestamp()) for month in (6, 7))


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Return a function that makes the catalogue in a folder of the test, and returns the rows of OpenAI."""
    target = tmp_path / "data"
    monkeypatch.setattr("gateway.prices.catalogue.DATA", target)
    manifest.cache_clear()

    def run(module, date):
        with zipfile.ZipFile(tmp_path / "wheel", "w") as archive:
            archive.writestr("genai_prices/data.py", module)
            archive.writestr("g.dist-info/METADATA", "Name: genai-prices\nVersion: 1.0\nLicense-Expression: MIT\n\n")
            archive.writestr("g.dist-info/licenses/LICENSE", "MIT")
        price_catalogue.main(tmp_path / "wheel", target, date)
        return read("openai")

    yield run
    manifest.cache_clear()


def row(number, pattern, start, end=None, size=0, tier="", window=None, **amounts):
    names = ("input", "cached", "write_short", "write_long", "output", "reasoning", "request", "image", "minute")
    nanos = tuple(None if amounts.get(name) is None else int(amounts[name] * 10**9) for name in names)
    return CatalogueRow(number, pattern, start, end, size, tier, window, nanos)


def test_dates_sizes_hours_and_tiers_are_rows(make):
    rows = [
        [
            row(first, pattern, 0, JUNE, input=1),
            row(first + 1, pattern, JUNE, input=2, output=8),
            row(first + 2, pattern, JUNE, size=200_000, input=4, output=8),
            row(first + 3, pattern, JUNE, window=(90, 240, 127), input=3),
        ]
        for first, pattern in ((1, "m"), (5, "m-*"))
    ]
    audio = [row(9, "w", 0, minute=6), row(10, "w", JULY, tier="flex", input=5, minute=6)]
    assert make(MODULE, "2026-11-01") == [*rows[0], *rows[1], *audio]


def test_a_second_run_changes_nothing(make):
    assert make(MODULE, "2026-11-01") == make(MODULE, "2026-11-20")


def test_azure_has_rows_of_its_own(make):
    make(MODULE, "2026-11-01")
    assert [(price.number, price.pattern) for price in read("azure")][::4] == [(11, "m"), (15, "m-*"), (19, "w")]


def test_a_changed_price_is_a_new_row_and_ends_the_old_one(make):
    before = make(MODULE, "2026-11-01")
    after = make(MODULE.replace("'0.36'", "'0.72'"), "2026-11-20")
    day = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp())
    assert after[:8] == before[:8]
    assert after[8:] == [
        row(9, "w", 0, day, minute=6),
        row(10, "w", JULY, day, tier="flex", input=5, minute=6),
        row(21, "w", day, minute=12),
        row(22, "w", day, tier="flex", input=5, minute=12),
    ]
    assert make(MODULE.replace("'0.36'", "'0.72'"), "2026-11-25") == after


def test_a_model_that_is_gone_ends(make):
    make(MODULE, "2026-11-01")
    after = make(MODULE.replace("equals='w'", "equals='x'"), "2026-11-20")
    day = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp())
    assert [(price.number, price.valid_from, price.valid_until) for price in after if price.pattern == "w"] == [
        (9, 0, day),
        (10, JULY, day),
    ]
    assert [(price.number, price.valid_from) for price in after if price.pattern == "x"] == [(21, 0), (22, JULY)]


@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        ("ClauseContains(contains='x')", ["*x*"]),
        ("ClauseEndsWith(ends_with='x')", ["*x"]),
        ("ClauseRegex(regex='^a-5[-@]\\\\d{8}$')", ["a-5-20*", "a-5@20*"]),
        ("ClauseRegex(regex='^a\\\\.5-\\\\d{4}-\\\\d{2}-\\\\d{2}$')", ["a.5-20*"]),
        ("ClauseRegex(regex='^a-\\\\d')", [f"a-{digit}*" for digit in range(10)]),
        ("ClauseRegex(regex='^(a|b)$')", []),
    ],
)
def test_clauses_are_patterns(clause, expected):
    (provider,) = providers(f"providers: list = [{clause}]")
    problems = Problems()
    assert patterns(provider, problems) == expected
    assert bool(list(problems.lines())) is not bool(expected)


def test_an_unknown_expression_is_an_error():
    with pytest.raises(ValueError, match=r"line 1 has an expression that is not known: 1 \+ 1"):
        providers("providers: list = [1 + 1]")
