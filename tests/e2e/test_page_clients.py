"""The pages about clients in a real browser."""

import pytest
from playwright.sync_api import Page, expect

from benchmarks.simulator import Simulator
from tests.browser import in_browser, log_in, look, violations
from tests.router import RouterDash

pytestmark = in_browser

ME = "127.0.0.1"


def test_a_client_is_found_marked_and_looked_into(page: Page, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add())
    for _ in range(3):
        router.chat()
    log_in(page, "/clients")
    row = page.locator("tr", has=page.get_by_role("link", name=ME))
    expect(row.locator("td").first).to_have_text("3")
    expect(row).not_to_contain_text("above the threshold")
    page.get_by_label("Mark a client").fill("3")
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


@pytest.mark.parametrize("width", [390, 1440])
def test_clients_are_readable_by_everybody(page: Page, router: RouterDash, sim: Simulator, width: int) -> None:
    router.add(sim.add())
    router.chat()
    log_in(page)
    for theme, language in (("light", "en"), ("dark", "ja")):
        look(page, theme=theme, language=language, width=width)
        for path in ("/clients?range=30d", f"/clients/{ME}", "/clients/2001:db8::/64"):
            page.goto(path)
            expect(page.locator("[data-read=good]")).not_to_be_empty()
            for summary in page.locator("summary:visible", has_text="table" if language == "en" else "表").all():
                summary.click()
            assert violations(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
