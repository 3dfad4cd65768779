"""Budgets of money: the amount that gateways see is the one that Usage shows, once epochs are included."""

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from access.limits.tables import BudgetRow
from access.models import INFERENCE, ApiKey
from gateway.ipc import journal
from gateway.ipc.counters.spending_file import SpendingFile
from gateway.ipc.record import RequestRecord
from gateway.limits import budgets as budgets_module
from gateway.limits.budgets import Budgets, Held, Reserve
from gateway.prices.book import NANO
from gateway.prices.published import PublishedPrices
from gateway.prices.rows import rows_of
from gateway.registry.limits import DAY, MONEY, PERIODS, TOTAL, Budget
from gateway.registry.prices import NO_PRICES, PriceFacts
from gateway.registry.schema import PATTERN
from metrics.costs import rows as cost_rows
from metrics.costs.of_period import cost_sums
from metrics.costs.price_cache import price_cache
from metrics.costs.repricing import reprice
from metrics.costs.tables import CurrencyRate
from metrics.queries.usage_periods import Period
from metrics.spending.money import Money
from metrics.spending.publisher import SpendingPublisher
from metrics.storage.writer import DatabaseWriter
from tests.access.people import make_admin
from tests.metrics.costs.pricing import EARLIER, add_price
from tests.metrics.records import AT, NOW, A, request
from tests.metrics.world import UTC_ZONE, World, add_endpoint, where

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]
ALL = Period(NOW.date() - timedelta(days=40), NOW.date())
TODAY = Period(NOW.date(), NOW.date())


class ReadPrices:
    """Published prices, as a reader of the registry store has them."""

    prices_version = 0

    def publish(self) -> None:
        rates = price_cache.rates()
        self.rows = rows_of(price_cache.book().rows, rates.reporting, rates.rates, AT)
        self.prices_version += 1

    def prices(self, key: bytes) -> PriceFacts:
        return self.rows.get(key, NO_PRICES)

    def price_patterns(self) -> list[PriceFacts]:
        return [facts for key, facts in self.rows.items() if key[:1] == PATTERN]


class Installation:
    """One gateway and control, which share a file, a journal and a database."""

    def __init__(self, world: World, root: Path) -> None:
        self.world = world
        user = make_admin()
        self.user_id, self.key_id = str(user.pk), str(ApiKey.issue(user, "script", (INFERENCE,))[0].pk)
        self.demands = []
        for level, subject_id in (("key", self.key_id), ("user", self.user_id), ("everyone", "")):
            for period in PERIODS:
                row = BudgetRow.objects.create(
                    level=level, subject_id=subject_id, unit=MONEY, period=period, amount=10**18
                )
                self.demands.append((level, subject_id, Budget(str(row.pk), MONEY, period, row.amount)))
        file = SpendingFile(root / "spending")
        self.reader = ReadPrices()
        self.prices = PublishedPrices(self.reader, lambda endpoint_id: "", UTC_ZONE)  # type: ignore[arg-type]
        self.budgets = Budgets(file, UTC_ZONE, lambda: AT)
        self.journal = world.gateway()
        self.control = self.start_control(root)
        world.write(self.control)

    def start_control(self, root: Path) -> DatabaseWriter:
        self.publisher = SpendingPublisher(
            SpendingFile(root / "spending"),
            self.world.follower.reader,
            UTC_ZONE,
            lambda entry: cost_rows.pricing().cost(entry),
            Money(UTC_ZONE, price_cache.rates),
            lambda: AT,
        )
        return DatabaseWriter(self.world.follower, UTC_ZONE, where, reseed=self.world.reseed, spending=self.publisher)

    def send(self, **fields: Any) -> RequestRecord:
        """Admit, settle and record a request as a gateway does."""
        held = self.budgets.hold(self.demands, Reserve(0, 0), Reserve(5, 5))
        assert isinstance(held, Held)
        entry = request(api_key_id=self.key_id, user_id=self.user_id, **fields)
        settled = held.settle(0, self.prices.cost_of(entry) or 0, entry.completed_us)
        assert settled is not None
        entry = msgspec.structs.replace(entry, row=settled.row, epoch=settled.epoch, budgets=settled.budgets)
        assert self.journal.append(entry)
        return entry

    def spent(self) -> dict[tuple[str, str], int | None]:
        """Return the amount of each budget, by level and period, as gateways see it."""
        left = {
            (level, budget.period): self.budgets.left(level, subject_id, budget)
            for level, subject_id, budget in self.demands
        }
        return {key: None if amount is None else 10**18 - amount for key, amount in left.items()}

    def include(self) -> None:
        """End epochs, until control has included all of them."""
        for _ in range(3):
            self.budgets.end_epoch(lambda: None)
            self.world.write(self.control)


