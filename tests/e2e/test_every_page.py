"""Every page there is, found by the paths themselves, in either theme and in either language: nothing wrong for axe, no
complaint of the browser, no other host, nothing that scrolls sideways or is squeezed, on a phone and on a desk.

A new page without arguments is taken in by itself; for arguments of a new name `EXAMPLES` needs one.
"""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from benchmarks.simulator import Simulator
from tests.browser import in_browser, log_in, look, violations, watched_page
from tests.pages import BEFORE_LOGIN, admin_pages, admin_path, own_pages, path_of
from tests.router import RouterDash, until

pytestmark = [*in_browser, pytest.mark.timeout(600)]

MODEL = "a-model-with-quite-a-long-name/of-some-organisation"


def examples(endpoint_id: str, request_id: str, key_id: str) -> dict[str, str]:
    """A value for each argument that a path may take."""
    return {
        "endpoint_id": endpoint_id,
        "request_id": request_id,
        "key_id": key_id,
        "api_key_id": key_id,
        "model": MODEL,
        "model_id": MODEL,
        "name": MODEL,
        "client": "127.0.0.1",
        "client_ip": "127.0.0.1",
        "address": "127.0.0.1",
    }


@pytest.fixture(scope="module")
def served(shared_router: RouterDash, simulator: Simulator) -> dict[str, str]:
    """Endpoints with something to show, requests that went well and not, and one of each for a path to name."""
    endpoint = shared_router.add(simulator.add(models=[MODEL]), name="東京ワークステーション-in-the-basement")
    for _ in range(3):
        shared_router.chat(model=MODEL)
    shared_router.chat(model="no-such-model")
    (newest, *_rest) = until(lambda: shared_router.get("/api/requests").json()["requests"])
    ((key,),) = shared_router.query("SELECT id FROM api_keys")
    return examples(endpoint, newest["id"], str(key))


@pytest.fixture
def visitor(browser: Browser, shared_router: RouterDash, complaints: list[str]) -> Iterator[Page]:
    yield from watched_page(browser, shared_router, complaints)


def paths(known: dict[str, str]) -> list[str]:
    pages = [it for it in own_pages() if it.name not in BEFORE_LOGIN]
    of_admin = (admin_path(name, argument, known) for name, argument in admin_pages())
    also = ["/api/docs/", "/search?q=a", "/no-such-page"]
    return list(dict.fromkeys([*(path_of(it, known) for it in pages), *also, *of_admin]))


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def too_wide(page: Page, path: str) -> Iterator[str]:
    """On a desk, then on a phone; nor may any text be squeezed there."""
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        try:  # charts follow the window a moment later
            until(lambda: fits(page), 5)
        except AssertionError:
            yield f"{path}: wider than {width}"
        yield from squeezed(page, path)


# Texts with less than three characters a line; words of the bar below and short headings wider than their place.
SQUEEZED = """() => {
  const words = [...document.querySelectorAll(".tabbar > a, .tabbar summary, .top h1")];
  const found = words.filter(it => it.scrollWidth > it.clientWidth && it.textContent.trim().length < 10);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  while (texts.nextNode()) {
    range.selectNodeContents(texts.currentNode);
    const lines = new Set([...range.getClientRects()].map(it => Math.round(it.top))).size;
    if (lines > 3 && texts.currentNode.data.trim().length < 3 * lines) found.push(texts.currentNode);
  }
  return found.map(it => it.textContent.trim());
}"""


def squeezed(page: Page, path: str) -> list[str]:
    return [f"{path}: squeezed {text!r}" for text in page.evaluate(SQUEEZED)]


def faults(page: Page, path: str) -> Iterator[str]:
    """What is wrong with this page; what axe says is asked where there is less room."""
    yield from too_wide(page, path)
    yield from (f"{path}: {it}" for it in violations(page))


def settled(page: Page, path: str) -> None:
    answer = page.goto(path)
    assert answer is not None
    assert answer.status == (404 if path == "/no-such-page" else 200), path
    assert "text/html" in answer.headers["content-type"], path


# Colours are those of the theme, words those of the language: the two other pairs have nothing that is in neither.
@pytest.mark.parametrize(("theme", "language"), [("light", "en"), ("dark", "ja")])
def test_every_page(visitor: Page, served: dict[str, str], complaints: list[str], theme: str, language: str) -> None:
    visitor.goto("/login")
    look(visitor, theme=theme, language="en", width=1440)
    log_in(visitor)
    look(visitor, theme=theme, language=language, width=1440)
    found: list[str] = []
    for path in paths(served):
        settled(visitor, path)
        root = visitor.locator("html")
        assert (root.get_attribute("data-theme"), root.get_attribute("lang")) == (theme, language), path
        found += faults(visitor, path)
        found += [f"{path}: {text}" for text in complaints if "404 (Not Found)" not in text or path != "/no-such-page"]
        complaints.clear()
    assert found == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_login(visitor: Page, theme: str) -> None:
    visitor.goto("/login")
    look(visitor, theme=theme, language="ja", width=1440)
    visitor.goto("/login")
    assert list(faults(visitor, "/login")) == []
