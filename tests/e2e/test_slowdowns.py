"""A running RouterDash finds an endpoint that has become slower, from what it has stored."""

import sqlite3
import time
from contextlib import closing
from typing import Any

import pytest
from playwright.sync_api import Page

from benchmarks.simulator import Simulator
from benchmarks.slowdowns import Traffic, World
from gateway.base.request_kinds import CHAT
from metrics.learning.past import PastSample, hour_of, pack
from metrics.learning.slowdown import DAY_US
from tests.browser import in_browser, log_in, violations
from tests.conftest import Install
from tests.router import RouterDash, until

pytestmark = in_browser

FACTOR = 2.0


@pytest.fixture
def router(begin: Install) -> RouterDash:
    made = begin()
    made.environment["ROUTERDASH_BALANCER"] = "adaptive"
    return made.start()


def store(router: RouterDash, endpoint_id: str, factor: float) -> None:
    """Store three weeks of requests, of which those of the last day are slower."""
    now_us = round(time.time() * 1e6)
    traffic, rows = Traffic(World("of a test", 4.0), "e2e"), dict[int, list[PastSample]]()
    for ago in range(21, -1, -1):
        for sample in traffic.day(now_us // DAY_US - ago, factor if ago < 2 else 1.0):
            if sample.completed_us < now_us:
                rows.setdefault(hour_of(sample.completed_us), []).append(sample)
    values = [(endpoint_id, "tiny", CHAT, hour, pack(samples)) for hour, samples in rows.items()]
    with closing(sqlite3.connect(router.data_dir / "routerdash.sqlite3")) as database, database:
        database.executemany("INSERT INTO learning_past VALUES (?, ?, ?, ?, ?)", values)


def slow(router: RouterDash) -> list[Any]:
    items = router.get("/api/dashboard/attention").json()
    return [item for item in items if item["kind"] == "slow"]


def test_a_slow_endpoint_needs_attention(router: RouterDash, sim: Simulator, page: Page) -> None:
    slower, same = (router.add(sim.add(models=["tiny"]), name) for name in ("slower", "same"))
    router.stop()
    for endpoint_id, factor in ((slower, FACTOR), (same, 1.0)):
        store(router, endpoint_id, factor)
    router.start()
    (item,) = until(lambda: slow(router), 30)
    assert item["endpoint_id"] == slower
    assert item["model"] == "tiny"
    assert item["factor"] == pytest.approx(FACTOR, rel=0.1)
    log_in(page)
    page.locator("[data-show=slow]").get_by_role("link", name="Details").click()
    assert page.locator("[data-slow=tiny]").is_visible()
    assert violations(page) == []
