"""Pages in a real browser, for tests of any package: `pytestmark = in_browser`, and the fixture `page`."""

from collections.abc import Iterator
from importlib.resources import files

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from tests import programs
from tests.router import PASSWORD, RouterDash

CHROMIUM = programs.find("chromium")

in_browser = [
    pytest.mark.timeout(180),
    pytest.mark.one_database,
    pytest.mark.unmeasured,  # these test scripts and styles; the tracer would slow down all processes behind them
    pytest.mark.needs("chromium"),
    # Playwright's event loop is not closed when its greenlet ends.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield running
        running.close()


@pytest.fixture
def complaints() -> list[str]:
    """Messages of the browser's console, errors of scripts, and requests to other hosts."""
    return []


@pytest.fixture
def page(browser: Browser, router: RouterDash, complaints: list[str]) -> Iterator[Page]:
    """A new browser's page. Any complaint fails the test at its end."""
    yield from watched_page(browser, router, complaints)


def watched_page(browser: Browser, router: RouterDash, complaints: list[str]) -> Iterator[Page]:
    context = browser.new_context(base_url=router.url, locale="en")
    opened = context.new_page()

    def note_message(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def note_request(request: Request) -> None:
        if not request.url.startswith((router.url, "data:", "blob:")):
            complaints.append(f"asked {request.url}")

    opened.on("console", note_message)
    opened.on("request", note_request)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    context.close()
    assert complaints == []


def log_in(page: Page, path: str = "/") -> None:
    page.goto(path)
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    with page.expect_navigation():  # until the scripts of the next page run: clicks before that would submit its forms
        page.get_by_role("button", name="Log in").click()


def violations(page: Page) -> list[str]:
    """Return the violations that axe finds in the page: the rule, and the element."""
    if page.evaluate("typeof axe === 'undefined'"):
        page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    broken_rules = page.evaluate("axe.run(document, {resultTypes: ['violations'], preload: false})")["violations"]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in broken_rules for node in rule["nodes"]]


def look(page: Page, *, theme: str, language: str, width: int) -> None:
    """Set the theme (`light`, `dark`), the language (`en`, `ja`) and the width in pixels, from the next page on."""
    url = page.url.split("/", 3)
    base = "/".join(url[:3])
    for name, value in (("routerdash_theme", theme), ("routerdash_language", language)):
        page.context.add_cookies([{"name": name, "value": value, "url": base}])
    page.set_viewport_size({"width": width, "height": 900})
