"""Budgets of a whole installation: they equal the figures of usage, before and after kills of any process."""

import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from benchmarks.simulator import Simulator
from gateway.base import config
from gateway.ipc.counters.spending import SpendingReader, TagView
from gateway.ipc.counters.spending_file import SpendingFile, path_beside
from gateway.limits.periods import name_of
from gateway.prices.book import NANO
from gateway.registry.limits import DAY, KEY_LEVEL, MONEY, TOKENS, TOTAL
from tests.router import RouterDash, until
from tests.withdrawals import OwnKeys, chat

pytestmark = pytest.mark.every_database


class Budgeted:
    """An API key with a budget, which is stored by SQL as any program may do."""

    def __init__(self, router: RouterDash) -> None:
        self.router = router
        self.unit = TOKENS
        self.id, self.secret = OwnKeys(router).create()

    def set_budget(self, amount: int, period: str = DAY) -> None:
        self.router.query(
            "INSERT INTO budgets (id, level, subject_id, unit, period, amount) VALUES (?, ?, ?, ?, ?, ?)",
            str(uuid.uuid4()), KEY_LEVEL, self.id, self.unit, period, amount,
        )  # fmt: skip

    def change_budget(self, amount: int) -> None:
        self.router.query("UPDATE budgets SET amount = ? WHERE subject_id = ?", amount, self.id)

    def chat(self) -> int:
        return chat(self.router, self.secret).status

    def spent(self, period: str = DAY) -> int | None:
        """Return what a gateway takes for spent."""
        page = config.load(self.router.environment).live_page_path
        file = SpendingFile(path_beside(page))
        name = name_of(period, datetime.now(UTC).date())
        return SpendingReader(file).spent(TagView(file.tag(KEY_LEVEL, self.id, self.unit, period, name)))

    def items(self) -> list[dict[str, Any]]:
        """Return the items about budgets that need attention."""
        items: list[dict[str, Any]] = self.router.get("/api/dashboard/attention").json()
        return [item for item in items if item["level"]]

    def used(self) -> int:
        """Return the tokens of the key on the Usage page."""
        return sum(row["total_tokens"] for row in self._usage())

    def cost(self) -> int:
        """Return the cost of the key on the Usage page, in 10⁻⁹ of the currency."""
        return int(sum(Decimal(cost["cost"]) for row in self._usage() for cost in row["costs"]) * NANO)

    def _usage(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.router.get("/api/usage?by=key").json()["rows"]
        return [row for row in rows if row["api_key_id"] == self.id]


@pytest.fixture
def key(router: RouterDash, sim: Simulator) -> Budgeted:
    router.add(sim.add())
    return Budgeted(router)


def test_a_budget_counts_the_usage_before_it_was_set(key: Budgeted) -> None:
    assert [key.chat() for _ in range(3)] == [200] * 3
    assert until(lambda: key.used() > 0)
    used = key.used()
    key.set_budget(used)
    assert until(lambda: key.chat() == 429)
    assert until(lambda: key.spent() == key.used() >= used)  # requests before it was in effect are counted when stored


def test_a_spent_budget_needs_attention_and_is_at_metrics(key: Budgeted) -> None:
    assert key.chat() == 200
    assert until(lambda: key.used() > 0)
    key.set_budget(1)
    assert until(lambda: [item["kind"] for item in key.items()] == ["budget_spent"])
    (item,) = key.items()
    assert (item["level"], item["subject_id"], item["unit"], item["period"]) == (KEY_LEVEL, key.id, TOKENS, DAY)
    text = key.router.get("/metrics").body.decode()
    assert [line.rsplit(" ", 1)[1] for line in text.splitlines() if "routerdash_budget_amount{" in line] == ["1.0"]


def test_budgets_equal_usage_after_kills(key: Budgeted) -> None:
    router = key.router
    key.set_budget(10**9)
    key.set_budget(10**9, TOTAL)
    assert until(lambda: key.chat() == 200 and (key.spent() or 0) > 0)
    for role in ("gateway", "control", "gateway"):
        assert [key.chat() for _ in range(5)] == [200] * 5
        before = key.spent()
        assert before is not None
        router.kill_role(role)
        assert until(lambda: key.chat() == 200, 30)
        after = key.spent()
        assert after is not None
        assert after > before
    assert until(lambda: key.spent() == key.used() > 0, 30)
    assert key.spent(TOTAL) == key.spent()
    router.kill()
    router.start()
    assert until(lambda: key.spent() == key.used() > 0, 30)
    assert key.chat() == 200


def test_money_equals_the_costs_of_usage_after_kills_and_is_refused_once_spent(key: Budgeted) -> None:
    router, key.unit = key.router, MONEY
    price = {"pattern": "*", "currency": "USD", "input": "0.123456789", "output": "7.000000013", "request": "0.1"}
    assert router.post("/api/prices", {**price, "valid_from": "2020-01-01T00:00:00Z"}).status == 201
    key.set_budget(1000 * NANO)
    assert until(lambda: key.chat() == 200 and (key.spent() or 0) > 0)
    for role in ("control", "gateway"):
        assert [key.chat() for _ in range(5)] == [200] * 5
        before = key.spent() or 0
        router.kill_role(role)
        assert until(lambda: key.chat() == 200, 30)
        assert until(lambda before=before: (key.spent() or 0) > before > 0)  # settled once the client has the response
    assert until(lambda: key.spent() == key.cost() > 0, 30)

    router.kill()
    router.start()
    spent = key.cost()
    assert until(lambda: key.spent() == spent == key.cost(), 30)
    key.change_budget(spent)
    assert until(lambda: key.chat() == 429)
    refused = chat(router, key.secret)
    assert (refused.status, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert until(lambda: key.spent() == key.cost() >= spent)
    key.change_budget(1000 * NANO)
    assert until(lambda: key.chat() == 200)
    assert until(lambda: key.spent() == key.cost() > spent)
    assert router.manage("reconcile").returncode == 0
