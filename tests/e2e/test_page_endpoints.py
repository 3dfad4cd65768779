"""The first minute, adding, selecting and changing endpoints in a real browser."""

import re
from http import HTTPStatus

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.simulator import Simulator
from tests.browser import in_browser, log_in, look, violations
from tests.conftest import Install
from tests.router import RouterDash, free_port

pytestmark = in_browser


@pytest.fixture
def router(begin: Install, sim: Simulator) -> RouterDash:
    """A router whose discovery looks at a simulated Ollama, at a closed port and at RouterDash itself."""
    ollama = sim.add(kind="ollama", models=["qwen3:8b", "nomic-embed-text"])
    made = begin()
    ports = (ollama.url.rsplit(":", 1)[1], str(free_port()), str(made.port))
    made.environment["ROUTERDASH_DISCOVER_PORTS"] = ",".join(ports)
    return made.start()


def key_in(page: Page) -> str:
    return page.locator("[data-new-key]").input_value()


def test_the_first_minute(page: Page, router: RouterDash) -> None:
    log_in(page)
    expect(page.locator("#found li")).to_have_count(2)  # the server and the closed port, but not RouterDash itself
    page.get_by_role("button", name="Add Ollama").click()
    expect(page.locator("[data-just-added]")).to_contain_text("Ollama was added.")
    page.get_by_role("button", name="Create key").click()
    snippet = page.locator("#snippet-curl")
    expect(snippet).to_contain_text(f"curl {router.url}/v1/chat/completions")
    expect(snippet).to_contain_text(f"Bearer {key_in(page)}")
    expect(snippet).to_contain_text('"model": "qwen3:8b"')
    assert router.post("/v1/chat/completions", _body(snippet.inner_text()), key=key_in(page)).status == 200
    expect(page.locator("[data-endpoint]")).to_have_count(1)  # the page has become the overview
    expect(page.locator("[data-stat=total_requests]")).to_have_text("1")


def _body(snippet: str) -> dict[str, object]:
    match = re.search(r'"model": "([^"]+)"', snippet)
    assert match is not None
    return {"model": match[1], "messages": [{"role": "user", "content": "Hello"}]}


def test_an_address_is_added_on_the_first_page(
    page: Page, router: RouterDash, sim: Simulator, complaints: list[str]
) -> None:
    log_in(page, "/endpoints")
    address = page.get_by_label("Or enter an address")
    address.fill("http://127.0.0.1:1")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("[data-refused]")).to_have_text(re.compile("connection refused"))
    assert f"422 ({HTTPStatus(422).phrase})" in complaints.pop()  # Python 3.13 has another phrase
    address.fill(sim.add(kind="vllm").url)
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("[data-added] li")).to_contain_text("vLLM was added.")


def test_the_form_shows_the_type_of_a_server_before_it_is_saved(
    page: Page, router: RouterDash, sim: Simulator, complaints: list[str]
) -> None:
    simulated = sim.add(kind="llamacpp", models=["llama-3.1-8b"], slots=4, api_key="sk-upstream")
    log_in(page, "/endpoints/add")
    page.get_by_label("Address").fill(f"{simulated.url}/v1")
    page.keyboard.press("Tab")
    expect(page.locator("[data-error-of=base_url]")).to_contain_text("the API key is missing or wrong")
    page.get_by_label("API key of the server").fill("sk-upstream")
    page.get_by_role("button", name="Detect").click()
    expect(page.locator("[data-kind]")).to_have_text("llama.cpp")
    expect(page.locator("[data-models]")).to_contain_text("llama-3.1-8b")
    expect(page.get_by_label("Name")).to_have_value("llamacpp")
    page.get_by_label("Tags").fill("tokyo, rack 3")
    page.get_by_role("button", name="Add endpoint").click()
    page.wait_for_url(re.compile(r"/endpoints/[0-9a-f-]{36}$"))
    (stored,) = router.get("/api/endpoints").json()["endpoints"]
    assert (stored["name"], stored["has_api_key"], stored["tags"]) == ("llamacpp", True, ["tokyo", "rack 3"])
    assert "400 (Bad Request)" in complaints.pop()


def test_moving_from_the_address_to_the_button_sends_one_request(
    page: Page, router: RouterDash, sim: Simulator
) -> None:
    questions = []
    page.on("request", lambda request: questions.append(request.url) if request.url.endswith("/detect") else None)
    log_in(page, "/endpoints/add")
    page.get_by_label("Address").fill(sim.add(models=["a" * 60, "b"]).url)
    page.get_by_role("button", name="Detect").click()
    expect(page.locator("[data-models] li")).to_have_count(2)
    assert len(questions) == 1
    widths = page.locator("[data-models] li").evaluate_all("rows => rows.map(it => it.offsetWidth)")
    assert widths[0] == widths[1]  # rows, not running text


def test_enter_adds_the_endpoint_except_in_the_address_field(page: Page, router: RouterDash, sim: Simulator) -> None:
    log_in(page, "/endpoints/add")
    page.get_by_label("Address").fill(sim.add(models=["tiny"]).url)
    page.keyboard.press("Enter")
    expect(page.locator("[data-models] li")).to_have_count(1)
    page.get_by_label("Name").fill("by keyboard")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/endpoints/[0-9a-f-]{36}$"))


