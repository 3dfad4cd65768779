"""The pages about clients in a real browser."""

from playwright.sync_api import Page, expect

from benchmarks.simulator import Simulator
from tests.browser import in_browser, log_in
from tests.router import RouterDash

pytestmark = in_browser

ME = "127.0.0.1"


def test_a_marked_client_opens_its_page(page: Page, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add())
    for _ in range(3):
        router.chat()
    log_in(page, "/clients")
    row = page.locator("tr", has=page.get_by_role("link", name=ME))
    expect(row.locator("td").first).to_have_text("3")
    expect(row).not_to_contain_text("above the threshold")
    page.get_by_label("from which a client is marked").fill("3")
    page.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("above the threshold")
    page.get_by_role("link", name="7 days").click()
    page.wait_for_url("**/clients?range=7d")
    expect(page.locator("[data-read=good]")).to_have_text("3")
    page.get_by_role("link", name=ME).click()
    page.wait_for_url(f"**/clients/{ME}")
    assert page.get_by_role("heading", name=ME).is_visible()
    assert page.locator("section[aria-labelledby=recent] tbody tr").count() == 3
    page.locator("section[aria-labelledby=recent] tbody a").first.click()
    page.wait_for_url("**/requests/*")
