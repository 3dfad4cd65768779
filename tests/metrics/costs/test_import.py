"""Import of LiteLLM's list of prices."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import call_command

from metrics.costs.litellm import NoPriceList, parse
from metrics.costs.price_cache import price_cache
from metrics.costs.tables import PriceRow

START = datetime(2026, 12, 1, tzinfo=UTC)
LIST = """{
  "sample_spec": {"input_cost_per_token": 0.0, "litellm_provider": "one of"},
  "gpt-x": {"litellm_provider": "openai", "input_cost_per_token": 2.5e-06, "cache_read_input_token_cost": 1.25e-06,
            "output_cost_per_token": 1e-05, "input_cost_per_token_batches": 1.25e-06, "max_tokens": 5,
            "input_cost_per_token_above_200k_tokens": 5e-06,
            "cache_read_input_token_cost_above_200k_tokens_flex": 1e-6},
  "openai/gpt-x": {"litellm_provider": "openai", "input_cost_per_token": 9e-06},
  "gemini/g": {"litellm_provider": "gemini", "input_cost_per_token": 1.0399999999999998e-06},
  "claude-x": {"litellm_provider": "anthropic", "input_cost_per_token": 3e-06,
               "cache_creation_input_token_cost": 3.75e-06, "cache_creation_input_token_cost_above_1hr": 6e-06},
  "whisper": {"litellm_provider": "groq", "mode": "audio_transcription", "input_cost_per_second": 0.00003},
  "ollama/llama": {"litellm_provider": "ollama", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
  "bedrock/x": {"litellm_provider": "bedrock", "input_cost_per_token": 1e-06},
  "xai/voice": {"litellm_provider": "xai", "input_cost_per_character": 1e-06},
  "deepseek/t": {"litellm_provider": "deepseek", "tiered_pricing": [
      {"range": [0, 32000], "input_cost_per_token": 1e-06}, {"range": [32000, 128000], "input_cost_per_token": 2e-06}]}
}"""


def rows(text=LIST):
    names = ("input", "cached", "write_short", "write_long", "output", "minute")
    return {
        (row.pattern, row.min_prompt, row.tier): {
            name: amount / 10**9 for name in names if (amount := row.amounts[name]) is not None
        }
        for row in parse(text).rows
    }


def test_sizes_and_tiers_are_rows():
    assert {key[1:]: value for key, value in rows().items() if key[0] == "gpt-x"} == {
        (0, ""): {"input": 2.5, "cached": 1.25, "output": 10},
        (0, "batch"): {"input": 1.25, "cached": 1.25, "output": 10},
        (200_000, ""): {"input": 5, "cached": 1.25, "output": 10},
        (200_000, "batch"): {"input": 1.25, "cached": 1.25, "output": 10},
        (200_000, "flex"): {"input": 5, "cached": 1, "output": 10},
    }


def test_other_units_and_lifetimes():
    prices = rows()
    assert prices["claude-x", 0, ""] == {"input": 3, "write_short": 3.75, "write_long": 6}
    assert prices["whisper", 0, ""] == {"minute": 1.8}
    assert (prices["t", 0, ""], prices["t", 32_000, ""]) == ({"input": 1}, {"input": 2})


def test_an_inexact_price_is_rounded_and_keeps_its_original():
    (price,) = (row for row in parse(LIST).rows if row.pattern == "g")
    assert (price.amounts["input"], price.note) == (1_040_000_000, "from input 1.0399999999999998")


def test_what_is_left_out_is_counted():
    parsed = parse(LIST)
    assert (parsed.zeros, parsed.empty, dict(parsed.other_providers), parsed.errors) == (1, 1, {"bedrock": 1}, [])


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("5", "m: must be an object"),
        ('{"litellm_provider": "openai", "input_cost_per_token": "1"}', "m: input_cost_per_token must be a number"),
        ('{"litellm_provider": "openai", "input_cost_per_token": true}', "m: input_cost_per_token must be a number"),
        ('{"litellm_provider": "openai", "input_cost_per_token": -1e-6}', "m: input_cost_per_token must be a price"),
        ('{"litellm_provider": "openai", "input_cost_per_token": 1e99999}', "m: input_cost_per_token must be a price"),
        (
            '{"litellm_provider": "openai", "input_cost_per_token": 1e999999999}',
            "m: input_cost_per_token must be a price",
        ),
        ('{"litellm_provider": "openai", "tiered_pricing": [{"range": [1e999999999]}]}', "m: tiered_pricing must have"),
        ('{"litellm_provider": "openai", "input_cost_per_token": NaN}', "m: input_cost_per_token must be a number"),
        ('{"litellm_provider": "openai", "tiered_pricing": [{"range": []}]}', "m: tiered_pricing must have a range"),
    ],
)
def test_a_bad_model_is_left_out_with_a_reason(model, error):
    good = '{"litellm_provider": "openai", "input_cost_per_token": 0}'
    parsed = parse(f'{{"m": {model}, "n": {good}}}')
    assert [row.pattern for row in parsed.rows] == ["n"]
    assert [message[: len(error)] for message in parsed.errors] == [error]


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", '{"a": 1}', "null"])
def test_another_file_is_refused(text):
    with pytest.raises(NoPriceList, match="This is no"):
        parse(text)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("empty_caches")
class TestCommand:
    @pytest.fixture
    def run(self, tmp_path):
        def run(text, *options, start=START):
            (tmp_path / "prices.json").write_text(text)
            out, err = StringIO(), StringIO()
            self.code: object = 0
            arguments = [str(tmp_path / "prices.json"), f"--from={start.isoformat()}", *options]
            try:
                call_command("import_prices", *arguments, stdout=out, stderr=err)
            except SystemExit as end:
                self.code = end.code
            return out.getvalue() + err.getvalue()

        return run

    @staticmethod
    def price(served, provider, moment):
        return price_cache.book().price(
            served=served, canonical="", endpoint_id="", provider=provider, completed_at=moment.timestamp(), prompt=1
        )

    def test_nothing_is_written_without_apply(self, run):
        text = run(LIST)
        assert "new: gpt-x (openai, batch): input 1.25, cached 1.25, output 10 USD" in text
        assert "10 new, 0 changed, 0 ended, 0 unchanged, 0 kept" in text
        assert "1 of other providers, 1 of own servers with price 0, 1 without a known price" in text
        assert "nothing is written without --apply" in text
        assert not PriceRow.objects.exists()

    def test_prices_count_from_their_start(self, run):
        assert self.price("gpt-x", "openai", START) is None
        assert "written, valid from 2026-12-01T00:00:00+00:00" in run(LIST, "--apply")
        assert self.price("gpt-x", "openai", START - timedelta(seconds=1)) is None
        assert self.price("gpt-x", "openai", START).input == 2_500_000_000
        assert self.price("gpt-x", "openai", START).source == "LiteLLM"

    def test_a_second_import_changes_only_what_differs(self, run):
        run(LIST, "--apply")
        later = START + timedelta(days=1)
        assert "0 new, 0 changed, 0 ended, 10 unchanged" in run(LIST, "--apply", start=later)
        changed = LIST.replace('"input_cost_per_token": 3e-06', '"input_cost_per_token": 4e-06')
        assert "0 new, 1 changed, 0 ended, 9 unchanged" in run(changed, "--apply", start=later)
        prices = [self.price("claude-x", "anthropic", moment).input for moment in (START, later)]
        assert prices == [3_000_000_000, 4_000_000_000]

    def test_a_condition_that_is_gone_ends(self, run):
        run(LIST, "--apply")
        models = json.loads(LIST)
        del models["deepseek/t"]["tiered_pricing"][1]
        later = START + timedelta(days=1)
        assert "0 new, 0 changed, 1 ended, 9 unchanged" in run(json.dumps(models), "--apply", start=later)
        assert PriceRow.objects.get(min_prompt=32_000).valid_until == later

    def test_rows_of_administrators_are_kept(self, run):
        PriceRow.objects.create(pattern="Claude-X", provider="anthropic", currency="USD", valid_from=START, input=7)
        assert "9 new, 0 changed, 0 ended, 0 unchanged, 1 kept" in run(LIST, "--apply")
        assert self.price("claude-x", "anthropic", START).input == 7

    def test_one_provider(self, run):
        assert "1 new" in run(LIST, "--apply", "--provider=anthropic")
        assert [row.pattern for row in PriceRow.objects.all()] == ["claude-x"]

    def test_a_bad_file_is_refused(self, run):
        assert "prices.json: This is no JSON" in run("{")
        assert self.code == 2

    def test_a_missing_file_is_refused(self, capsys):
        err = StringIO()
        with pytest.raises(SystemExit):
            call_command("import_prices", "/nowhere/prices.json", stderr=err)
        assert "import_prices: /nowhere/prices.json cannot be read: No such file" in err.getvalue()
