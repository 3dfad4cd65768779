"""The usage page in a real browser."""

import re

from playwright.sync_api import Page, expect

from benchmarks.simulator import Simulator
from tests.browser import in_browser, log_in
from tests.router import RouterDash

pytestmark = in_browser


def test_filters_are_in_the_url_and_the_back_button_works(page: Page, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add(models=["org/one", "two"]))
    for model in ("org/one", "org/one", "two"):
        router.chat(model=model)
    log_in(page, "/usage")
    expect(page.locator("[data-read=one]")).not_to_be_empty()  # the chart is drawn
    assert page.locator("tfoot td").first.inner_text() == "3"
    page.get_by_role("link", name="Model", exact=True).click()
    page.wait_for_url("**/usage?by=model")
    page.get_by_role("link", name="org/one").click()
    page.wait_for_url(re.compile(r"model=org%2Fone"))
    assert page.get_by_label("Model").input_value() == "org/one"
    assert page.locator("tfoot td").first.inner_text() == "2"
    page.go_back()
    expect(page.locator("tfoot td").first).to_have_text("3")
    with page.expect_download() as started:
        page.get_by_role("link", name="CSV").click()
    assert "org/one,2,2,0,0,0," in started.value.path().read_text()