def shown(period: Period) -> int:
    """Return the cost in the reporting currency that Usage shows."""
    return sum(sums["USD"].cost for sums in cost_sums("''", period).values() if "USD" in sums)


@pytest.fixture
def installation(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    monkeypatch.setattr(budgets_module, "EPOCH_SECONDS", 0.0)
    price_cache.forget()
    add_endpoint(A, "a")
    add_price("tiny", input=NANO // 3, output=7)
    add_price("large*", currency="EUR", input=NANO // 7, output=NANO // 11, request=13)
    add_price("huge", currency="JPY", input=191 * NANO)
    CurrencyRate.objects.create(currency="EUR", reporting="USD", valid_from=EARLIER, rate=1_173_913_047)
    made = Installation(world, tmp_path)
    made.reader.publish()
    yield made
    made.budgets.close()
    price_cache.forget()


def traffic(installation: Installation, rng: random.Random, count: int) -> None:
    for _ in range(count):
        installation.send(
            model=rng.choice(("tiny", "large-1", "large-2", "huge", "without a price")),
            input_tokens=rng.randrange(500),
            output_tokens=rng.choice((None, 1, 7)),
        )


@pytest.mark.parametrize("seed", range(3))
def test_spent_is_what_usage_shows(installation: Installation, seed: int) -> None:
    rng, sent = random.Random(seed), 0
    for number in range(12):
        count = rng.randrange(1, 8)
        traffic(installation, rng, count)
        sent += count
        if rng.random() < 0.7:
            installation.world.write(installation.control)
        spent = installation.spent()
        assert len(set(spent.values())) == 1, spent
        if rng.random() < 0.4:
            installation.budgets.end_epoch(lambda: None)
        if number % 4 == 3:
            installation.include()
            assert set(installation.spent().values()) == {shown(ALL)}
    installation.include()
    assert set(installation.spent().values()) == {shown(ALL)}
    assert shown(ALL) > 0


def test_a_restart_of_control_keeps_the_sum(installation: Installation, tmp_path: Path) -> None:
    rng = random.Random(4)
    for _ in range(4):
        traffic(installation, rng, 9)
        before = installation.spent()
        installation.world.write(installation.control)
        assert installation.spent() == before  # of this epoch, the row counts: what control counts is the same
        traffic(installation, rng, 3)
        installation.control = installation.start_control(tmp_path)  # the one before was killed
        installation.world.write(installation.control)
        installation.include()
        assert set(installation.spent().values()) == {shown(ALL)}


def test_a_new_rate_counts_for_the_whole_day(installation: Installation) -> None:
    traffic(installation, random.Random(5), 20)
    installation.include()
    before = shown(TODAY)
    CurrencyRate.objects.create(
        currency="EUR", reporting="USD", valid_from=NOW + timedelta(hours=2), rate=2_000_000_011
    )
    price_cache.forget()  # a process reads rates again on commit
    installation.publisher.forget()
    traffic(installation, random.Random(6), 5)
    installation.include()
    assert shown(TODAY) > before
    spent = installation.spent()
    assert spent["key", DAY] == shown(TODAY)
    assert spent["everyone", TOTAL] == shown(ALL)


def test_reprice_changes_what_is_spent(installation: Installation) -> None:
    traffic(installation, random.Random(7), 20)
    installation.include()
    before = shown(TODAY)
    add_price("without a price", input=NANO)
    price_cache.forget()
    installation.reader.publish()
    reprice(NOW - timedelta(days=2), ZoneInfo("UTC"), apply=True)
    installation.control.read_again.set()  # control does this when it sees the counter
    installation.include()
    assert shown(TODAY) > before
    assert set(installation.spent().values()) == {shown(ALL)}


def test_a_price_that_the_gateway_does_not_know_counts_once_it_is_folded(installation: Installation) -> None:
    add_price("without a price", input=3 * NANO)  # not published
    price_cache.forget()
    installation.send(model="without a price", input_tokens=1000)
    assert set(installation.spent().values()) == {0}
    installation.include()
    assert set(installation.spent().values()) == {3_000_000} == {shown(ALL)}
    assert isinstance(installation.journal, journal.Writer)
