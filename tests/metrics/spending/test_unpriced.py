"""Models without a price, for which budgets of money count nothing."""

import threading
from typing import Any

import pytest
import time_machine
from django.db import connection

from access.models import INFERENCE, ApiKey
from endpoints.registry import registry
from gateway.prices.book import NANO
from gateway.registry.limits import KEY_LEVEL, MONEY, TOKENS, USER_LEVEL
from metrics.costs.price_cache import price_cache
from metrics.costs.tables import CurrencyRate
from metrics.models import DayRollUp, ServedDayRollUp
from metrics.spending.unpriced import models_without_price
from metrics.spending.used_budgets import used_budgets
from routerdash.processes import budget_watch
from tests.access.limits.made import budget
from tests.access.people import make_admin
from tests.metrics.costs.pricing import EARLIER, add_price
from tests.metrics.records import AT, NOW, A
from tests.metrics.world import World, add_endpoint

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]
SUMS = dict.fromkeys(
    ("requests_failed", "requests_cancelled", "input_tokens", "output_tokens", "ok_duration_us"), 0
)  # fmt: skip


@pytest.fixture
def key(world: World) -> ApiKey:
    """An API key that has used two models of one endpoint, the second by another name."""
    add_endpoint(A, "one")
    registry.reload()
    key, _ = ApiKey.issue(make_admin(), "script", (INFERENCE,))
    cell: dict[str, Any] = {"date": NOW.date().isoformat(), "endpoint_id": A, "kind": "chat_completions", **SUMS}
    for model, count, of in (("llama", 3, str(key.pk)), ("fast", 9, str(key.pk)), ("other", 1, "")):
        DayRollUp.objects.create(
            **cell, model=model, api_key_id=of, requests_ok=count, attempts_ok=count, attempts_failed=0
        )
    ServedDayRollUp.objects.create(
        **cell, model="fast", api_key_id=str(key.pk), requests_ok=9, served="qwen", canonical="", step=0
    )
    return key


def unpriced_models() -> list[str]:
    return models_without_price(registry.all(), NOW.date(), AT)


def test_models_that_keys_with_a_budget_of_money_have_used(key: ApiKey) -> None:
    assert unpriced_models() == []
    of_key = budget((KEY_LEVEL, str(key.pk)), unit=TOKENS)
    assert unpriced_models() == []
    of_key.delete()
    for subject in ((KEY_LEVEL, str(key.pk)), (USER_LEVEL, str(key.created_by_id))):
        row = budget(subject, unit=MONEY)
        assert unpriced_models() == ["qwen", "llama"]
        row.delete()
    budget((KEY_LEVEL, A), unit=MONEY)
    assert unpriced_models() == []
    budget(unit=MONEY)
    assert unpriced_models() == ["qwen", "llama", "other"]


def test_a_budget_that_refuses_them_needs_no_attention(key: ApiKey) -> None:
    row = budget(unit=MONEY, refuses_unpriced=True)
    assert unpriced_models() == []
    row.instead = "small"  # such a budget refuses nothing
    row.save()
    assert unpriced_models() == ["qwen", "llama", "other"]


def test_a_price_needs_a_rate(key: ApiKey) -> None:
    budget(unit=MONEY)
    add_price("qwen", currency="EUR")
    add_price("llama")
    price_cache.reload()
    assert unpriced_models() == ["qwen", "other"]
    CurrencyRate.objects.create(currency="EUR", reporting="USD", valid_from=EARLIER, rate=NANO)
    price_cache.reload()
    assert unpriced_models() == ["other"]


def test_the_watch_looks_again_when_prices_change(key: ApiKey, monkeypatch: pytest.MonkeyPatch) -> None:
    budget(unit=MONEY)
    watch = budget_watch.PriceWatch()
    with time_machine.travel(NOW, tick=False):
        watch.look(1.0)
        assert used_budgets.unpriced == ["qwen", "llama", "other"]
        DayRollUp.objects.filter(model="other").delete()
        watch.look(1.0 + budget_watch.UNPRICED_SECONDS / 2)
        assert used_budgets.unpriced == ["qwen", "llama", "other"]
        add_price("qwen")
        price_cache.reload()
        watch.look(1.0 + budget_watch.UNPRICED_SECONDS / 2)
        assert used_budgets.unpriced == ["llama"]
        budget_watch.run(_Looks(), lambda: True)
        assert used_budgets.unpriced == ["llama"]


class _Looks(threading.Event):
    """An event that is set after one look."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 1

    def wait(self, timeout: float | None = None) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture(autouse=True)
def _same_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "close", lambda: None)
