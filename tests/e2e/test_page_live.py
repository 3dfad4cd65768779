"""The live page in a real browser, and requests of all gateways that an administrator cancels."""

import http.client
import json

import pytest
from playwright.sync_api import Page, expect

from benchmarks.simulator import Simulator
from tests.browser import in_browser, log_in
from tests.conftest import Install
from tests.router import RouterDash, until

pytestmark = in_browser


def test_a_running_request_is_shown_and_cancelled(
    page: Page, router: RouterDash, sim: Simulator, complaints: list[str]
) -> None:
    simulated = sim.add(tokens=100_000, tokens_per_second=50)
    endpoint = router.add(simulated, name="gpu-box")
    log_in(page, "/live")
    expect(page.get_by_text("No request is in flight.")).to_be_visible()
    with router.open_stream(max_tokens=100_000) as stream:
        row = page.locator("[data-kind=running] [data-request]")
        expect(row).to_have_count(1)
        expect(row).to_contain_text("gpu-box")
        expect(row).to_contain_text("Streaming")
        expect(row).to_contain_text("bootstrap")
        button = row.locator("[data-cancel]")
        button.press("Enter")
        expect(button).to_have_text("Confirm cancellation")
        expect(page.locator("[data-announcement]")).to_have_text("Confirm cancellation tiny")
        assert simulated.seen.cancelled == 0
        button.press("Enter")
        expect(page.get_by_role("heading", name="In flight")).to_be_focused()
        expect(row).to_have_count(0)
        assert b"An administrator cancelled this request." in stream.read()
    expect(page.locator("[data-announcement]")).to_have_text("The request was cancelled.")
    until(lambda: simulated.seen.cancelled == 1)
    assert router.counters(endpoint) == (0, 0, 0)
    (reported,) = router.get("/api/requests").json()["requests"]
    assert (reported["outcome"], reported["error"]) == ("cancelled", "an operator cancelled it")
    assert router.manage("reconcile").returncode == 0


def test_queued_requests_of_any_gateway_are_cancelled(begin: Install, sim: Simulator) -> None:
    router = begin(ROUTERDASH_WORKERS="2").start()
    simulated = sim.add(ttft=60.0)
    router.add(simulated, max_concurrency=1)
    clients = [http.client.HTTPConnection("127.0.0.1", router.port, timeout=60) for _ in range(8)]
    body = json.dumps({"model": "tiny", "messages": []})
    for client in clients:
        client.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {router.key}"})
    until(lambda: router.stats()["queued_requests"] == 7)
    live = until(lambda: (reported := router.get("/api/live").json())["waiting_total"] == 7 and reported)
    rows = [*live["waiting"], *live["running"]]  # of either worker, as the kernel distributes connections
    for row in rows:
        assert router.post(f"/api/live/{row['id']}/cancel").status == 202
    assert {client.getresponse().status for client in clients} <= {499}
    until(lambda: router.stats()["queued_requests"] == router.stats()["total_active_requests"] == 0)
    again = router.post(f"/api/live/{rows[0]['id']}/cancel")
    unknown = router.post("/api/live/0192a000-0000-7000-8000-000000000001/cancel")
    assert (again.status, unknown.status) == (202, 404)
    assert router.stats()["cancelled_requests"] == 8
    for client in clients:
        client.close()


@pytest.mark.usefixtures("complaints")
def test_the_page_is_readable_without_scripts(page: Page, router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add(tokens=100_000, tokens_per_second=20))
    log_in(page)
    state = page.context.storage_state()
    browser = page.context.browser
    assert browser is not None
    plain = browser.new_context(
        base_url=router.url, java_script_enabled=False, locale="en", storage_state=state
    ).new_page()
    with router.open_stream(max_tokens=100_000):
        until(lambda: router.get("/api/live").json()["running_total"] == 1)
        plain.goto("/live")
        expect(plain.locator("[data-kind=running] [data-request]")).to_have_count(1)
        expect(plain.get_by_role("link", name="Reload")).to_be_visible()
        assert not plain.locator("[data-cancel]").first.is_visible()
        plain.goto("/playground")
        expect(plain.get_by_text("The playground needs JavaScript.")).to_be_visible()
    plain.context.close()


def test_bulk_requests_are_marked_while_they_wait_and_in_the_history(
    page: Page, router: RouterDash, sim: Simulator
) -> None:
    simulated = sim.add(ttft=60.0)
    router.add(simulated, name="gpu-box", max_concurrency=1)
    body = json.dumps({"model": "tiny", "messages": [], "service_tier": "flex"})
    clients = [http.client.HTTPConnection("127.0.0.1", router.port, timeout=60) for _ in range(2)]
    for client in clients:
        client.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {router.key}"})
    log_in(page, "/live")
    expect(page.locator("[data-kind=waiting] [data-request]")).to_contain_text("Chat completions · Bulk")
    expect(page.locator("[data-kind=running] [data-request]")).to_contain_text("Chat completions · Bulk")
    live = router.get("/api/live").json()
    assert [row["queue_class"] for row in (*live["waiting"], *live["running"])] == ["bulk", "bulk"]
    for row in (*live["waiting"], *live["running"]):
        router.post(f"/api/live/{row['id']}/cancel")
    until(lambda: len(router.get("/api/requests?queue_class=bulk").json()["requests"]) == 2)
    page.goto("/requests?queue_class=bulk")
    expect(page.locator("body")).to_contain_text("Queue class")
    exported = router.get("/api/requests/export?format=csv").body.decode()
    assert "queue_class" in exported.splitlines()[0]
    assert ",bulk" in exported
    for client in clients:
        client.close()
