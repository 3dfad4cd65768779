"""Every page, found by the URL patterns, in both themes and both languages: no finding of axe, no browser error, no
other host, no horizontal scrolling and no squeezed text, on a phone and on a desktop.

New pages without arguments are included automatically; arguments with a new name need an entry in `EXAMPLES`.
"""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from benchmarks.simulator import Simulator
from tests.browser import in_browser, log_in, look, violations, watched_page
from tests.pages import BEFORE_LOGIN, admin_pages, admin_path, own_pages, path_of
from tests.router import RouterDash, until

pytestmark = [pytest.mark.timeout(600), *in_browser]  # the first timeout counts

MODEL = "a-model-with-quite-a-long-name/of-some-organisation"


def examples(
    endpoint_id: str, request_id: str, key_id: str, conversation: str, name_id: str, user_id: str
) -> dict[str, str]:
    """Return a value for each argument of a path."""
    return {
        "endpoint_id": endpoint_id,
        "request_id": request_id,
        "key_id": key_id,
        "user_id": user_id,
        "conversation": conversation,
        "name_id": name_id,
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
    """Endpoints with data, successful and failed requests, and one object for each argument of a path."""
    endpoint = shared_router.add(simulator.add(models=[MODEL]), name="東京ワークステーション-in-the-basement")
    for _ in range(3):
        shared_router.chat(model=MODEL)
    shared_router.chat(model="no-such-model")
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}
    for _ in range(2):
        assert shared_router.post("/v1/chat/completions", body, headers={"x-session-id": "one"}).status == 200
    (newest, *_rest) = until(lambda: shared_router.get("/api/requests").json()["requests"])
    ((key,),) = shared_router.query("SELECT id FROM api_keys")
    (conversation,) = until(lambda: shared_router.get("/api/conversations").json()["conversations"])
    name = {"name": "assistant", "steps": [{"targets": [{"model": MODEL}]}, {"targets": [{"model": "no-such-model"}]}]}
    made = shared_router.post("/api/model-names", name).json()
    ((user,),) = shared_router.query("SELECT id FROM users")
    limits = {"concurrency": 4, "requests": 600, "budgets": [{"unit": "money", "period": "month", "amount": "25.5"}]}
    for path in (f"key/{key}", f"user/{user}", "everyone"):
        assert shared_router.request("PUT", f"/api/limits/{path}", limits).status == 200
    return examples(endpoint, newest["id"], str(key), conversation["conversation"], made["id"], str(user))


@pytest.fixture
def visitor(browser: Browser, shared_router: RouterDash, complaints: list[str]) -> Iterator[Page]:
    yield from watched_page(browser, shared_router, complaints)


def paths(known: dict[str, str]) -> list[str]:
    pages = [page for page in own_pages() if page.name not in BEFORE_LOGIN]
    of_admin = (admin_path(name, argument, known) for name, argument in admin_pages())
    also = ["/api/docs/", "/search?q=a", "/no-such-page"]
    return list(dict.fromkeys([*(path_of(page, known) for page in pages), *also, *of_admin]))


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def too_wide(page: Page, path: str) -> Iterator[str]:
    """Return elements that are too wide on a desktop or a phone, and squeezed texts."""
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        try:  # charts follow the window size a moment later
            until(lambda: fits(page), 5)
        except AssertionError:
            yield f"{path}: wider than {width}"
        yield from squeezed(page, path)


# Texts with fewer than three characters per line; labels of the bottom bar and short headings that overflow.
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
    """Return the faults of this page; axe runs in the narrow window."""
    yield from too_wide(page, path)
    yield from (f"{path}: {violation}" for violation in violations(page))


def settled(page: Page, path: str) -> None:
    response = page.goto(path)
    assert response is not None
    assert response.status == (404 if path == "/no-such-page" else 200), path
    assert "text/html" in response.headers["content-type"], path


# Colours depend on the theme, words on the language: the other two combinations would add nothing.
@pytest.mark.parametrize(("theme", "language"), [("light", "en"), ("dark", "ja")])
def test_every_page(visitor: Page, served: dict[str, str], complaints: list[str], theme: str, language: str) -> None:
    visitor.goto("/login")
    look(visitor, theme=theme, language="en", width=1440)
    log_in(visitor)
    look(visitor, theme=theme, language=language, width=1440)
    problems: list[str] = []
    for path in paths(served):
        settled(visitor, path)
        root = visitor.locator("html")
        assert (root.get_attribute("data-theme"), root.get_attribute("lang")) == (theme, language), path
        problems += faults(visitor, path)
        problems += [
            f"{path}: {text}" for text in complaints if "404 (Not Found)" not in text or path != "/no-such-page"
        ]
        complaints.clear()
    assert problems == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_login(visitor: Page, theme: str) -> None:
    visitor.goto("/login")
    look(visitor, theme=theme, language="ja", width=1440)
    visitor.goto("/login")
    assert list(faults(visitor, "/login")) == []
