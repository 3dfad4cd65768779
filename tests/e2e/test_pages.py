"""Pages in a real browser: they update without a reload, under the strict policy, and contact no other host."""

import re

import pytest
from playwright.sync_api import Browser, FloatRect, Page, expect

from benchmarks.simulator import Simulator
from tests.browser import in_browser, log_in
from tests.router import RouterDash

pytestmark = [*in_browser, pytest.mark.shared]


def test_a_login_returns_to_the_requested_page(page: Page, router: RouterDash, sim: Simulator) -> None:
    endpoint = router.add(sim.add(), name="gpu-box")
    log_in(page, f"/endpoints/{endpoint}")
    page.wait_for_url(f"**/endpoints/{endpoint}")
    assert page.get_by_role("heading", name="gpu-box").count() == 2


def test_figures_are_in_the_html(browser: Browser, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add())
    for _ in range(3):
        router.chat()
    context = browser.new_context(base_url=router.url, java_script_enabled=False, locale="en")
    page = context.new_page()
    log_in(page)
    assert page.locator("[data-stat=total_requests]").inner_text() == str(router.stats()["total_requests"])
    assert page.locator("[data-value=total_requests]").inner_text() == "3"
    assert page.locator("[data-minutes] tr").first.is_visible()
    assert not page.locator("[data-live-sign]").is_visible()
    assert not page.locator("[data-chart]").is_visible()
    context.close()


def test_the_tooltip_of_a_minute_stays_during_updates(page: Page, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add())
    log_in(page)
    page.wait_for_selector("[data-live-sign][data-state=live]")
    assert not page.locator("[data-minutes]").is_visible()
    page.locator("[data-chart] .u-over").hover()
    time, one_minute = page.locator("[data-read=time]"), re.compile(r"^\d\d:\d\d$")
    expect(time).to_have_text(one_minute)
    router.chat()
    expect(page.locator("[data-stat=total_requests]")).to_have_text(str(router.stats()["total_requests"]))
    expect(time).to_have_text(one_minute)
    page.mouse.move(0, 0)
    expect(time).to_have_text(re.compile("–"))


def test_the_overview_updates_without_a_reload(page: Page, router: RouterDash, sim: Simulator) -> None:
    simulated = sim.add()
    endpoint = router.add(simulated)
    log_in(page)
    page.wait_for_selector("[data-live-sign][data-state=live]")
    page.evaluate("window.loadedOnce = true")
    router.chat()
    stats = router.stats()
    expect(page.locator("[data-stat=total_requests]")).to_have_text(str(stats["total_requests"]))
    expect(page.locator("[data-read=success]")).to_have_text(str(stats["successful_requests"]))
    expect(page.locator("[data-speeds] tr")).to_have_count(1)
    simulated.set(fault="refuse")
    for _ in range(2):
        router.post(f"/api/endpoints/{endpoint}/test")
    page.wait_for_selector("[data-status].st-offline")
    assert page.locator("[data-latency].stale > span").inner_text().strip().endswith("ms")
    version = router.stats()["figures_version"]
    expect(page.locator("[data-figures-version]")).to_have_attribute("data-figures-version", str(version))
    assert page.evaluate("window.loadedOnce") is True


def test_a_page_shows_that_it_is_not_live_and_recovers(page: Page, router: RouterDash, complaints: list[str]) -> None:
    log_in(page)
    page.wait_for_selector("[data-live-sign][data-state=live]")
    router.kill_role("manage.py control")
    page.wait_for_selector("[data-live-sign][data-state=reconnecting]")
    page.wait_for_selector("[data-live-sign][data-state=live]")
    complaints[:] = [text for text in complaints if "Failed to load resource" not in text]  # it did, for a moment


def test_a_logout_ends_the_live_figures_of_other_tabs(page: Page, complaints: list[str]) -> None:
    log_in(page)
    other = page.context.new_page()
    other.goto("/admin/")
    other.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login**")
    assert "401 (Unauthorized)" in complaints.pop()


def test_an_endpoint_is_added_in_the_admin(page: Page, router: RouterDash, sim: Simulator) -> None:
    simulated = sim.add(kind="vllm")
    log_in(page, "/admin/endpoints/endpoint/add/")
    page.get_by_label("Name:").fill("gpu-box")
    page.get_by_label("Base URL:").fill(f"{simulated.url}/v1/")
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_selector("text=was added successfully")
    assert page.locator(".field-shown_kind").inner_text() == "vLLM"
    assert page.locator(".field-base_url").inner_text() == simulated.url


def test_a_new_key_is_shown_once_and_works(page: Page, router: RouterDash) -> None:
    log_in(page, "/admin/access/apikey/add/")
    page.get_by_label("Name:").fill("notebook")
    page.get_by_role("button", name="Save", exact=True).click()
    key = page.locator("[data-new-key]").input_value()
    assert router.get("/v1/models", key=key).status == 200
    page.goto("/admin/access/apikey/")
    assert key not in page.content()
    assert key[:10] in page.content()


