"""Costs of own hardware beside those of prices, on the pages of an endpoint and of usage."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from gateway.prices.book import NANO
from metrics.costs.hardware_lines import HARDWARE_COLUMNS, IDLE
from metrics.models import HardwareDayRollUp
from tests.access.people import Api
from tests.markup import one_line
from tests.metrics.records import NOW, A, request
from tests.metrics.world import World

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("endpoints", "frozen_clock")]


def line(date: str, cost: int, **names: Any) -> None:
    keys = {"model": "tiny", "kind": "chat_completions", "api_key_id": "", **names}
    sums = dict.fromkeys(HARDWARE_COLUMNS, 0) | {"cost": cost}
    HardwareDayRollUp.objects.create(date=date, endpoint_id=A, rate_id=1, currency="EUR", **keys, **sums)


@pytest.fixture
def costly(shown_world: World) -> None:
    shown_world.gateway(request(input_tokens=5))
    shown_world.write()
    line(NOW.date().isoformat(), 3 * NANO // 2)
    line(NOW.date().isoformat(), 17 * NANO // 4, kind=IDLE, model="")
    line("2026-01-07", 9 * NANO, kind=IDLE, model="")  # a month in which it was idle only


@pytest.mark.parametrize("path", [f"/endpoints/{A}", "/usage?by=month"])
def test_requests_and_idle_time_are_apart(as_viewer: Api, costly: None, path: str) -> None:
    text = one_line(as_viewer.get(path).content.decode())
    assert '<span title="1.5 EUR">1.50' in text
    assert '<span title="4.25 EUR">4.25' in text


def test_a_month_of_idle_time_is_in_the_table(as_viewer: Api, costly: None) -> None:
    text = one_line(as_viewer.get("/usage?by=month").content.decode())
    assert '<th scope="row" class="w4">2026-01</th>' in text
    assert '<span title="9 EUR">9.00' in text


def test_only_the_page_by_month_reads_a_year_of_days(as_viewer: Api, costly: None) -> None:
    with CaptureQueriesContext(connection) as captured:
        text = one_line(as_viewer.get("/usage?by=model").content.decode())
    assert '<a href="/usage?by=month#costs">Costs by month</a>' in text
    assert "9 EUR" not in text
    assert not [query for query in captured if "2025-" in query["sql"]]


def test_without_own_hardware_nothing_of_it_is_shown(as_viewer: Api, shown_world: World) -> None:
    assert "Own hardware" not in as_viewer.get(f"/endpoints/{A}").content.decode()
