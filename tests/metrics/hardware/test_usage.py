"""Costs of own hardware in usage and its exports: equal to the page Own hardware, and rows add up to the total."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from access.models import ApiKey, User
from endpoints.models import Endpoint
from metrics.costs.hardware_hours import SETTLE_SECONDS
from metrics.costs.hardware_lines import IDLE
from metrics.costs.hardware_rates import HOUR
from metrics.hardware.by_group import HARDWARE_GROUPS, IDLE_GROUPS
from metrics.hardware.month import hardware_month
from metrics.models import HardwareDayRollUp
from metrics.queries.usage import BY
from tests.access.people import Api, key_for
from tests.markup import one_line
from tests.metrics.costs.hardware_rates import add_rate
from tests.metrics.records import AT, NOW, A, B, request
from tests.metrics.world import UTC_ZONE, World

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

HOUR_START = int(AT) // HOUR * HOUR
SETTLED = HOUR_START + SETTLE_SECONDS
MARCH = "since=2026-03-01&until=2026-03-31"
Sums = dict[str, Decimal]


@pytest.fixture
def key(shown_world: World, endpoints: tuple[Endpoint, Endpoint], admin: User) -> str:
    """A key with requests at two endpoints, of which one was idle on the day before; rates in two currencies."""
    key_for(admin, name="mine")
    key_id = str(ApiKey.objects.get().pk)
    since = datetime.fromtimestamp(HOUR_START - 30 * HOUR, NOW.tzinfo)
    add_rate(A, since=since, per_hour="1.234567891")
    add_rate(B, since=since, currency="EUR", per_hour="0.1", idle_watts="61.3", busy_watts="412", per_kwh="0.3127")
    shown_world.gateway(
        *(
            request(
                completed_us=round((HOUR_START - ago) * 1e6), duration_us=duration, endpoint=endpoint, model=model,
                api_key_id=of,
            )
            for ago, duration, endpoint, model, of in (
                (1700, 61_234_567, A, "tiny", key_id),
                (90, 3_000_001, A, "large", None),
                (7, 77, B, "tiny", key_id),
            )
        )
    )  # fmt: skip
    shown_world.write()
    while shown_world.writer.hours.count(SETTLED):
        pass
    return key_id


def read(api: Api, by: str, more: str = "") -> Any:
    return api.get(f"/api/usage?by={by}&{MARCH}{more}").json()


def sums(rows: Iterable[Mapping[str, Any]], field: str = "cost") -> Sums:
    totals: Sums = {}
    for row in rows:
        for cost in row["hardware_costs"]:
            totals[cost["currency"]] = totals.get(cost["currency"], Decimal(0)) + Decimal(cost[field])
    return totals


def stored(**only: Any) -> Sums:
    costs: Counter[str] = Counter()
    for row in HardwareDayRollUp.objects.filter(**only):
        costs[row.currency] += row.cost
    return {currency: Decimal(cost).scaleb(-9) for currency, cost in costs.items()}


@pytest.mark.parametrize("by", HARDWARE_GROUPS)
def test_rows_add_up_to_the_total(as_viewer: Api, key: str, by: str) -> None:
    usage = read(as_viewer, by)
    assert sums([usage]) == stored()
    assert sums([usage], "idle_cost") == stored(kind=IDLE)
    of_rows = (
        stored()
        if by in IDLE_GROUPS
        else {currency: stored()[currency] - stored(kind=IDLE)[currency] for currency in stored()}
    )
    assert sums(usage["rows"]) == of_rows


def test_endpoints_cost_what_the_page_shows_without_provisional_hours(as_viewer: Api, key: str) -> None:
    page = {
        (row["endpoint_id"], row["currency"]): Decimal(row["cost"]) - Decimal(row["provisional_cost"])
        for row in hardware_month("2026-03", SETTLED, UTC_ZONE)["rows"]
    }
    rows = read(as_viewer, "endpoint")["rows"]
    costs = {
        (row["endpoint_id"], cost["currency"]): Decimal(cost["cost"]) for row in rows for cost in row["hardware_costs"]
    }
    assert (costs, len(costs)) == (page, 2)


def test_a_day_without_a_request_has_a_row(as_viewer: Api, key: str) -> None:
    before, today = read(as_viewer, "day")["rows"]
    assert (before["day"], before["requests"], before["costs"]) == ("2026-03-09", 0, [])
    assert [cost["cost"] == cost["idle_cost"] for cost in before["hardware_costs"]] == [True, True]
    assert (today["day"], today["requests"]) == ("2026-03-10", 3)


def test_a_group_without_a_request_is_compared(as_viewer: Api, key: str) -> None:
    rows = as_viewer.get("/api/usage?by=endpoint&since=2026-03-09&until=2026-03-09&compare=true").json()["rows"]
    assert [(row["requests"], row["previous_requests"], bool(row["hardware_costs"])) for row in rows] == [
        (0, 0, True), (0, 0, True),
    ]  # fmt: skip


@pytest.mark.parametrize("only", ["endpoint_id", "model", "api_key_id"])
def test_only_the_chosen_lines_are_summed(as_viewer: Api, key: str, only: str) -> None:
    value = {"endpoint_id": A, "model": "tiny", "api_key_id": key}[only]
    assert sums([read(as_viewer, "day", f"&{only}={value}")]) == stored(**{only: value})


@pytest.mark.parametrize("by", HARDWARE_GROUPS)
def test_a_file_has_the_figures_of_the_api(as_viewer: Api, key: str, by: str) -> None:
    usage = read(as_viewer, by)
    path = f"/api/usage/export?by={by}&{MARCH}"
    assert json.loads(as_viewer.get(f"{path}&format=json").content) == usage
    *lines, total = csv.DictReader(io.StringIO(as_viewer.get(path).content.decode()))
    for line, row in zip([*lines, total], [*usage["rows"], usage], strict=True):
        costs = {cost["currency"]: cost for cost in row["hardware_costs"]}
        for currency in ("USD", "EUR"):
            for column, field in (("hardware_cost", "cost"), ("hardware_idle_cost", "idle_cost")):
                assert line[f"{column}_{currency.lower()}"] == costs.get(currency, {}).get(field, "")
    assert total["hardware_cost_usd"] == str(stored()["USD"].normalize())


@pytest.mark.parametrize("by", sorted({*BY} - {*HARDWARE_GROUPS}))
def test_what_served_a_request_has_no_costs_of_own_hardware(as_viewer: Api, key: str, by: str) -> None:
    usage = read(as_viewer, by)
    assert "hardware_costs" not in usage
    assert "hardware_costs" not in usage["rows"][0]
    assert b"hardware" not in as_viewer.get(f"/api/usage/export?by={by}").content


@pytest.mark.parametrize("by", HARDWARE_GROUPS)
def test_the_page_shows_each_amount(as_viewer: Api, key: str, by: str) -> None:
    text = one_line(as_viewer.get(f"/usage?by={by}&since=2026-03-01&until=2026-03-10").content.decode())
    usage = read(as_viewer, by)
    for amount in [cost for row in [*usage["rows"], usage] for cost in row["hardware_costs"]]:
        assert f'<span title="{amount["cost"]} {amount["currency"]}">' in text
        assert (
            amount["idle_cost"] == "0"
            or f'<small class="under" title="{amount["idle_cost"]} {amount["currency"]}">' in text
        )
    assert ("Its idle time is in the total only." in text) == (by not in IDLE_GROUPS)