def test_actions_of_the_admin(page: Page, router: RouterDash, sim: Simulator) -> None:
    simulated = sim.add(models=["one", "two"])
    endpoint = router.add(simulated, name="gpu-box")
    log_in(page, "/admin/endpoints/endpoint/")
    for action, text in (("run_test", " ms"), ("run_sync", "gpu-box: 2 models")):
        _act(page, action)
        page.wait_for_selector(f"li.success:has-text('{text}')")
    _act(page, "disable")
    page.get_by_role("button", name="Disable", exact=True).click()
    page.wait_for_selector(".st-disabled")
    assert router.endpoint(endpoint)["operator_state"] == "disabled"


def test_an_endpoint_is_drained_with_a_deadline(page: Page, router: RouterDash, sim: Simulator) -> None:
    endpoint = router.add(sim.add(tokens=1000, tokens_per_second=2), name="gpu-box")
    here = f"/admin/endpoints/endpoint/{endpoint}/change/"
    with router.open_stream():
        log_in(page, here)
        expect(page.locator("[data-in-flight]")).to_have_text("1")
        page.get_by_role("button", name="Drain…").click()
        page.get_by_label("Deadline (s):").fill("3000")
        expect(page.locator("td:has-text('gpu-box') + td")).to_have_text("1")
        page.get_by_role("button", name="Drain", exact=True).click()
        page.wait_for_url(f"**{here}")
        expect(page.locator("[data-drain]")).to_have_text(
            "No new requests are sent; running requests are ended in 49 min."
        )
        expect(page.locator("[data-in-flight]")).to_have_text("1")
    expect(page.locator("[data-in-flight]")).to_have_text("0")
    router.post(f"/api/endpoints/{endpoint}/enable")
    expect(page.locator("[data-drain]")).to_be_hidden()
    page.wait_for_selector("[data-status].st-online")


def _act(page: Page, action: str) -> None:
    page.locator("input.action-select").check()
    page.locator("select[name=action]").select_option(action)
    page.get_by_role("button", name="Go").click()


def test_the_theme_is_remembered_by_the_server(page: Page) -> None:
    log_in(page)
    page.locator("[data-theme-toggle]").click()
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == "light"


def test_dashboard_and_admin_share_the_theme(page: Page) -> None:
    log_in(page)
    page.locator("[data-theme-toggle]").click()
    page.goto("/admin/")
    assert page.locator("html").get_attribute("data-theme") == "light"
    page.locator("[data-theme-toggle]").click()
    page.goto("/")
    assert page.locator("html").get_attribute("data-theme") == "dark"


def test_the_admin_is_translated_by_its_own_switch(page: Page) -> None:
    log_in(page, "/admin/endpoints/endpoint/")
    page.get_by_role("button", name="日本語").click()
    page.wait_for_url("**/admin/endpoints/endpoint/")
    assert page.locator("html").get_attribute("lang") == "ja"


def test_the_requests_of_the_admin_fit_a_desktop(page: Page, router: RouterDash, sim: Simulator) -> None:
    model = "an-organisation/a-model-with-quite-a-long-name"
    router.add(sim.add(models=[model]), name="a-machine-in-the-basement")
    router.chat(model=model)
    log_in(page)
    page.set_viewport_size({"width": 1440, "height": 900})
    for language in ("en", "ja"):
        page.context.add_cookies([{"name": "routerdash_language", "value": language, "url": router.url}])
        page.goto("/admin/metrics/requesthistory/")
        assert page.locator("#result_list tbody tr", has_text=model).count() == 1
        page.evaluate(  # the widest outcome
            "() => { document.querySelector('#result_list tbody tr').cells[4].textContent = 'キャンセル 200' }"
        )
        assert page.evaluate("(it => it.scrollWidth - it.clientWidth)(document.querySelector('.results'))") == 0


def test_the_admin_fits_a_phone(page: Page, router: RouterDash, sim: Simulator) -> None:
    endpoint = router.add(sim.add())
    log_in(page)
    page.set_viewport_size({"width": 390, "height": 900})
    for path in ("", f"{endpoint}/change/"):
        page.goto(f"/admin/endpoints/endpoint/{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert _width(page, "#content") > 0.9 * 390
        assert page.locator("[data-theme-toggle]").is_visible()
        header, last = _box(page, "#header"), _box(page, "#user-tools > :last-child")
        assert last["y"] + last["height"] <= header["y"] + header["height"]


def _box(page: Page, selector: str) -> FloatRect:
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box


def _width(page: Page, selector: str) -> float:
    return _box(page, selector)["width"]
