"""The playground in a real browser: what it shows is what the figures count."""

import base64
import re

import pytest
from playwright.sync_api import Page, expect

from benchmarks.simulator import Simulator
from metrics.templatetags.figures import duration, speed
from tests.browser import in_browser, log_in
from tests.router import RouterDash, until

pytestmark = in_browser


@pytest.fixture
def router(emptied: RouterDash) -> RouterDash:
    return emptied


PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


def asked(router: RouterDash) -> int:
    """Requests that were counted under the playground's name."""
    rows = router.get("/api/usage?by=key").json()["rows"]
    return sum(row["requests"] for row in rows if row["api_key_name"] == "playground (admin)")


def say(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Control+Enter")


def test_an_answer_streams_and_is_counted(page: Page, router: RouterDash, sim: Simulator) -> None:
    simulated = sim.add(tokens=12, tokens_per_second=20, ttft=0.1)
    endpoint = router.add(simulated, name="gpu-box")
    before = asked(router)
    log_in(page, "/playground?model=tiny")
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.55")
    page.get_by_label("Max tokens").fill("10")
    say(page, "Hello?")
    by = page.locator(".by")
    expect(by).to_contain_text("gpu-box · 10 tokens")
    expect(page.locator("[data-tokens]")).to_have_text("10")
    (told,) = router.get("/api/requests?limit=1").json()["requests"]
    expect(page.locator("[data-speed]")).to_have_text(speed(told["tokens_per_second"]))
    expect(page.locator("[data-first]")).to_have_text(duration(told["first_token_ms"]))
    expect(by).to_contain_text(duration(told["duration_ms"]))
    assert router.counters(endpoint) == (1, 1, 0)
    sent = simulated.seen.bodies[-1]
    assert (sent["temperature"], sent["max_tokens"], sent["stream"]) == (0.55, 10, True)
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    say(page, "And then?")
    expect(by).to_have_count(2)
    expect(by.last).to_contain_text("10 tokens")
    assert [it["role"] for it in simulated.seen.bodies[-1]["messages"]] == ["system", "user", "assistant", "user"]
    assert asked(router) == before + 2
    by.last.get_by_role("link", name="Details").click()
    page.wait_for_url("**/requests/*")


def test_two_endpoints_side_by_side(page: Page, router: RouterDash, sim: Simulator) -> None:
    fast, slow = sim.add(tokens=20, tokens_per_second=200), sim.add(tokens=20, tokens_per_second=40)
    left, right = router.add(fast, name="fast"), router.add(slow, name="slow")
    log_in(page, f"/playground?model=tiny&left={left}&right={right}")
    say(page, "Who is first?")
    expect(page.locator(".by")).to_have_count(2)
    expect(page.locator(".by").first).to_contain_text("× faster")
    expect(page.locator(".by").last).to_contain_text("slow · 20 tokens")
    assert (fast.seen.finished, slow.seen.finished) == (1, 1)
    reasons = {row["attempts"][0]["reason"] for row in router.get("/api/requests?limit=2").json()["requests"]}
    assert reasons == {"pinned"}
    page.get_by_role("button", name="One").click()
    page.wait_for_url(f"**/playground?model=tiny&left={left}")
    # What is asked of one alone is known to the other when both are asked again: else they would not be compared.
    say(page, "And now?")
    expect(page.locator(".by").last).to_contain_text("fast · 20 tokens")
    page.get_by_role("button", name="Side by side").click()
    say(page, "And again?")
    expect(page.locator(".by").last).to_contain_text("slow · 20 tokens")
    assert slow.seen.bodies[-1]["messages"] == fast.seen.bodies[-1]["messages"]
    assert len(slow.seen.bodies[-1]["messages"]) == 5


def test_it_goes_on_after_a_login_in_another_tab(page: Page, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add())
    log_in(page, "/playground")
    other = page.context.new_page()
    other.goto(f"{router.url}/")
    other.get_by_role("button", name="Log out").click()
    other.wait_for_url("**/login**")
    log_in(other)
    other.wait_for_url(f"{router.url}/")
    say(page, "Still there?")
    expect(page.locator(".by")).to_contain_text("tokens")


def test_an_answer_is_stopped_and_a_page_left(page: Page, router: RouterDash, sim: Simulator) -> None:
    simulated = sim.add(tokens=100_000, tokens_per_second=50)
    router.add(simulated)
    before = router.stats()["cancelled_requests"]
    log_in(page, "/playground")
    say(page, "Go on for ever.")
    expect(page.locator("[data-tokens]")).to_have_text(re.compile(r"^\d+$"))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".by")).to_contain_text("stopped")
    until(lambda: simulated.seen.cancelled == 1)
    say(page, "Once more.")
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
    say(page, "What is it?")
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
    say(page, "Still there?")
    expect(page.locator(".it .st-error")).to_contain_text("The endpoint failed")
    assert "502" in complaints.pop()
    # What was not answered is no part of the conversation; it can be asked again.
    expect(page.get_by_label("Message")).to_have_value("Still there?")
    simulated.set(fault="")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".by").nth(2)).to_contain_text("tokens")
    messages = simulated.seen.bodies[-1]["messages"]
    assert [it["role"] for it in messages] == ["user", "assistant", "user"]
    assert messages[-1]["content"] == "Still there?"


def test_a_parameter_that_makes_no_sense_is_not_left_out(page: Page, router: RouterDash, sim: Simulator) -> None:
    simulated = sim.add()
    router.add(simulated)
    log_in(page, "/playground")
    page.get_by_label("Temperature").fill("9")
    say(page, "Hello?")
    expect(page.get_by_label("Temperature")).to_be_focused()
    expect(page.get_by_label("Message")).to_have_value("Hello?")
    page.get_by_label("Temperature").fill("")
    page.get_by_label("Message").press("Control+Enter")
    expect(page.locator(".by")).to_contain_text("tokens")
    assert len(simulated.seen.bodies) == 1
