"""The list of requests in a real browser: it follows new requests, and shows one request next to the list."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.simulator import Simulator
from tests.browser import in_browser, log_in, look, violations
from tests.conftest import Install
from tests.router import RouterDash

pytestmark = in_browser


@pytest.fixture
def router(begin: Install) -> RouterDash:
    return begin(ROUTERDASH_STORE_BODIES="all").start()


def test_the_list_follows_new_requests_and_pauses_while_one_is_open(
    page: Page, router: RouterDash, sim: Simulator
) -> None:
    router.add(sim.add())
    log_in(page, "/requests")
    page.get_by_role("link", name="Live tail").click()
    page.wait_for_selector("[data-live-sign][data-state=live]")
    page.evaluate("window.loadedOnce = true")
    rows = page.locator("[data-rows] tr")
    router.chat()
    expect(rows).to_have_count(1)
    expect(page.locator("[data-empty]")).to_be_hidden()

    rows.first.locator("[data-open]").click()
    expect(page.locator("[data-drawer]")).to_be_focused()
    expect(page).to_have_url(re.compile(r"\?tail=1&id="))
    for _ in range(2):
        router.chat()
    expect(page.locator("[data-new-rows]")).to_have_text("Paused while you read. New requests: 2. Show them")
    expect(rows).to_have_count(1)

    page.keyboard.press("Escape")
    expect(page.locator("[data-drawer]")).to_have_count(0)
    expect(rows).to_have_count(3)
    expect(rows.last.locator("[data-open]")).to_be_focused()
    page.go_back()
    expect(page.locator("[data-drawer]")).to_be_visible()
    assert page.evaluate("window.loadedOnce") is True


def test_the_followed_list_has_no_more_rows_than_a_page(page: Page, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add(models=["tiny", "other"]))
    router.chat()
    log_in(page, "/requests?limit=2&model=tiny&tail=1")
    page.wait_for_selector("[data-live-sign][data-state=live]")
    router.chat(model="other")
    for _ in range(3):
        router.chat()
    newest = [request["id"] for request in router.get("/api/requests?model=tiny").json()["requests"]]
    rows = page.locator("[data-rows] tr")
    expect(rows.first).to_have_attribute("data-id", newest[0])
    expect(rows).to_have_count(2)
    page.get_by_role("link", name="Older").click()
    page.wait_for_url("**cursor=**")
    assert rows.evaluate_all("rows => rows.map(row => row.dataset.id)") == newest[2:]


def test_filters_are_in_the_url(page: Page, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add(models=["tiny", "other"]))
    router.chat()
    router.chat(model="other")
    log_in(page, "/requests?since=-1h")
    page.locator(".more-filters summary").click()
    page.get_by_label("Model").fill("other")
    page.get_by_role("button", name="Apply").click()
    page.wait_for_url("**/requests?since=-1h&model=other")
    rows = page.locator("[data-rows] tr")
    expect(rows).to_have_count(1)
    # A printed page shows the filters and has all columns except the bars.
    page.set_viewport_size({"width": 718, "height": 1000})
    page.emulate_media(media="print")
    expect(page.get_by_role("link", name="Model other")).to_be_visible()
    expect(page.locator(".filters a:visible")).to_have_text(["1 h", re.compile(r"^\s*Model\s+other\s")])
    assert page.locator(".scroll").evaluate("it => it.scrollWidth <= it.clientWidth")
    page.emulate_media(media="screen")
    page.get_by_role("link", name="Model other").click()
    page.wait_for_url("**/requests?since=-1h")
    expect(rows).to_have_count(2)
    page.go_back()
    expect(rows).to_have_count(1)


def test_bodies_are_shown_on_request_and_exports_show_progress(page: Page, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add())
    router.chat(messages=[{"role": "user", "content": "<i>hello</i>"}])
    log_in(page, "/requests")
    page.locator("[data-rows] tr td").first.click()
    page.get_by_role("link", name="Show the bodies").click()
    expect(page.get_by_role("group", name="Request body")).to_contain_text('"content": "<i>hello</i>"')
    expect(page.locator("[data-drawer]")).to_contain_text("This view has been recorded in the admin log.")
    ((accesses,),) = router.query("SELECT COUNT(*) FROM django_admin_log WHERE action_flag = 4")
    assert accesses == 1

    with page.expect_download() as saved:
        page.get_by_role("link", name="CSV").click()
    assert saved.value.path().read_text().count("\n") == 2
    expect(page.locator("[data-export-progress]")).to_contain_text("Export completed: 1")


def test_the_error_text_of_an_endpoint_is_shown_with_the_bodies(page: Page, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add(fault="500"))
    router.chat()
    log_in(page, "/requests?outcome=error")
    page.locator("[data-rows] tr td").first.click()
    drawer = page.locator("[data-drawer]")
    expect(drawer).to_contain_text("The endpoint failed: HTTP 500 (simulated)")
    expect(drawer).not_to_contain_text("simulated 500")
    page.get_by_role("link", name="Show the bodies").click()
    expect(page.get_by_role("group", name="Error responses of endpoints")).to_have_text("simulated 500")


def test_the_list_works_without_scripts(browser: Browser, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add())
    router.chat()
    context = browser.new_context(base_url=router.url, java_script_enabled=False, locale="en")
    page = context.new_page()
    log_in(page, "/requests")
    page.locator("[data-open]").click()
    assert "Time breakdown" in page.locator("[data-drawer]").inner_text()
    page.get_by_role("link", name="Close").click()
    assert page.locator("[data-drawer]").count() == 0
    assert not page.get_by_text("Live tail").is_visible()
    context.close()


def test_the_list_is_accessible(page: Page, router: RouterDash, sim: Simulator) -> None:
    model = "a-model-with-quite-a-long-name/of-some-organisation"
    router.add(sim.add(models=[model, "tiny"]), name="a-machine-in-the-basement")
    router.chat(model=model)
    router.chat()
    sim.endpoints[next(iter(sim.endpoints))].set(fault="500")
    router.chat()
    (request, *_) = router.get("/api/requests").json()["requests"]
    log_in(page)
    paths = (f"/requests?tail=1&id={request['id']}", f"/requests?model={model}&limit=1", "/requests?q=x&since=x")
    for theme, language, width in (("light", "en", 1440), ("dark", "ja", 390)):
        look(page, theme=theme, language=language, width=width)
        for path in (*paths, f"/requests/{request['id']}/bodies"):
            page.goto(path)
            if page.locator(".more-filters summary").count() and "id=" not in path:
                page.locator(".more-filters summary").click()
            assert violations(page) == [], (path, theme, language, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, language)
