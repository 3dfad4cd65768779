"""Search, keyboard shortcuts, the API page and an edit of an outdated version, in a real browser."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.simulator import Simulator
from tests.browser import in_browser, log_in, watched_page
from tests.router import RouterDash

pytestmark = in_browser


@pytest.fixture(scope="module")
def endpoint(shared_router: RouterDash, simulator: Simulator) -> str:
    return shared_router.add(simulator.add(models=["org/a-model"]), name="gpu-box")


@pytest.fixture
def visitor(browser: Browser, shared_router: RouterDash, complaints: list[str], endpoint: str) -> Iterator[Page]:
    yield from watched_page(browser, shared_router, complaints)


def test_search_by_keyboard(visitor: Page, endpoint: str) -> None:
    log_in(visitor)
    expect(visitor.locator("[data-live-sign]")).to_have_attribute("data-state", "live")
    box = visitor.locator("[data-search]")
    visitor.keyboard.press("/")
    expect(box).to_be_focused()
    visitor.keyboard.type("g a?/")  # typed, not pressed as a shortcut
    expect(box).to_have_value("g a?/")
    expect(visitor.locator("[data-help]")).to_be_hidden()
    box.fill("gpu")
    suggested = visitor.locator("[data-suggested]")
    expect(suggested.get_by_role("link", name="gpu-box")).to_be_visible()
    visitor.keyboard.press("ArrowDown")
    expect(suggested.get_by_role("link", name="gpu-box")).to_be_focused()
    visitor.keyboard.press("Escape")
    expect(suggested).to_be_hidden()
    expect(box).to_be_focused()
    box.fill("a-model")
    expect(suggested.get_by_role("link", name="org/a-model")).to_be_visible()
    visitor.keyboard.press("Enter")  # without a selected suggestion, the full page of results
    visitor.wait_for_url("**/search?q=a-model")
    visitor.locator("h1").click()
    visitor.keyboard.press("Control+g")
    visitor.keyboard.press("o")
    visitor.keyboard.press("g")
    visitor.keyboard.press("d")
    visitor.wait_for_url("**/api/docs/")


def test_help_is_a_dialog(visitor: Page) -> None:
    for path in ("/api/docs/", "/admin/"):
        log_in(visitor, path) if path == "/api/docs/" else visitor.goto(path)
        visitor.wait_for_url(f"**{path}")
        visitor.keyboard.press("?")
        dialog = visitor.get_by_role("dialog", name="Keyboard")
        expect(dialog).to_be_visible()
        expect(dialog.get_by_role("link", name="API", exact=True)).to_be_visible()
        visitor.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        visitor.keyboard.press("?")
        visitor.keyboard.press("?")
        expect(dialog).to_be_hidden()


def test_the_api_page_is_filtered_while_typing(visitor: Page) -> None:
    log_in(visitor, "/api/docs/")
    visitor.wait_for_url("**/api/docs/")
    visitor.keyboard.press("/")
    expect(visitor.locator("[data-filter]")).to_be_focused()
    visitor.keyboard.type("drain post")
    shown = visitor.locator("[data-operation]:visible")
    expect(shown).to_have_count(1)
    expect(visitor.locator("[data-contents] li:visible")).to_have_count(1)
    expect(visitor).to_have_url(re.compile(r"q=drain\+post"))
    visitor.reload()
    expect(shown).to_have_count(1)
    visitor.locator("[data-filter]").fill("telepathy")
    expect(visitor.locator("[data-none]")).to_be_visible()


def test_two_users_edit_one_endpoint(visitor: Page, shared_router: RouterDash, endpoint: str) -> None:
    form = f"/admin/endpoints/endpoint/{endpoint}/change/"
    log_in(visitor, form)
    notes = visitor.get_by_label("Notes:")
    notes.fill("On the roof.")
    shared_router.post(f"/api/endpoints/{endpoint}/test")  # a check during the edit does not change the version
    assert shared_router.request("PATCH", f"/api/endpoints/{endpoint}", {"notes": "In the basement."}).status == 200
    visitor.get_by_role("button", name="Save", exact=True).click()
    row = visitor.locator("[data-conflict] tbody tr")
    expect(row).to_have_text(re.compile(r"Notes\s*In the basement\.\s*On the roof\."))
    expect(notes).to_have_value("On the roof.")
    assert shared_router.get(f"/api/endpoints/{endpoint}").json()["notes"] == "In the basement."
    visitor.get_by_role("button", name="Overwrite the saved version").click()
    visitor.wait_for_selector("li.success")
    assert shared_router.get(f"/api/endpoints/{endpoint}").json()["notes"] == "On the roof."


def test_an_endpoint_is_deleted_under_traffic(visitor: Page, shared_router: RouterDash, simulator: Simulator) -> None:
    doomed = shared_router.add(simulator.add(models=["doomed"], tokens=1000, tokens_per_second=50), name="doomed")
    log_in(visitor, f"/admin/endpoints/endpoint/{doomed}/delete/")
    with shared_router.open_stream("doomed") as stream:
        assert stream.readline().startswith(b"data:")
        visitor.get_by_role("button", name="Yes, I’m sure").click()
        visitor.wait_for_selector("li.success")
        assert stream.readline() == b"\n"  # its running requests continue
    assert shared_router.get(f"/api/endpoints/{doomed}").status == 404


def test_an_owner_is_found_by_typing(visitor: Page) -> None:
    log_in(visitor, "/admin/access/apikey/add/")
    visitor.locator(".select2-selection").click()
    visitor.locator(".select2-search__field").fill("adm")
    visitor.locator(".select2-results__option", has_text="admin").click()
    visitor.get_by_label("Name:").fill("notebook")
    visitor.get_by_role("button", name="Save", exact=True).click()
    expect(visitor.locator("[data-new-key]")).to_be_visible()
