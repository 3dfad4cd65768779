"""The playground in a real browser: it shows the figures that are counted."""

import base64
import re

import pytest
from playwright.sync_api import Page, expect

from benchmarks.simulator import Simulator
from metrics.templatetags.figures import duration, speed
from tests.browser import in_browser, log_in
from tests.router import RouterDash, until

pytestmark = [*in_browser, pytest.mark.shared]


PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


def counted_requests(router: RouterDash) -> int:
    """Return requests counted under the name of the playground."""
    rows = router.get("/api/usage?by=key").json()["rows"]
    return sum(row["requests"] for row in rows if row["api_key_name"] == "playground (admin)")


def send(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Control+Enter")


def hint(page: Page) -> str:
    """Return the text that the empty conversation shows; `none` when it shows none."""
    log = page.get_by_role("log")
    return str(log.evaluate("log => getComputedStyle(log, '::before').content"))


def test_an_empty_conversation_shows_a_hint(page: Page, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add(tokens=3), name="gpu-box")
    log_in(page, "/playground?model=tiny")
    assert "appear here" in hint(page)
    send(page, "Hello?")
    expect(page.locator(".by")).to_contain_text("3 tokens")
    assert hint(page) == "none"


def test_a_response_is_streamed_and_counted(page: Page, router: RouterDash, sim: Simulator) -> None:
    simulated = sim.add(tokens=12, tokens_per_second=20, ttft=0.1)
    endpoint = router.add(simulated, name="gpu-box")
    before = counted_requests(router)
    log_in(page, "/playground?model=tiny")
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.55")
    page.get_by_label("Max tokens").fill("10")
    send(page, "Hello?")
    by = page.locator(".by")
    expect(by).to_contain_text("gpu-box · 10 tokens")
    expect(page.locator("[data-tokens]")).to_have_text("10")
    (reported,) = router.get("/api/requests?limit=1").json()["requests"]
    expect(page.locator("[data-speed]")).to_have_text(speed(reported["tokens_per_second"]))
    expect(page.locator("[data-first]")).to_have_text(duration(reported["first_token_ms"]))
    expect(by).to_contain_text(duration(reported["duration_ms"]))
    assert router.counters(endpoint) == (1, 1, 0)
    sent = simulated.seen.bodies[-1]
    assert (sent["temperature"], sent["max_tokens"], sent["stream"]) == (0.55, 10, True)
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    send(page, "And then?")
    expect(by).to_have_count(2)
    expect(by.last).to_contain_text("10 tokens")
    assert [message["role"] for message in simulated.seen.bodies[-1]["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    assert counted_requests(router) == before + 2
    by.last.get_by_role("link", name="Details").click()
    page.wait_for_url("**/requests/*")


def test_two_endpoints_side_by_side(page: Page, router: RouterDash, sim: Simulator) -> None:
    fast, slow = sim.add(tokens=20, tokens_per_second=200), sim.add(tokens=20, tokens_per_second=40)
    left, right = router.add(fast, name="fast"), router.add(slow, name="slow")
    log_in(page, f"/playground?model=tiny&left={left}&right={right}")
    send(page, "Who is first?")
    expect(page.locator(".by")).to_have_count(2)
    expect(page.locator(".by").first).to_contain_text("× faster")
    expect(page.locator(".by").last).to_contain_text("slow · 20 tokens")
    assert (fast.seen.finished, slow.seen.finished) == (1, 1)
    reasons = {row["attempts"][0]["reason"] for row in router.get("/api/requests?limit=2").json()["requests"]}
    assert reasons == {"pinned"}
    page.get_by_role("button", name="Single").click()
    page.wait_for_url(f"**/playground?model=tiny&left={left}")
    # A message to one endpoint is also in the conversation of the other: else the two would not be comparable.
    send(page, "And now?")
    expect(page.locator(".by").last).to_contain_text("fast · 20 tokens")
    page.get_by_role("button", name="Side by side").click()
    send(page, "And again?")
    expect(page.locator(".by").last).to_contain_text("slow · 20 tokens")
    assert slow.seen.bodies[-1]["messages"] == fast.seen.bodies[-1]["messages"]
    assert len(slow.seen.bodies[-1]["messages"]) == 5


def test_the_playground_works_again_after_a_login_in_another_tab(
    page: Page, router: RouterDash, sim: Simulator
) -> None:
    router.add(sim.add())
    log_in(page, "/playground")
    other = page.context.new_page()
    other.goto(f"{router.url}/")
    other.get_by_role("button", name="Log out").click()
    other.wait_for_url("**/login**")
    log_in(other)
    other.wait_for_url(f"{router.url}/")
    send(page, "Still there?")
    expect(page.locator(".by")).to_contain_text("tokens")


def test_a_response_is_cancelled_by_the_button_and_by_leaving_the_page(
    page: Page, router: RouterDash, sim: Simulator
) -> None:
    simulated = sim.add(tokens=100_000, tokens_per_second=50)
    router.add(simulated)
    before = router.stats()["cancelled_requests"]
    log_in(page, "/playground")
    send(page, "Go on for ever.")
    expect(page.locator("[data-tokens]")).to_have_text(re.compile(r"^\d+$"))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".by")).to_contain_text("stopped")
    until(lambda: simulated.seen.cancelled == 1)
    send(page, "Once more.")
    until(lambda: simulated.seen.running == 1)
    page.goto("/")
    until(lambda: simulated.seen.cancelled == 2)
    assert router.stats()["cancelled_requests"] == before + 2


def test_pictures_errors_and_code(page: Page, router: RouterDash, sim: Simulator, complaints: list[str]) -> None:
    simulated = sim.add()
    router.add(simulated, name="gpu-box")
    log_in(page, "/playground")
    page.locator("[data-pick]").set_input_files({"name": "dot.png", "mimeType": "image/png", "buffer": PIXEL})
    expect(page.get_by_role("img", name="dot.png")).to_be_visible()
    send(page, "What is it?")
    expect(page.locator(".by")).to_contain_text("gpu-box")
    text, picture = simulated.seen.bodies[-1]["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    page.get_by_role("button", name="Python").click()
    code = page.locator("#code")
    expect(code).to_have_value(re.compile(rf'base_url="{router.url}/v1"'))
    expect(code).to_have_value(re.compile(r"stream=True"))
    assert "sk_…" in code.input_value()
    assert PIXEL.hex() not in code.input_value()
    simulated.set(fault="500")
    send(page, "Still there?")
    expect(page.locator(".response .st-error")).to_contain_text("The endpoint failed")
    assert "502" in complaints.pop()
    # A message without a response is not part of the conversation; it can be sent again.
    expect(page.get_by_label("Message")).to_have_value("Still there?")
    simulated.set(fault="")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".by").nth(2)).to_contain_text("tokens")
    messages = simulated.seen.bodies[-1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[-1]["content"] == "Still there?"


def test_an_invalid_parameter_is_not_silently_dropped(page: Page, router: RouterDash, sim: Simulator) -> None:
    simulated = sim.add()
    router.add(simulated)
    log_in(page, "/playground")
    page.get_by_label("Temperature").fill("9")
    send(page, "Hello?")
    expect(page.get_by_label("Temperature")).to_be_focused()
    expect(page.get_by_label("Message")).to_have_value("Hello?")
    page.get_by_label("Temperature").fill("")
    page.get_by_label("Message").press("Control+Enter")
    expect(page.locator(".by")).to_contain_text("tokens")
    assert len(simulated.seen.bodies) == 1
