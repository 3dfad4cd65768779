"""Open pages show a pause of a provider and a missing path when they begin and when they end."""

import re

import pytest
from playwright.sync_api import Page, expect

from benchmarks.providers import Cloud, add
from benchmarks.simulator import Simulator
from tests.browser import in_browser, log_in
from tests.router import RouterDash, until

pytestmark = [*in_browser, pytest.mark.shared]

MODEL = "gpt-4o"
PAGES = ("/", "/endpoints", "/endpoints/{id}")


@pytest.fixture
def cloud(sim: Simulator) -> Cloud:
    return add(sim, "openai", models=[MODEL])


@pytest.fixture
def endpoint(router: RouterDash, cloud: Cloud) -> str:
    given = {"name": "cloud", "cloud_type": "openai", "base_url": cloud.base_url, "api_key": cloud.key}
    endpoint_id: str = router.post("/api/endpoints", {**given, "external": False}).json()["id"]
    until(lambda: router.serves(endpoint_id, 1) and router.lists(endpoint_id, 1), 20)
    return endpoint_id


@pytest.mark.parametrize("path", PAGES)
def test_a_pause_is_shown_while_a_page_is_open(
    page: Page, router: RouterDash, cloud: Cloud, endpoint: str, path: str
) -> None:
    log_in(page, path.format(id=endpoint))
    page.wait_for_selector("[data-live-sign][data-state=live]")
    place = page.locator("[data-part=head]" if "{id}" in path else f"[data-endpoint='{endpoint}']")
    pause = place.locator("[data-pause]")
    expect(pause).to_be_hidden()
    for fault, text in (("money", "no credit left"), ("key_refused", "API key rejected")):
        cloud.set(fault=fault)
        assert router.chat(MODEL).status in (429, 502)
        preview = router.get(f"/api/route?model={MODEL}").json()
        assert (preview["decision"], preview["endpoints"][0]["excluded"]) == (None, "paused")
        expect(pause).to_have_text(re.compile(rf"^\s*Paused until \d\d:\d\d:\d\d: {text}\s*$"))
        assert router.post(f"/api/endpoints/{endpoint}/reset-breaker").status == 200
        expect(pause).to_be_hidden()


@pytest.mark.parametrize("path", PAGES)
def test_a_missing_path_is_shown_while_a_page_is_open(
    page: Page, router: RouterDash, cloud: Cloud, endpoint: str, path: str
) -> None:
    log_in(page, path.format(id=endpoint))
    page.wait_for_selector("[data-live-sign][data-state=live]")
    place = page.locator("[data-part=head]" if "{id}" in path else f"[data-endpoint='{endpoint}']")
    expect(place.locator("[data-lacks]")).to_be_hidden()
    cloud.set(fault="path_unknown")
    router.chat(MODEL)
    assert router.get(f"/api/route?model={MODEL}").json()["decision"]["endpoint_ids"] == [endpoint]  # asked last
    expect(place.locator("[data-lacks]")).to_have_text(re.compile(r"^\s*Lacks /v1/chat/completions\s*$"))
