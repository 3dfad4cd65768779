"""An installation of an earlier release starts with the present code: nothing is lost, and nothing counts twice."""

import re
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.utils.module_loading import import_string

from benchmarks.simulator import Simulator
from tests import programs
from tests.router import RouterDash, until
from tests.upgrades import archives, entries
from tests.upgrades.archives import SETTINGS

pytestmark = [pytest.mark.one_database, pytest.mark.timeout(180)]


class Upgraded:
    """One archive, served by the present code, beside simulated servers with the models of its endpoints."""

    def __init__(self, archive: Path, directory: Path, simulator: Simulator) -> None:
        self.manifest = archives.manifest_of(archive)
        self.keys = {name: key["key"] for name, key in self.manifest["keys"].items()}
        self.router = RouterDash(directory, **SETTINGS)
        self.router.key = self.keys["ops"]
        archives.unpack(archive, self.router.data_dir)
        self.machine_paths = archives.machine_paths(self.router.data_dir)
        late = datetime.fromisoformat(self.manifest["made"]) - datetime.now(UTC)
        if late > timedelta(0):  # the clock of this machine is behind: the archive would be of the future
            programs.need("cc")
            self.router.environment |= archives.shifted_clock(directory, int(late.total_seconds()) + 60)
        # Ports of the archive may be taken here. All else stays as the earlier release stored it.
        for name, behaviour in self.manifest["servers"].items():
            url = simulator.add(**behaviour).url
            self.router.query("UPDATE endpoints SET base_url = ? WHERE name = ?", url, name)
        self.tasks = [row[0] for row in self.router.query("SELECT func FROM django_q_schedule")]
        learned = "SELECT count(*) FROM django_migrations WHERE name LIKE '%learning%'"
        self.was_adaptive = self.router.query(learned)[0][0] > 0
        self.queued = self.router.query("SELECT count(*) FROM django_q_ormq")[0][0]

    def log_in(self, name: str) -> tuple[int, urllib.request.OpenerDirector]:
        return self.router.log_in(name, self.manifest["users"][name])


@pytest.fixture(scope="module", params=archives.each_archive())
def upgraded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    """Start the installation of one archive. Its tests share it, in the order in which they are written."""
    with Simulator() as simulator:
        installation = Upgraded(request.param, tmp_path_factory.mktemp("upgraded"), simulator)
        try:
            installation.router.start()
            yield installation
        finally:
            installation.router.kill()


def test_an_archive_is_small_and_names_no_machine(upgraded: Upgraded, request: pytest.FixtureRequest) -> None:
    archive = request.node.callspec.params["upgraded"]
    assert archive.stat().st_size <= archives.MAX_BYTES
    assert upgraded.machine_paths == []


def test_all_journals_are_folded_once(upgraded: Upgraded) -> None:
    router, expected = upgraded.router, upgraded.manifest["figures"]
    until(lambda: router.stats()["records_waiting"] == 0, 60)
    reported = archives.figures(router, upgraded.manifest)
    for row in expected["history"]["errors"]:
        for quoting in filter(_quotes, (row, *row["attempts"])):
            quoting["error"] = f"HTTP {quoting['status_code']}"
    for name, figures in expected.items():
        assert archives.as_before(figures, reported[name]) == figures, name


def test_everything_that_was_entered_is_there(upgraded: Upgraded) -> None:
    """Model names, prices, rates, limits; with costs of own hardware, spent budgets, and what is learned."""
    if "entered" not in upgraded.manifest:
        pytest.skip("nothing of this was entered")
    until(lambda: upgraded.router.stats()["records_waiting"] == 0, 60)
    stored = entries.stored(upgraded.router, upgraded.manifest)
    for name, expected in upgraded.manifest["entered"].items():
        assert expected, name
        assert archives.as_before(expected, stored[name]) == expected, name


def test_model_names_and_spent_budgets_count(upgraded: Upgraded) -> None:
    if "entered" not in upgraded.manifest:
        pytest.skip("nothing of this was entered")
    body = _chat(False) | {"model": "claude-sonnet"}  # by way of a pattern, a chain and a disabled endpoint
    router = upgraded.router
    until(lambda: router.post("/v1/chat/completions", body, key=upgraded.keys["laptop"]).status == 200)
    until(lambda: router.post("/v1/chat/completions", body, key=upgraded.keys["spent"]).status == 429)


def test_keys_work_as_before(upgraded: Upgraded) -> None:
    for name, key in upgraded.manifest["keys"].items():
        assert upgraded.router.get("/v1/models", key=key["key"]).status == (200 if key["works"] else 401), name


def test_users_log_in_and_see_their_pages(upgraded: Upgraded) -> None:
    url = upgraded.router.url
    for name in upgraded.manifest["users"]:
        status, browser = upgraded.log_in(name)
        assert status == 200, name
        for path in ("/", "/requests", "/usage", "/clients"):
            with browser.open(url + path, timeout=30) as page:
                assert (page.status, page.url) == (200, url + path)


