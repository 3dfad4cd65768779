"""An endpoint's page in a browser: it updates without a reload, its buttons work in place, it is accessible."""

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.simulator import Simulator
from tests.browser import in_browser, log_in
from tests.router import RouterDash, until

pytestmark = [*in_browser, pytest.mark.shared]


@pytest.fixture
def endpoint(router: RouterDash, sim: Simulator) -> str:
    return router.add(sim.add(models=["tiny", "org/a-model"]), name="gpu-box")


def test_figures_update_without_a_reload(page: Page, router: RouterDash, endpoint: str) -> None:
    router.chat()
    log_in(page, f"/endpoints/{endpoint}?days=7")
    expect(page.locator("[data-today=total]")).to_have_text("1")
    page.wait_for_selector("[data-live-sign][data-state=live]")
    for _ in range(3):
        router.chat()
    expect(page.locator("[data-today=total]")).to_have_text("4")
    expect(page.locator("[data-value=total_requests]")).to_have_text("4")
    expect(page.locator("[data-read=ok]")).to_have_text("4")
    models = page.locator("[data-part=models] tr")
    expect(models.locator("[data-label=Attempts]")).to_have_text("4", timeout=15000)
    reported = router.get(f"/api/endpoints/{endpoint}/daily-stats?days=7").json()
    row = page.locator("[data-day]").first
    assert row.get_attribute("data-ok") == str(reported[-1]["successful_requests"])
    page.get_by_role("link", name="90 d").click()
    page.wait_for_url("**?days=90")
    page.go_back()
    expect(page.get_by_role("link", name="7 d", exact=True)).to_have_attribute("aria-current", "true")


@pytest.mark.parametrize(
    ("fields", "number", "sentence"),
    [
        ({}, "0", "No requests are running."),
        ({"workers_told": 1}, "", "Running requests are unavailable right now."),
        ({"running_is_cut": True}, "", "Running requests are unavailable right now."),
    ],
)
def test_running_requests_are_counted_once_all_workers_have_reported(
    page: Page, endpoint: str, fields: dict[str, object], number: str, sentence: str
) -> None:
    reported = {"running": [], "workers": 2, "workers_told": 2, "running_is_cut": False, **fields}
    page.route("**/api/live", lambda route: route.fulfill(json=reported))
    log_in(page, f"/endpoints/{endpoint}")
    expect(page.locator("[data-running] tbody")).to_have_text(sentence)
    expect(page.locator("[data-running-count]")).to_have_text(number)


def test_a_drain_with_a_deadline_counts_down_and_is_cancelled_in_place(
    page: Page, router: RouterDash, sim: Simulator
) -> None:
    endpoint = router.add(sim.add(tokens=1000, tokens_per_second=2), name="gpu-box")
    with router.open_stream():
        log_in(page, f"/endpoints/{endpoint}")
        expect(page.locator("[data-in-flight]")).to_have_text("1")
        expect(page.locator("[data-running] tbody tr")).to_contain_text("tiny")
        page.evaluate("window.still = true")
        page.get_by_text("Drain…", exact=True).click()
        page.get_by_label("after 60 minutes").check()
        page.get_by_role("button", name="Drain", exact=True).click()
        expect(page.locator("[data-drain]")).to_have_text(
            "No new requests are sent; running requests are ended in 59 min."
        )
        expect(page.locator("[data-messages]")).to_contain_text(
            "running requests are ended after 3600 seconds: gpu-box"
        )
        page.wait_for_selector("[data-part=head] [data-status].st-draining")
        expect(page.locator("[data-in-flight-too]")).to_have_text("1")
        assert router.endpoint(endpoint)["operator_state"] == "draining"
        expect(page.locator("[data-part=edits]")).to_contain_text("Administrative state: Enabled → Draining")
    expect(page.locator("[data-in-flight]")).to_have_text("0")
    page.get_by_role("button", name="Cancel the drain").click()
    page.wait_for_selector("[data-part=head] [data-status].st-online")
    expect(page.locator("[data-drainbar]")).to_be_hidden()
    assert router.endpoint(endpoint)["operator_state"] == "enabled"
    router.post(f"/api/endpoints/{endpoint}/disable")
    page.wait_for_selector("[data-part=head] [data-status].st-disabled")
    expect(page.get_by_role("button", name="Enable", exact=True)).to_be_visible()
    assert page.evaluate("window.still")  # all of it without leaving the page


