"""`reprice`: the only way in which a past cost changes."""

import io
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command

from endpoints.models import Endpoint
from endpoints.registry import registry
from gateway.prices.book import NANO
from metrics.costs.price_cache import price_cache
from metrics.costs.tables import PriceRow
from metrics.counting.stored_attempt import stored_attempts
from metrics.models import CostDayRollUp
from tests.metrics.costs.pricing import add_price
from tests.metrics.records import NOW, A, load, request
from tests.metrics.world import World, rows

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("endpoints")]


def reprice(*options: str, since: str = "2026-01-01") -> list[str]:
    out = io.StringIO()
    call_command("reprice", "--since", since, *options, stdout=out)
    return out.getvalue().splitlines()


def stored() -> list[str]:
    tables_of_costs = ("request_history", "rollup_cost_days")
    return [str(row) for table in tables_of_costs for row in sorted(rows(f"SELECT * FROM {table}"), key=str)]


def dearer() -> PriceRow:
    """Add a price that wins over those of before, as of long ago."""
    made = add_price("tiny", provider="", input=NANO, output=NANO, tier="")
    rows("UPDATE prices SET pattern = 'unused' WHERE pattern = 'tiny' AND id <> %s", made.pk)
    price_cache.forget()
    return made


def test_without_apply_nothing_changes(world: World, prices: list[PriceRow]) -> None:
    world.gateway(request(input_tokens=1000), request(input_tokens=1, model="large"))
    world.write()
    before, made = stored(), dearer()
    assert reprice() == [
        f"tiny: 1 requests, 0.0005 USD (price {prices[1].pk}) → 0.001 USD (price {made.pk})",
        "nothing was changed: use --apply to change these costs",
    ]
    assert stored() == before


def test_costs_and_sums_change_alike_and_are_logged(
    world: World, prices: list[PriceRow], capsys: pytest.CaptureFixture[str]
) -> None:
    world.gateway(*load(51, 300))
    world.write()
    made = dearer()
    changes = reprice("--apply")
    logged = [line for line in capsys.readouterr().err.splitlines() if "repriced since 2026-01-01" in line]
    assert [line.split(": ", 2)[-1] for line in logged] == changes
    assert reprice("--apply") == ["no cost differs"]
    world_anew = {(row.price_id, row.currency) for row in CostDayRollUp.objects.all()}
    assert world_anew == {(made.pk, "USD"), (prices[2].pk, "EUR")}
    (total,) = rows("SELECT SUM(cost), SUM(estimated_cost), MIN(requests) FROM rollup_cost_days WHERE currency = 'USD'")
    expected = 0
    for tokens_in, tokens_out, attempts in rows("SELECT input_tokens, output_tokens, attempts FROM request_history"):
        last = stored_attempts(attempts)[-1:]
        if last and last[0].price_id == made.pk:
            assert last[0].cost == 1000 * ((tokens_in or 0) + (tokens_out or 0))
            expected += last[0].cost or 0
    assert total[0] == expected
    assert 0 < total[1] < total[0]
    assert total[2] > 0


def test_images_and_audio_are_priced_again(world: World, prices: list[PriceRow]) -> None:
    world.gateway(request(images=2), request(audio_ms=60_000))
    world.write()
    add_price("tiny", since=NOW - timedelta(minutes=1), image=NANO, minute=3 * NANO)
    price_cache.forget()
    assert len(reprice("--apply")) == 1
    assert rows("SELECT requests, cost FROM rollup_cost_days") == [(2, 5_000_000)]


def test_earlier_requests_keep_their_costs(world: World, prices: list[PriceRow]) -> None:
    world.gateway(request(ago=1, input_tokens=1000), request(input_tokens=1000))
    world.write()
    dearer()
    (changed, *_) = reprice("--apply", since=NOW.isoformat())
    assert changed.startswith("tiny: 1 requests, ")
    assert sorted(int(row.cost) for row in CostDayRollUp.objects.all()) == [500_000, 1_000_000]


def test_requests_of_a_deleted_endpoint_keep_their_costs(world: World, endpoints: tuple[Endpoint, Endpoint]) -> None:
    """Its type is not known any more, so its price would be that of no type."""
    Endpoint.objects.filter(pk=A).update(endpoint_type="vllm")
    registry.reload()
    add_price("tiny", provider="vllm", input=NANO)
    price_cache.forget()
    world.gateway(request(input_tokens=1000))
    world.write()
    endpoints[0].delete()
    registry.reload()
    assert reprice("--apply") == ["no cost differs"]
    assert [int(row.cost) for row in CostDayRollUp.objects.all()] == [1_000_000]


def test_a_price_that_came_too_late_counts_then(world: World) -> None:
    world.gateway(request(input_tokens=1000))
    world.write()
    price = add_price("tiny", input=NANO)
    price_cache.forget()
    assert reprice("--apply") == [f"tiny: 1 requests, no price → 0.001 USD (price {price.pk})"]
    (row,) = CostDayRollUp.objects.all()
    assert (row.requests, row.cost) == (1, 1_000_000)


def test_a_bad_moment_is_refused() -> None:
    with pytest.raises(CommandError, match="no date or time"):
        reprice(since="yesterday")
