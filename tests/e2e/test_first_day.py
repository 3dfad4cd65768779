"""The first day with a real server, in a browser and in both languages: a response, an outage, a restart."""

from contextlib import ExitStack

import pytest
from playwright.sync_api import Page, expect

from tests import llamacpp
from tests.browser import in_browser, log_in, look
from tests.conftest import Install
from tests.router import RouterDash

pytestmark = [*in_browser, pytest.mark.real]

MODEL = "tiny-random"
TOTALS = ("today_requests", "total_requests", "total_output_tokens", "success_rate")


@pytest.fixture
def server() -> ExitStack:
    """A llama.cpp server that runs until it is closed."""
    return ExitStack()


@pytest.fixture
def router(install: Install, server: ExitStack) -> RouterDash:
    """A router whose discovery looks at the port of that server."""
    tiny = llamacpp.tiny_model(llamacpp.environment("llamacpp", llamacpp.HERE / "requirements.txt"))
    url = server.enter_context(llamacpp.llama_server(tiny, MODEL))
    made = install()
    made.environment["ROUTERDASH_DISCOVER_PORTS"] = url.rsplit(":", 1)[1]
    return made.start()


def figures(page: Page) -> dict[str, str]:
    shown = [page.locator(f"[data-stat={name}]") for name in TOTALS]
    return {name: it.first.inner_text() for name, it in zip(TOTALS, shown, strict=True) if it.count()}


@pytest.mark.parametrize(("language", "hello"), [("en", "Hello!"), ("ja", "こんにちは")])
def test_the_first_day(
    page: Page, router: RouterDash, server: ExitStack, complaints: list[str], language: str, hello: str
) -> None:
    with server:
        log_in(page)
        look(page, theme="light", language=language, width=1440)
        page.goto("/")
        expect(page.locator("html")).to_have_attribute("lang", language)
        page.locator("#found form button").click()  # the discovered servers
        expect(page.locator("[data-just-added]")).to_contain_text("llama.cpp")
        page.locator("#first-key form button").click()
        key = page.locator("[data-new-key]").input_value()
        assert router.get("/v1/models", key=key).status == 200
        expect(page.locator("#snippet-curl")).to_contain_text(MODEL)  # as soon as its models are known

        overview = page.context.new_page()
        overview.goto("/")
        overview.wait_for_selector("[data-live-sign][data-state=live]")
        page.goto(f"/playground?model={MODEL}")
        page.locator("#max-tokens").fill("16")
        page.locator("#message").fill(hello)
        page.locator("[data-send]").click()
        expect(page.locator(".by")).to_contain_text("16", timeout=30_000)
        # The first page has become the overview without a reload.
        expect(overview.locator("[data-stat=today_requests]")).to_have_text("1")
        expect(overview.locator("[data-endpoint]")).to_have_count(1)

    # The server has stopped.
    endpoint = overview.locator("[data-endpoint]").get_attribute("data-endpoint")
    for _ in range(2):
        router.post(f"/api/endpoints/{endpoint}/test")
    expect(overview.locator("[data-status]")).to_have_class("st st-offline")
    expect(overview.locator("[data-latency]")).to_contain_text("ms")
    before = figures(overview)
    assert before["today_requests"] == "1"

    overview.evaluate("window.loadedOnce = true")
    assert router.stop() == 0
    overview.wait_for_selector("[data-live-sign]:not([data-state=live])")
    router.start()
    overview.wait_for_selector("[data-live-sign][data-state=live]")
    assert figures(overview) == before
    expect(overview.locator("[data-status]")).to_have_class("st st-offline")
    assert overview.evaluate("window.loadedOnce") is True
    # It was offline for a moment.
    complaints[:] = [text for text in complaints if "Failed to load resource" not in text]