def test_an_open_breaker_is_reset_in_place(page: Page, router: RouterDash, endpoint: str, sim: Simulator) -> None:
    log_in(page, f"/endpoints/{endpoint}")
    page.evaluate("window.still = true")
    menu = page.locator("[data-reset]")
    expect(menu).to_be_hidden()
    (simulated,) = sim.endpoints.values()
    simulated.set(fault="500")
    while router.endpoint(endpoint)["breaker"] == "closed":
        router.chat()
    menu.locator("summary").click()
    page.get_by_role("button", name="Reset circuit breaker").click()
    expect(page.locator("[data-messages]")).to_contain_text("Circuit breaker reset: gpu-box")
    expect(page.locator("[data-breaker=closed]").first).to_be_visible()
    expect(menu).to_be_hidden()
    expect(page.locator("[data-part=edits]")).to_contain_text("Circuit breaker reset")
    assert router.endpoint(endpoint)["breaker"] == "closed"
    assert page.evaluate("window.still")


def test_it_is_tested_and_synced_in_place(page: Page, router: RouterDash, endpoint: str, sim: Simulator) -> None:
    log_in(page, f"/endpoints/{endpoint}")
    page.evaluate("window.still = true")
    page.get_by_role("button", name="Test", exact=True).click()
    expect(page.locator("[data-messages]")).to_contain_text("gpu-box: ")
    (simulated,) = sim.endpoints.values()
    simulated.behaviour.models = ["tiny", "another"]
    page.get_by_role("button", name="Sync", exact=True).click()
    expect(page.locator("[data-messages]")).to_contain_text("gpu-box: 2 models")
    expect(page.locator("[data-part=offered]")).to_contain_text("another")
    expect(page.get_by_role("button", name="Sync", exact=True)).to_be_focused()
    assert page.evaluate("window.still")


def test_the_page_works_without_scripts(browser: Browser, router: RouterDash, endpoint: str) -> None:
    router.chat()
    context = browser.new_context(base_url=router.url, java_script_enabled=False, locale="en")
    page = context.new_page()
    log_in(page, f"/endpoints/{endpoint}?days=7")
    assert page.locator("[data-day]").first.locator("td").first.inner_text() == "1"
    assert page.locator("[data-part=models] tr").count() == 1
    page.get_by_text("Drain…", exact=True).click()
    page.get_by_label("may finish").check()
    page.get_by_role("button", name="Drain", exact=True).click()
    page.wait_for_url(f"**/endpoints/{endpoint}?days=7")
    assert page.locator("[data-part=head] [data-status].st-draining").is_visible()
    page.get_by_role("button", name="Cancel the drain").click()
    page.wait_for_selector("[data-part=head] [data-status].st-online")
    context.close()


def test_a_day_of_the_chart_opens_its_requests(page: Page, router: RouterDash, endpoint: str) -> None:
    router.chat()
    log_in(page, f"/endpoints/{endpoint}?days=1")
    page.wait_for_selector("[data-chart] canvas")
    page.route("**/requests?**", lambda route: route.fulfill(body="ok"))
    page.locator("[data-chart] .u-over").hover()
    page.locator("[data-chart] .u-over").click()
    until(lambda: page.url.split("?")[0].endswith("/requests"))
    assert f"endpoint_id={endpoint}&since=" in page.url


def test_ages_are_not_negative_if_the_clocks_differ(page: Page, router: RouterDash, endpoint: str) -> None:
    page.add_init_script("const now = Date.now; Date.now = () => now() - 3600000")  # this machine is an hour behind
    request = {
        "id": "a", "model": "tiny", "api_key_name": None, "endpoint_id": endpoint, "streamed": True, "deltas": 3,
        "since": "2999-01-01T00:00:00Z", "age_ms": 0.0, "phase": "streams",
    }  # fmt: skip
    reported = {"running": [request], "workers": 1, "workers_told": 1, "running_is_cut": False}
    page.route("**/api/live", lambda route: route.fulfill(json=reported))
    log_in(page, f"/endpoints/{endpoint}")
    expect(page.locator("[data-running] tbody td").last).to_have_text("0 ms")
    assert page.evaluate("import('/static/js/format.js').then(format => format.span(-54))") == "0 s"
