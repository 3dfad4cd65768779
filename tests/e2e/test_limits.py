"""Limits from the API, from SQL and from pages to the gateways, through the death of control, and back as gauges."""

import os
import signal
from typing import Any

import pytest
from playwright.sync_api import Page

from benchmarks.simulator import Simulator
from tests.browser import in_browser, log_in, look, violations
from tests.conftest import Install
from tests.router import RouterDash, command_of, until

pytestmark = [pytest.mark.timeout(180)]

OLLAMA: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hello."}]}


def limit(router: RouterDash, path: str = "everyone", **limits: Any) -> int:
    return router.request("PUT", f"/api/limits/{path}", limits).status


def key_id(router: RouterDash) -> str:
    ((key,),) = router.query("SELECT id FROM api_keys WHERE name = 'bootstrap'")
    return str(key)


def chat(router: RouterDash) -> int:
    return router.post("/v1/chat/completions", OLLAMA).status


@pytest.fixture
def limited(begin: Install, sim: Simulator) -> RouterDash:
    started = begin(ROUTERDASH_WORKERS="2").start()
    started.add(sim.add())
    return started


@pytest.mark.one_database
def test_an_acknowledged_limit_is_in_effect_in_every_gateway(limited: RouterDash) -> None:
    assert chat(limited) == 200
    for path in ("everyone", f"key/{key_id(limited)}"):
        assert limit(limited, path, requests=3) == 200
        assert [chat(limited) for _ in range(5)] == [200, 200, 200, 429, 429]
        assert limited.request("DELETE", f"/api/limits/{path}").status == 204
        assert {chat(limited) for _ in range(5)} == {200}


def test_a_limit_by_sql_is_in_effect(limited: RouterDash) -> None:
    limited.query("INSERT INTO limits (level, subject_id, requests) VALUES ('everyone', '', 1) RETURNING id")
    until(lambda: chat(limited) == 429)
    limited.query("DELETE FROM limits RETURNING id")
    until(lambda: chat(limited) == 200)


def test_a_deleted_key_takes_its_limits_with_it(limited: RouterDash) -> None:
    limit(limited, f"key/{key_id(limited)}", requests=600)
    limited.query("INSERT INTO limits (level, subject_id, requests) VALUES ('key', 'gone', 1) RETURNING id")
    assert len(limited.query("SELECT id FROM limits")) == 2
    limited.query("DELETE FROM api_keys WHERE name = 'bootstrap' RETURNING id")
    assert limited.query("SELECT subject_id FROM limits") == [("gone",)]


def test_a_limit_survives_the_death_of_control(limited: RouterDash) -> None:
    """A saved row is published by the next control, if this one was killed in between."""
    (control,) = [pid for pid in limited.pids() if " control" in command_of(pid)]
    with limited.transaction() as execute:  # in which control cannot be stopped with the lock of SQLite
        execute("INSERT INTO limits (level, subject_id, requests) VALUES ('everyone', '', 1) RETURNING id")
        os.kill(control, signal.SIGSTOP)
    assert chat(limited) == 200
    os.kill(control, signal.SIGKILL)
    until(lambda: chat(limited) == 429, 30)


def test_limits_are_kept_through_a_restart(limited: RouterDash) -> None:
    limit(limited, requests=1)
    limited.stop()
    limited.query("UPDATE limits SET requests = 2 RETURNING id")
    limited.start()
    until(lambda: limited.get("/ready").status == 200)
    limits = limited.get("/api/limits/everyone").json()
    assert limits["requests"] == 2


@pytest.mark.timeout(180)
class TestPages:
    pytestmark = in_browser

    def test_gauges_follow_the_use(self, router: RouterDash, sim: Simulator, page: Page) -> None:
        router.add(sim.add())
        key = key_id(router)
        limit(router, f"key/{key}", requests=600, budgets=[{"unit": "tokens", "period": "day", "amount": 90_000}])
        log_in(page, f"/keys/{key}")
        gauge = page.locator("#limits").locator("xpath=ancestor::section").locator("output")
        assert gauge.all_inner_texts() == ["0"]
        for _ in range(3):
            assert chat(router) == 200
        until(lambda: gauge.all_inner_texts() == ["3"])
        (used,) = router.get("/api/usage?by=key").json()["rows"]
        spent = f"{used['input_tokens'] + used['output_tokens']} tokens"
        assert spent != "0 tokens"
        until(lambda: page.get_by_text(spent, exact=True).is_visible())
        use = router.get(f"/api/limits/key/{key}/use").json()
        assert use["limits"] == [{"limit": "requests", "amount": 600, "used": 3, "waits": False}]
        assert f"{use['budgets'][0]['spent']} tokens" == spent
        assert router.post("/api/route", OLLAMA).json()["limits"]["decision"] == "admitted"
        limit(router, f"key/{key}", requests=3)
        (exceeded,) = router.post("/api/route", OLLAMA).json()["limits"]["exceeded"]
        assert (exceeded["level"], exceeded["limit"], exceeded["used"]) == ("key", "requests", "3")

    @pytest.mark.parametrize(("theme", "language"), [("light", "en"), ("dark", "ja")])
    def test_pages_of_limits(self, router: RouterDash, sim: Simulator, page: Page, theme: str, language: str) -> None:
        router.add(sim.add())
        key = key_id(router)
        budgets = [
            {"unit": "money", "period": "month", "amount": "25.5"},
            {"unit": "tokens", "period": "day", "amount": 9},
        ]
        assert chat(router) == 200
        ((user,),) = router.query("SELECT id FROM users WHERE username = 'admin'")
        for path in (f"key/{key}", f"user/{user}", "everyone"):
            assert limit(router, path, concurrency=4, requests=600, tokens=90_000, budgets=budgets) == 200
        for _ in range(3):
            router.post("/v1/chat/completions", OLLAMA)
        log_in(page)
        faults = []
        until(lambda: any(item["kind"] == "unpriced" for item in router.get("/api/dashboard/attention").json()), 60)
        forms = (f"key/{key}", f"user/{user}", "everyone", f"everyone?from={key}", f"keys?ids={key}")
        for path in ("/", f"/keys/{key}", "/limits", *(f"/limits/{form}" for form in forms)):
            for width in (1440, 390):
                look(page, theme=theme, language=language, width=width)
                page.goto(path)
                faults += violations(page)
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
                if folder := os.environ.get("SCREENSHOTS"):
                    name = path.strip("/").replace("/", "-").replace("?", "-").replace(key, "k").replace(str(user), "u")
                    page.screenshot(path=f"{folder}/{name}-{theme}-{width}.png", full_page=True)
        assert faults == []

    def test_limits_are_entered_in_the_form(self, router: RouterDash, page: Page) -> None:
        log_in(page, "/limits/everyone")
        page.get_by_label("requests a minute").first.fill("60")
        page.get_by_label("Amount").fill("25.5")
        page.get_by_label("Unit").select_option("money")
        page.get_by_role("button", name="Save").click()
        page.wait_for_url("**/limits")
        limits = router.get("/api/limits/everyone").json()
        assert (limits["requests"], limits["budgets"][0]["amount"]) == (60, "25.5")
