"""Prices and rates are published while there is a budget of money, and as gateways need them."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from access.limits.tables import BudgetRow
from endpoints.changes import counters
from gateway.base.config import Config
from gateway.ipc.live_page import LivePage
from gateway.ipc.record import OK
from gateway.prices.book import NANO
from gateway.prices.published import PublishedPrices
from gateway.registry.kinds import PRICES
from gateway.registry.limits import DAY, MONEY, TOKENS
from gateway.registry.reader import RegistryReader
from metrics.costs import rows as cost_rows
from metrics.costs.price_cache import COUNTER, price_cache
from metrics.costs.tables import CurrencyRate, PriceRow
from routerdash.publication.audit import Audit
from routerdash.publication.follower import ChangeFollower
from routerdash.publication.publisher import Publisher
from routerdash.publication.synchronisation import rebuild
from tests.access.limits.made import budget
from tests.access.people import make_admin
from tests.metrics.costs.pricing import EARLIER, add_price
from tests.metrics.records import A, attempt, request
from tests.metrics.world import add_endpoint, rows

pytestmark = [pytest.mark.every_database, pytest.mark.django_db(transaction=True)]
EVERYONE = ("everyone", "")


@pytest.fixture(autouse=True)
def _own_prices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    price_cache.forget()
    monkeypatch.setattr(price_cache, "_listeners", [])
    yield
    price_cache.forget()


@pytest.fixture
def gateway(config: Config, page: LivePage) -> Iterator[PublishedPrices]:
    """The prices of a gateway."""
    reader = RegistryReader(config.registry_dir, page, lambda update: None)
    yield PublishedPrices(reader, lambda endpoint_id: "", ZoneInfo("UTC"))
    reader.close()


def names(gateway: PublishedPrices, model: str = "tiny") -> list[int]:
    """Return the ids of the prices that a gateway knows of a model."""
    gateway._reader.follow()
    return [row.id for row in gateway.rows_for(model, None, A)]


def test_nothing_is_published_without_a_budget_of_money(publisher: Publisher, gateway: PublishedPrices) -> None:
    add_price("tiny", input=NANO)
    budget(EVERYONE, unit=TOKENS, period=DAY)
    ChangeFollower(publisher).follow()
    publisher.publish_whole()
    assert names(gateway) == []
    assert not publisher.read(lambda writer: writer.has_any(PRICES))


def test_a_budget_of_money_brings_the_prices(publisher: Publisher, gateway: PublishedPrices) -> None:
    price = add_price("tiny", input=NANO)
    add_price("other*", input=NANO)
    made = budget(EVERYONE, unit=MONEY, period=DAY)
    assert names(gateway) == [price.pk]
    versions = publisher.read(lambda writer: writer.state())
    BudgetRow.objects.filter(pk=made.pk).delete()
    publisher.publish_whole()
    assert names(gateway) == []
    assert versions != publisher.read(lambda writer: writer.state())


def test_no_version_has_the_budget_and_no_prices(
    publisher: Publisher, gateway: PublishedPrices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that follows at any moment can price a request that the budget counts."""
    add_price("tiny", input=NANO)
    seen: list[tuple[bool, bool]] = []
    write = publisher._write

    def write_and_look(changes: Any) -> None:
        write(changes)
        gateway._reader.follow()
        limits = gateway._reader.limits_of(*EVERYONE)
        seen.append((limits is not None and bool(limits.budgets), bool(gateway._reader.prices_version)))

    monkeypatch.setattr(publisher, "_write", write_and_look)
    budget(EVERYONE, unit=MONEY, period=DAY)
    assert seen == [(False, True), (True, True)]


def test_edits_reach_gateways(publisher: Publisher, gateway: PublishedPrices) -> None:
    price_cache.subscribe(publisher.publish_whole)
    first = add_price("tiny", input=NANO)
    budget(EVERYONE, unit=MONEY, period=DAY)
    second = add_price("tiny", since=EARLIER + timedelta(days=1), input=2 * NANO, currency="EUR")
    assert names(gateway) == [second.pk, first.pk]
    entry = request(OK, model="tiny", attempts=(attempt(OK, A),), input_tokens=1000)
    assert gateway.cost_of(entry) is None
    CurrencyRate.objects.create(currency="EUR", reporting="USD", valid_from=EARLIER, rate=3 * NANO)
    gateway._reader.follow()
    assert gateway.cost_of(entry) == 6_000_000
    cost = cost_rows.pricing().cost(entry)
    assert cost is not None
    assert cost[2] == 2_000_000


def test_another_process_adds_a_price(publisher: Publisher, gateway: PublishedPrices) -> None:
    price_cache.subscribe(publisher.publish_whole)
    budget(EVERYONE, unit=MONEY, period=DAY)
    assert names(gateway) == []
    price_cache.book()
    made = PriceRow(pattern="tiny", valid_from=EARLIER, currency="USD", input=1)
    PriceRow.objects.bulk_create([made])  # sends no signals
    counters.bump(COUNTER)
    price_cache.follow(counters.read()[COUNTER])
    assert names(gateway) == [made.pk]


@pytest.mark.parametrize("way", ["log", "rebuild"])
def test_a_start_finds_a_new_budget(
    config: Config, page: LivePage, gateway: PublishedPrices, start: Any, way: str
) -> None:
    start()
    price = add_price("tiny", input=NANO)
    user = make_admin()
    add_endpoint(A, "a")
    budget(("user", str(user.pk)), unit=MONEY, period=DAY)
    if way == "rebuild":
        page.damaged_generation = page.registry_generation
    publisher = start()
    assert names(gateway) == [price.pk]
    rebuild(publisher.writer, publisher.database_id() or "")
    assert names(gateway) == [price.pk]


def test_the_audit_removes_prices_after_the_last_budget(publisher: Publisher, gateway: PublishedPrices) -> None:
    price = add_price("tiny", input=NANO)
    budget(EVERYONE, unit=MONEY, period=DAY)
    assert names(gateway) == [price.pk]
    rows("DELETE FROM budgets")
    Audit(publisher).run_slice()
    assert names(gateway) == []