def test_administrators_learn_that_requests_are_routed_in_another_way(upgraded: Upgraded) -> None:
    _, browser = upgraded.log_in("admin")
    with browser.open(upgraded.router.url, timeout=30) as page:
        assert ('data-notice="adaptive"' in page.read().decode()) is not upgraded.was_adaptive


def test_stored_bodies_are_there(upgraded: Upgraded) -> None:
    _, browser = upgraded.log_in("admin")
    bodies = upgraded.manifest["bodies"]
    shown = archives.bodies(upgraded.router, browser, bodies["id"])
    assert archives.as_before(bodies["expected"], shown) == bodies["expected"]


def test_an_etag_still_matches(upgraded: Upgraded) -> None:
    name = upgraded.manifest["untouched"]
    endpoint = next(row for row in upgraded.router.get("/api/endpoints").json()["endpoints"] if row["name"] == name)
    path = f"/api/endpoints/{endpoint['id']}"
    assert upgraded.router.get(path).headers["etag"] == upgraded.manifest["etag"]


def test_stored_tasks_run(upgraded: Upgraded) -> None:
    assert upgraded.tasks
    assert all(callable(import_string(name)) for name in upgraded.tasks)
    assert upgraded.queued

    def succeeded() -> set[str]:
        return {row[0] for row in upgraded.router.query("SELECT func FROM django_q_task WHERE success")}

    assert upgraded.router.query("SELECT func, result FROM django_q_task WHERE NOT success") == []
    until(lambda: succeeded() >= {"endpoints.tasks.sync_models"}, 30)


def test_new_requests_count_on_top(upgraded: Upgraded) -> None:
    """The endpoint needs its stored API key, which the present code must be able to read."""
    router = upgraded.router
    before = router.stats()
    name = next(name for name, server in upgraded.manifest["servers"].items() if server.get("api_key"))
    counted = {row["name"]: row for row in router.get("/api/dashboard/endpoints").json()}[name]
    until(lambda: any(model["id"] == "tiny" for model in router.get("/v1/models").json()["data"]))
    for stream in (False, True):
        response = router.request("POST", "/v1/chat/completions", _chat(stream), {}, upgraded.keys["ops"])
        assert response.status == 200, response
    until(lambda: router.stats()["total_requests"] == before["total_requests"] + 2)
    assert router.endpoint(counted["id"])["successful_requests"] == counted["successful_requests"] + 2


def test_only_requests_after_the_first_price_cost_something(upgraded: Upgraded) -> None:
    """Requests of the archive have no price, even if one is entered that counts from before them."""
    if "entered" in upgraded.manifest:
        pytest.skip("requests of this archive have prices")
    router = upgraded.router
    until(lambda: router.stats()["records_waiting"] == 0)
    price = {"pattern": "tiny", "currency": "EUR", "request": "0.5", "valid_from": "2020-01-01T00:00:00Z"}
    assert router.post("/api/prices", price).status == 201
    before = router.stats()["total_requests"]
    assert router.request("POST", "/v1/chat/completions", _chat(False), {}, upgraded.keys["ops"]).status == 200
    until(lambda: router.stats()["total_requests"] == before + 1)
    costs = router.get("/api/usage?since=2025-01-01").json()["costs"]
    expected = {"currency": "EUR", "cost": "0.0005", "estimated_cost": "0", "requests": 1, "estimated_requests": 0}
    assert costs == [expected]


def test_a_new_request_costs_what_its_stored_price_says(upgraded: Upgraded) -> None:
    if "entered" not in upgraded.manifest:
        pytest.skip("no price was entered")
    router = upgraded.router
    until(lambda: router.stats()["records_waiting"] == 0)

    def costs() -> tuple[int, Decimal]:
        (row,) = (row for row in router.get("/api/usage?since=2025-01-01").json()["costs"] if row["currency"] == "USD")
        return row["requests"], Decimal(row["cost"])

    requests, cost = costs()
    response = router.request("POST", "/v1/chat/completions", _chat(False), {}, upgraded.keys["ops"])
    usage = response.json()["usage"]
    until(lambda: costs()[0] == requests + 1)
    in_millionths = Decimal("0.15") * usage["prompt_tokens"] + Decimal("0.6") * usage["completion_tokens"]
    assert costs()[1] - cost == (in_millionths + Decimal("0.01") * 1000) / 1_000_000


def test_all_figures_agree(upgraded: Upgraded) -> None:
    until(lambda: upgraded.router.stats()["records_waiting"] == 0, 60)
    done = upgraded.router.manage("reconcile")
    lines = [line for line in done.stdout.splitlines() if not line.startswith("note: cached, cache-write and")]
    assert (lines, done.stderr, done.returncode) == (["all figures agree"], "", 0)


def _quotes(row: dict[str, Any]) -> bool:
    """Return True if the error of a row is in the words of an endpoint; the API reports its status instead."""
    return re.search(r"simulated \d+\.?$", row["error"] or "") is not None


def _chat(stream: bool) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "Say hello."}], "stream": stream}
