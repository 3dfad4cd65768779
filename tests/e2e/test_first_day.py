"""The first minute of a newcomer, and the first day with a real server, in a browser.

The first day is tried in both languages: a response, an outage, a restart.
"""

import json
import subprocess
import time
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.simulator import Simulator
from tests import llamacpp
from tests.browser import in_browser, log_in, look, watched_page
from tests.conftest import Install
from tests.router import RouterDash

pytestmark = in_browser

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
    return {name: locator.first.inner_text() for name, locator in zip(TOTALS, shown, strict=True) if locator.count()}


FIRST_ANSWER_SECONDS = 60  # what the documentation promises, from the first page on
CHOSEN_PASSWORD = "a pass phrase of my own"


def test_a_newcomer_has_the_first_answer_within_a_minute(
    browser: Browser, install: Install, sim: Simulator, complaints: list[str]
) -> None:
    """The data directory is empty, the password is generated, and the address is typed without a scheme."""
    address = sim.add(kind="ollama", models=["qwen3:8b"]).url.removeprefix("http://")
    router = install(ROUTERDASH_DISCOVER_PORTS="1")
    for secret in ("ROUTERDASH_ADMIN_PASSWORD", "ROUTERDASH_BOOTSTRAP_API_KEY"):
        del router.environment[secret]
    router.start(restored=False)
    password = (router.data_dir / "initial-password").read_text().strip()
    for page in watched_page(browser, router, complaints):
        began = time.monotonic()
        page.goto("/")
        page.get_by_label("Username").fill("admin")
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in").click()
        for field, typed in (
            ("old_password", password),
            ("new_password1", CHOSEN_PASSWORD),
            ("new_password2", CHOSEN_PASSWORD),
        ):
            page.locator(f"[name={field}]").fill(typed)
        with page.expect_navigation():
            page.get_by_role("button", name="Change password").click()
        page.get_by_label("Or enter an address").fill(address)
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.locator("[data-just-added]")).to_contain_text(f"http://{address}")
        page.get_by_role("button", name="Create key").click()
        snippet = page.locator("#snippet-curl")
        expect(snippet).to_contain_text("qwen3:8b")
        done = subprocess.run(["/bin/sh", "-c", snippet.inner_text()], capture_output=True, text=True, timeout=60)
        seconds = time.monotonic() - began
        assert json.loads(done.stdout)["choices"][0]["message"]["content"], done
        expect(page.locator("[data-stat=total_requests]")).to_have_text("1")  # the page has become the overview
        print(f"first answer {seconds:.1f} s after the first page")
        assert seconds < FIRST_ANSWER_SECONDS


@pytest.mark.real
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
