"""The pages of models in a real browser: filters are in the URL, figures are updated, axe finds nothing."""

import re

import pytest
from playwright.sync_api import Page, expect

from benchmarks.simulator import Simulator
from tests.browser import in_browser, log_in
from tests.router import RouterDash

pytestmark = [*in_browser, pytest.mark.shared]


LONG = "an-organisation/a-model-with-quite-a-long-name-of-its-own"


def test_the_first_endpoint_replaces_the_introduction(page: Page, router: RouterDash, sim: Simulator) -> None:
    log_in(page, "/models")
    lesson = page.locator("[data-no-endpoints]")
    expect(lesson).to_be_visible()
    page.wait_for_selector("[data-live-sign][data-state=live]")
    router.add(sim.add(models=["tiny"]), name="gpu-box")
    expect(lesson).to_have_count(0)
    expect(page.locator("[data-rows] tr")).to_have_count(1)


def test_filters_are_in_the_url(page: Page, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add(models=["tiny", "text-embed-small", LONG]), name="gpu-box")
    log_in(page, "/models")
    expect(page.locator("[data-rows] tr")).to_have_count(3)
    page.wait_for_selector("[data-live-sign][data-state=live]")  # then the script listens
    page.get_by_label("Capability").select_option("embeddings")
    page.wait_for_url("**/models?capability=embeddings")
    expect(page.locator("[data-rows] tr")).to_have_count(1)
    page.go_back()
    page.get_by_label("Name", exact=True).fill("long-name")
    page.keyboard.press("Enter")
    page.wait_for_url("**/models?q=long-name")
    page.get_by_role("link", name=LONG).click()
    page.wait_for_url(f"**/models/{LONG}")
    expect(page.get_by_text("The request goes to the only candidate.")).to_be_visible()
    page.get_by_label("Kind of request").select_option("messages")
    page.wait_for_url(f"**/models/{LONG}?kind=messages&prompt_tokens=*")


def test_the_figures_are_updated(page: Page, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add(tokens_per_second=100))
    log_in(page, "/models")
    page.wait_for_selector("[data-live-sign][data-state=live]")
    page.evaluate("window.loadedOnce = true")
    router.chat()
    today = page.locator("[data-model=tiny] td").nth(4)
    expect(today).to_have_text("1", timeout=10_000)
    page.goto("/models/tiny")
    expect(page.get_by_role("navigation", name="Breadcrumb").get_by_role("link")).to_have_text("Models")
    page.wait_for_selector("[data-live-sign][data-state=live]")
    router.chat()
    expect(page.locator("[data-part=facts]")).to_contain_text(re.compile(r"Requests today\s*2"), timeout=10_000)