def test_a_latency_and_its_age_are_updated(page: Page, router: RouterDash, sim: Simulator) -> None:
    simulated = sim.add()
    endpoint = router.add(simulated, name="gpu-box", health_check_interval_secs=3600)
    latency = str(router.endpoint(endpoint)["latency_ms"])
    log_in(page, "/endpoints")
    cell = page.locator("[data-endpoint] [data-latency]")
    expect(page.locator("[data-live-sign]")).to_have_attribute("data-state", "live")
    contains_the_new_figure = f"1{latency}"
    cell.evaluate("(it, text) => (it.firstChild.firstChild.data = text)", contains_the_new_figure)
    page.evaluate("document.dispatchEvent(new Event('part:swapped'))")
    expect(cell).to_have_text(f"{latency}ms")
    assert cell.locator(".unit").inner_text() == "ms"
    simulated.set(fault="refuse")
    for _ in range(2):
        router.post(f"/api/endpoints/{endpoint}/test")
    expect(page.locator(".st-offline")).to_be_visible()
    age = cell.locator("[data-age]")
    expect(age).to_have_text(re.compile(r"^\d+ s$"))
    expect(cell).to_have_class("stale")
    age.evaluate("it => (it.textContent = '')")
    expect(age).to_have_text(re.compile(r"^\d+ s$"), timeout=10_000)  # the update needs no reload


def test_endpoints_are_found_selected_and_drained(page: Page, router: RouterDash, sim: Simulator) -> None:
    slow = router.add(sim.add(tokens=1000, tokens_per_second=2, kind="vllm"), name="slow", tags=["tokyo"])
    router.add(sim.add(models=["other"]), name="other")
    log_in(page, "/endpoints?sort=name")
    rows = page.locator("[data-endpoint]")
    expect(rows).to_have_count(2)
    expect(rows.locator("[data-speed]")).to_have_text(["—", "—"])
    router.chat(model="other")
    expect(rows.locator("[data-speed]").first).not_to_have_text("—")
    page.get_by_label("Tag").select_option("tokyo")
    page.wait_for_url("**/endpoints?tag=tokyo&sort=name")
    expect(rows).to_have_count(1)
    page.locator("#q").fill("nobody")
    expect(page.get_by_text("No endpoint matches.")).to_be_visible()
    page.go_back()
    expect(rows).to_have_count(1)
    with router.open_stream():
        expect(rows.locator("[data-value=active_requests]")).to_have_text("1")
        page.get_by_label("Select all on this page").check()
        expect(page.locator("[data-chosen]")).to_have_text("1 selected")
        page.get_by_role("button", name="Drain…").click()
        expect(page.get_by_text("1 request is running there.")).to_be_visible()
        page.get_by_label("Running requests").select_option("1800")
        page.get_by_role("button", name="Drain", exact=True).click()
        page.wait_for_url("**/endpoints?tag=tokyo&sort=name")
        expect(page.get_by_text("Draining started: slow")).to_be_visible()
        expect(rows.locator(".st-draining")).to_be_visible()
    router.post(f"/api/endpoints/{slow}/enable")
    expect(rows.locator(".st-online")).to_be_visible()


def test_everything_works_without_scripts(browser: Browser, router: RouterDash, sim: Simulator) -> None:
    context = browser.new_context(base_url=router.url, java_script_enabled=False, locale="en")
    page = context.new_page()
    log_in(page, "/endpoints/discover")
    page.get_by_role("button", name="Theme").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.get_by_role("button", name="Discover servers").click()
    page.get_by_role("button", name="Add Ollama").click()
    expect(page.get_by_text("ollama was added.")).to_be_visible()
    page.goto("/endpoints/add")
    page.get_by_label("Address").fill(sim.add(kind="vllm", models=["tiny"]).url)
    page.get_by_role("button", name="Detect").click()
    expect(page.locator("[data-kind]")).to_have_text("vLLM")
    page.get_by_role("button", name="Add endpoint").click()
    page.goto("/endpoints")
    page.get_by_label("Type").select_option("vllm")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("[data-endpoint]")).to_have_count(1)
    page.locator("input[name=endpoint]").check()
    page.get_by_role("button", name="Test").click()
    expect(page.get_by_text("1 endpoint responded.")).to_be_visible()
    page.locator("input[name=endpoint]").check()
    page.get_by_role("button", name="Reset breaker…").click()
    page.get_by_role("button", name="Reset circuit breaker").click()
    expect(page.get_by_text("Circuit breaker reset: ")).to_be_visible()
    page.goto("/keys")
    page.get_by_role("button", name="Create key").click()
    assert router.get("/v1/models", key=key_in(page)).status == 200
    page.get_by_role("link", name="Delete my laptop…").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Deleted: my laptop.")).to_be_visible()
    context.close()


def test_pages_are_accessible_and_fit_every_screen(page: Page, router: RouterDash, sim: Simulator) -> None:
    log_in(page)
    faults: list[str] = []

    def walk(*paths: str) -> None:
        for theme, language, width in (("light", "en", 1440), ("dark", "ja", 390)):
            look(page, theme=theme, language=language, width=width)
            for path in paths:
                page.goto(path)
                if path == "/endpoints/discover":
                    expect(page.locator("#found li")).to_have_count(2)
                faults.extend(f"{path} {theme}: {violation}" for violation in violations(page))
                assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)

    walk("/", "/endpoints", "/endpoints/add", "/endpoints/discover", "/keys")
    model = "a-model-with-quite-a-long-name/of-some-organisation"
    router.add(sim.add(models=[model]), name="a-machine-with-a-rather-long-name-in-the-basement", tags=["a-long-tag"])
    walk("/endpoints", "/endpoints?q=nobody")
    assert faults == []
