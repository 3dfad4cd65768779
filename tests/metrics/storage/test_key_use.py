"""Last use of API keys, and their refused requests by day, as the database writer stores them."""

from typing import Any

import pytest

from gateway.ipc import record
from metrics.models import LastUse, RefusedDayRollUp
from tests.metrics.records import AT, KEY, request
from tests.metrics.world import World

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

OTHER = "dddddddd-0000-4000-8000-000000000004"
AT_US = round(AT * 1_000_000)


def last_uses() -> dict[str, int]:
    return dict(LastUse.objects.values_list("api_key_id", "last_used_us"))


def refused() -> dict[tuple[str, str, str, str], int]:
    rows = RefusedDayRollUp.objects.values_list("date", "api_key_id", "code", "limit_name", "requests_rejected")
    return {(date, key, code, limit): count for date, key, code, limit, count in rows}


def test_the_last_use_is_the_latest_completion_in_any_order(world: World, endpoints: object) -> None:
    world.gateway(*[request(ago=ago, api_key_id=KEY) for ago in (9, 3.5, 7)], request(ago=1))
    world.gateway(request(ago=5, api_key_id=OTHER), request(record.CANCELLED, ago=4.25, api_key_id=OTHER))
    world.write()
    assert last_uses() == {KEY: AT_US - 3_500_000, OTHER: AT_US - 4_250_000}
    world.gateway(request(ago=60, api_key_id=KEY), request(record.QUEUE, ago=2, api_key_id=OTHER))
    world.write()
    assert last_uses() == {KEY: AT_US - 3_500_000, OTHER: AT_US - 2_000_000}


def test_a_rejected_request_is_no_use_of_its_key(world: World, endpoints: object) -> None:
    world.gateway(request(record.REJECTED, api_key_id=KEY, error="key_disabled"))
    world.write()
    assert last_uses() == {}
    world.gateway(request(ago=30, api_key_id=KEY), request(record.REJECTED, api_key_id=KEY, error="key_disabled"))
    world.write()
    assert last_uses() == {KEY: AT_US - 30_000_000}


def test_refusals_are_counted_by_day_key_reason_and_limit(world: World, endpoints: object) -> None:
    limited: dict[str, Any] = {"api_key_id": KEY, "error": "rate_limit_exceeded"}
    spent: dict[str, Any] = {"api_key_id": KEY, "error": "insufficient_quota", "limit": "user:tokens_day"}
    world.gateway(
        *[request(record.REJECTED, limit="key:requests", **limited) for _ in range(3)],
        request(record.REJECTED, limit="everyone:requests", **limited),
        request(record.REJECTED, ago=86_400, **spent),
        request(record.REJECTED, error="unknown_key"),
        request(api_key_id=KEY, limit="key:concurrency"),  # it waited for that limit, and was served
    )
    world.write()
    world.gateway(request(record.REJECTED, limit="key:requests", **limited))
    world.write()
    assert refused() == {
        ("2026-03-10", KEY, "rate_limit_exceeded", "key:requests"): 4,
        ("2026-03-10", KEY, "rate_limit_exceeded", "everyone:requests"): 1,
        ("2026-03-09", KEY, "insufficient_quota", "user:tokens_day"): 1,
        ("2026-03-10", "", "unknown_key", ""): 1,
    }


def test_a_batch_that_is_written_again_counts_nothing_twice(world: World, endpoints: object) -> None:
    world.gateway(request(record.REJECTED, api_key_id=KEY, error="rate_limit_exceeded", limit="key:requests"))
    world.write()
    before = refused()
    world.write()
    assert refused() == before
