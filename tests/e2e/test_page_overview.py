"""The overview in a real browser: it updates without a reload, lists items that need attention, and never jumps."""

import json
import re
from contextlib import ExitStack, closing
from typing import Any

from playwright.sync_api import Page, Route, expect

from benchmarks.simulator import Simulator
from metrics.exports.long_response import MAX_STREAMS_PER_USER
from tests.browser import in_browser, log_in
from tests.router import PASSWORD, RouterDash

pytestmark = in_browser

# Layout shifts since the page was opened, as the browser measures them.
WATCH_SHIFTS = """
new PerformanceObserver(list => list.getEntries().forEach(it => (window.shifted = (window.shifted ?? 0) + it.value)))
  .observe({type: "layout-shift", buffered: false})
"""


def live(page: Page) -> None:
    page.wait_for_selector("[data-live-sign][data-state=live]")


def test_nothing_moves_while_figures_do(page: Page, router: RouterDash, sim: Simulator) -> None:
    simulated = sim.add()
    router.add(simulated, name="gpu-box", max_concurrency=4)
    router.chat()
    log_in(page)
    live(page)
    expect(page.locator("[data-rank=api_keys] li > :first-child")).to_have_text("bootstrap")
    page.evaluate(WATCH_SHIFTS)
    for number in range(2, 12):
        router.chat(stream=number % 2 == 0)
        expect(page.locator("[data-stat=today_requests]")).to_have_text(str(number))
    expect(page.locator("[data-rank=models] li > span").last).to_have_text("11")
    client = page.locator("[data-rank=clients] li")
    expect(client.locator("a")).to_have_attribute("href", "/clients/127.0.0.1")
    expect(client.locator("span")).to_have_text("11")
    simulated.set(tokens=1000, tokens_per_second=2)
    with router.open_stream():
        expect(page.locator("[data-value=active_requests]")).to_have_text("1")
        expect(page.locator(".load .meter .f")).to_have_attribute("width", "25.0%")
    expect(page.locator(".load .meter .f")).to_have_attribute("width", "0.0%")
    assert page.evaluate("window.shifted ?? 0") < 0.0005  # a figure that gains a digit moves its unit a little


def test_items_that_need_attention_appear_and_disappear_without_a_reload(
    page: Page, router: RouterDash, sim: Simulator
) -> None:
    simulated = sim.add()
    endpoint = router.add(simulated, name="gpu-box")
    log_in(page)
    live(page)
    page.evaluate("window.loadedOnce = true")
    assert not page.locator("[data-attention]").is_visible()
    simulated.set(fault="refuse")
    for _ in range(2):
        router.post(f"/api/endpoints/{endpoint}/test")
    row = page.locator("[data-show=offline]")
    expect(row).to_contain_text("gpu-box is offline")
    expect(row).to_contain_text("1 of its models is online at no other endpoint.")
    expect(row.locator(".age")).to_contain_text(re.compile(r"since \d\d:\d\d\s+·\s+\d+ s"))
    expect(page.locator(".mk[data-kind=offline]")).to_be_visible()
    reported = router.get("/api/dashboard/attention").json()
    assert [(item["kind"], item["endpoint_name"]) for item in reported] == [("offline", "gpu-box")]
    simulated.set(fault="")
    router.post(f"/api/endpoints/{endpoint}/test")
    expect(page.locator("[data-attention]")).to_have_count(0)
    router.add(sim.add(), name="other")  # one more row, without a reload
    expect(page.locator("[data-endpoint]")).to_have_count(2)
    assert page.evaluate("window.loadedOnce") is True


def test_a_restart_shows_the_same_figures_and_the_page_comes_back(
    page: Page, router: RouterDash, sim: Simulator, complaints: list[str]
) -> None:
    router.add(sim.add(), name="gpu-box")
    for _ in range(3):
        router.chat(stream=True)
    log_in(page)
    live(page)
    names = ("today_requests", "success_rate", "today_tokens", "p95_response_time_ms", "p50_first_token_ms")

    def shown() -> list[str]:
        return [page.locator(f"[data-stat={name}]").inner_text() for name in names]

    before, busiest = shown(), router.get("/api/dashboard/busiest").json()
    page.evaluate("window.loadedOnce = true")
    router.stop()
    page.wait_for_selector("[data-live-sign]:not([data-state=live])")
    router.start()
    live(page)
    assert shown() == before
    assert router.get("/api/dashboard/busiest").json() == busiest
    router.chat()
    expect(page.locator("[data-stat=today_requests]")).to_have_text("4")
    assert page.evaluate("window.loadedOnce") is True
    # While RouterDash was stopped.
    complaints[:] = [text for text in complaints if "Failed to load resource" not in text]


def test_without_an_event_stream_the_page_polls(page: Page, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add(), name="gpu-box")

    def hold(route: Route) -> Any:
        """A proxy that buffers a response until its end: event streams never arrive."""
        return route.continue_() if "once" in route.request.url else None

    page.route("**/api/dashboard/events*", hold)
    log_in(page)
    live(page)
    router.chat()
    expect(page.locator("[data-stat=today_requests]")).to_have_text("1", timeout=15_000)
    page.unroute("**/api/dashboard/events*")


def test_a_page_above_the_limit_of_streams_polls(
    page: Page, router: RouterDash, sim: Simulator, complaints: list[str]
) -> None:
    router.add(sim.add(), name="gpu-box")
    _, browser = router.log_in("admin", PASSWORD)
    with ExitStack() as streams:
        for _ in range(MAX_STREAMS_PER_USER):
            streams.enter_context(closing(browser.open(f"{router.url}/api/dashboard/events", timeout=60)))
        log_in(page)
        live(page)
        router.chat()
        expect(page.locator("[data-stat=today_requests]")).to_have_text("1", timeout=15_000)
    complaints[:] = [text for text in complaints if "429" not in text]


def test_the_explanation_of_each_figure_is_shown_and_correct(page: Page, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add(), name="gpu-box")
    router.chat()
    log_in(page)
    live(page)
    buttons = page.locator(".how")
    assert buttons.count() == 10
    for number in range(10):
        buttons.nth(number).click()
        pop = page.locator(".pop:popover-open")
        expect(pop).to_have_count(1)
        path, fields = (pop.locator("code").nth(index).inner_text() for index in (0, 1))
        reported = json.dumps(router.get(path).json())
        assert all(f'"{field}"' in reported for field in fields.split(", ")), path
        page.keyboard.press("Escape")
