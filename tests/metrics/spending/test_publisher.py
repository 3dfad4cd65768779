"""Published amounts of budgets: those of the database, without the records that rows of gateways still count."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.db import OperationalError, connection

from access.limits.reading import some_budgets
from access.models import ApiKey, User
from endpoints.changes import triggers
from gateway.ipc.counters.spending import SpendingReader, TagView
from gateway.ipc.counters.spending_file import COVERED, EPOCH_BITS, UNCOVERED, SpendingFile
from gateway.ipc.record import REJECTED, RequestRecord
from gateway.limits import budgets as module
from gateway.limits import spent_now
from gateway.limits.budgets import Budgets, BudgetsUnavailable, Held, Reserve
from gateway.limits.periods import name_of
from gateway.limits.spent_now import SpentNow
from gateway.registry.limits import DAY, EVERYONE_LEVEL, KEY_LEVEL, MONTH, TOKENS, TOTAL, USER_LEVEL, WEEK, Budget
from metrics.costs.price_cache import price_cache
from metrics.reconcile import live
from metrics.spending import laws as budget_laws
from metrics.spending import stored
from metrics.spending.money import Money
from metrics.spending.publisher import SpendingPublisher
from metrics.spending.used_budgets import UsedBudget, used_budgets
from metrics.storage.writer import DatabaseWriter
from routerdash.processes import budget_watch
from tests.access.limits.made import budget, limit
from tests.metrics.records import AT, KEY, NOW, request
from tests.metrics.world import UTC_ZONE, World, own_database, rows, where

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]
OTHER = "dddddddd-0000-4000-8000-000000000004"
EVERYONE = (EVERYONE_LEVEL, "")
OF_KEY = (KEY_LEVEL, KEY)


class Installation:
    """A world whose control publishes amounts, and a gateway that counts."""

    def __init__(self, world: World, path: Path) -> None:
        self.world = world
        self.path = path
        self.now = AT
        self.file = SpendingFile(path)
        self.restart()
        self.journal = world.gateway()
        self.budgets = Budgets(SpendingFile(path), UTC_ZONE, lambda: self.now)

    def restart(self) -> None:
        """Begin with another control."""
        self.publisher = SpendingPublisher(
            SpendingFile(self.path),
            self.world.follower.reader,
            UTC_ZONE,
            lambda entry: None,
            Money(UTC_ZONE, price_cache.rates),
            lambda: self.now,
        )
        self.writer = DatabaseWriter(
            self.world.follower, UTC_ZONE, where, reseed=self.world.reseed, spending=self.publisher
        )

    def write(self) -> None:
        self.world.follower.catch_up()
        self.world.write(self.writer)

    def serve(self, tokens: int = 10, *, written: bool = True, of: Budget | None = None) -> RequestRecord:
        """Serve a request of the key."""
        counted = of or Budget("b", TOKENS, DAY, 10**9)
        held = self.budgets.hold([(KEY_LEVEL, KEY, counted)], Reserve(tokens, tokens), None)
        assert isinstance(held, Held)
        completed_us = round(self.now * 1e6)
        settled = held.settle(tokens, 0, completed_us)
        assert settled is not None
        record = request(
            completed_us=completed_us, api_key_id=KEY, input_tokens=tokens, row=settled.row, epoch=settled.epoch,
            budgets=settled.budgets,
        )  # fmt: skip
        if written:
            assert self.journal.append(record)
        return record

    def spent(self, subject: tuple[str, str] = OF_KEY, period: str = DAY) -> int | None:
        return SpendingReader(self.file).spent(self._view(subject, period))

    def published(self, subject: tuple[str, str] = OF_KEY, period: str = DAY) -> int | None:
        return self.file.published(self.file.words[5], self._view(subject, period).tag)

    def _view(self, subject: tuple[str, str], period: str) -> TagView:
        day = (NOW + timedelta(seconds=self.now - AT)).date()
        return TagView(self.file.tag(*subject, TOKENS, period, name_of(period, day)))


@pytest.fixture
def installed(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    monkeypatch.setattr(module, "EPOCH_SECONDS", 0)
    own_database()
    return Installation(world, tmp_path / "spending")


Past = Callable[..., None]


@pytest.fixture
def past(installed: Installation) -> Past:
    """Store requests that no row counts."""

    def store(tokens: int, key: str | None = KEY, *, days: int = 0) -> None:
        entry = request(ago=86_400 * days, api_key_id=key, input_tokens=tokens - tokens // 3, output_tokens=tokens // 3)
        installed.world.gateway(entry)
        installed.write()

    return store


def test_amounts_are_those_of_the_usage_page(installed: Installation, past: Past) -> None:
    for period in (DAY, WEEK, MONTH, TOTAL):
        budget(OF_KEY, period=period)
        budget(EVERYONE, period=period)
    for tokens, days in ((1, 0), (10, 1), (100, 2), (1000, 9), (10_000, 40)):  # a Tuesday, the 10th
        past(tokens, days=days)
        past(tokens * 2, OTHER, days=days)
    past(5, None)
    installed.restart()
    installed.write()
    of_key = [installed.spent(OF_KEY, period) for period in (DAY, WEEK, MONTH, TOTAL)]
    assert of_key == [1, 11, 1111, 11_111]
    assert [installed.spent(EVERYONE, period) for period in (DAY, WEEK, MONTH, TOTAL)] == [
        3 * each + 5 for each in of_key if each is not None
    ]


def test_a_user_spends_by_all_keys(installed: Installation, past: Past) -> None:
    user = User.objects.create(username="one", password="x", role="viewer", created_at=NOW)
    ApiKey.objects.create(id=KEY, key_hash="0" * 64, name="k", created_by=user, created_at=NOW)
    budget((USER_LEVEL, str(user.pk)))
    past(7)
    past(8, OTHER)
    installed.restart()
    installed.write()
    past(9)
    assert installed.spent((USER_LEVEL, str(user.pk))) == 16


@pytest.fixture
def of_user(installed: Installation) -> tuple[str, str]:
    """A user with a budget, whose key has the id KEY."""
    triggers.ensure()
    user = User.objects.create(username="one", password="x", role="viewer", created_at=NOW)
    ApiKey.objects.create(id=KEY, key_hash="0" * 64, name="k", created_by=user, created_at=NOW)
    subject = USER_LEVEL, str(user.pk)
    for period in (DAY, TOTAL):
        budget(subject, period=period)
    return subject


def test_a_deleted_key_lowers_nothing_of_its_user(
    installed: Installation, past: Past, of_user: tuple[str, str], differences: Callable[[], list[str]]
) -> None:
    past(7)
    past(20, days=100)
    installed.restart()
    installed.write()

    def spent() -> list[int | None]:
        return [installed.spent(of_user, period) for period in (DAY, TOTAL)]

    assert spent() == [7, 27]
    ApiKey.objects.filter(pk=KEY).delete()
    assert spent() == [7, 27]
    installed.restart()
    installed.write()
    assert spent() == [7, 27]
    past(2)  # of a request that was running: no gateway has named its user
    assert spent() == [9, 29]
    assert differences() == []
    budget(of_user, period=WEEK)
    installed.publisher.cover([of_user])
    installed.write()
    assert installed.spent(of_user, WEEK) == 9
    past(1, OTHER)
    assert differences() == []
    rows("UPDATE deleted_keys SET id = %s", OTHER)  # as if another key had been the user's
    assert differences() == [f"the {period} budget of user {of_user[1]}" for period in (DAY, TOTAL, WEEK)]


def test_a_key_of_another_user_that_was_deleted_does_not_count(
    installed: Installation, past: Past, of_user: tuple[str, str]
) -> None:
    other = User.objects.create(username="two", password="x", role="viewer", created_at=NOW)
    ApiKey.objects.create(id=OTHER, key_hash="1" * 64, name="k", created_by=other, created_at=NOW)
    past(7)
    past(50, OTHER)
    ApiKey.objects.filter(pk=OTHER).delete()
    installed.restart()
    installed.write()
    assert installed.spent(of_user) == 7


def test_records_that_a_row_counts_are_published_once_their_epoch_is_over(installed: Installation) -> None:
    budget(OF_KEY)
    installed.write()
    for number in range(1, 6):
        installed.serve()
        assert installed.spent() == 10 * number
        installed.write()
        assert installed.spent() == 10 * number
    assert not installed.published()
    installed.budgets.end_epoch(lambda: None)
    installed.serve()
    installed.write()
    assert installed.published() == 50
    assert installed.spent() == 60


def test_records_without_a_row_are_published_at_once(installed: Installation, past: Past) -> None:
    budget(OF_KEY)
    installed.write()
    past(30)
    assert installed.published() == installed.spent() == 30


def test_a_restarted_control_finds_the_records_that_rows_count(installed: Installation) -> None:
    budget(OF_KEY)
    installed.write()
    for _ in range(3):
        installed.serve()
        installed.write()
        installed.restart()
        installed.write()
    assert installed.spent() == 30
    installed.budgets.end_epoch(lambda: None)
    installed.serve()
    installed.restart()
    installed.write()
    assert (installed.published(), installed.spent()) == (30, 40)


@pytest.mark.parametrize("life", [1, 1 << 29])
def test_records_of_before_the_machine_restarted_are_published_at_once(installed: Installation, life: int) -> None:
    """Numbers of epochs are larger or smaller than those of the file that was there before."""
    budget(OF_KEY)
    installed.write()
    for _ in range(2):
        record = installed.serve(written=False)
        assert installed.journal.append(msgspec.structs.replace(record, epoch=life << EPOCH_BITS | 1))
    for _ in range(2):
        installed.write()
        assert installed.published() == 20
        installed.restart()


def test_segments_with_records_that_rows_count_are_kept(installed: Installation) -> None:
    budget(OF_KEY)
    installed.write()
    installed.journal = installed.world.gateway(segment_bytes=400)
    for _ in range(6):
        installed.serve()
    folder = installed.world.path(installed.journal)
    installed.write()
    assert (folder / "00000001.seg").exists()
    installed.restart()
    installed.write()
    assert installed.spent() == 60
    installed.budgets.end_epoch(lambda: None)
    installed.serve()
    installed.write()
    installed.serve()
    installed.write()
    assert not (folder / "00000001.seg").exists()
    assert installed.spent() == 80


def test_the_journal_of_an_ended_process_is_kept_until_its_epoch_is_included(installed: Installation) -> None:
    budget(OF_KEY)
    installed.write()
    installed.serve()
    folder = installed.world.path(installed.journal)
    installed.journal.close()
    installed.write()
    installed.writer.step()
    assert folder.exists()
    installed.budgets.close()
    installed.writer.step()
    installed.writer.step()
    assert not folder.exists()
    assert installed.published() == installed.spent() == 10


def test_requests_without_a_record_disappear_with_their_epoch(installed: Installation) -> None:
    budget(OF_KEY)
    installed.write()
    installed.serve(written=False)
    installed.write()
    assert installed.spent() == 10
    installed.budgets.close()
    installed.write()
    assert installed.spent() == 0


def test_an_added_budget_counts_earlier_use_at_once(installed: Installation, past: Past) -> None:
    installed.write()
    past(40)
    budget(OF_KEY)
    installed.publisher.cover([OF_KEY])
    assert installed.spent() == 40
    past(2)
    assert installed.spent() == 42


def test_an_added_budget_is_covered_after_a_gateway_has_ended(
    installed: Installation, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics.spending.publisher.COVER_SECONDS", 0)
    past(40)
    budget(OF_KEY)
    for gateway in installed.world.gateways:
        gateway.close()
    installed.write()
    installed.writer.step()
    installed.publisher.cover([OF_KEY])
    assert installed.file.words[COVERED] == installed.file.words[UNCOVERED]
    assert installed.spent() == 40


def test_a_budget_that_cannot_be_covered_is_unavailable(installed: Installation, past: Past) -> None:
    past(40)
    installed.restart()  # it has read nothing yet
    budget(OF_KEY)
    installed.publisher.cover([OF_KEY])
    with pytest.raises(BudgetsUnavailable):
        installed.serve()
    installed.write()
    assert installed.spent() == 40
    installed.serve()


def test_without_the_database_a_budget_is_not_covered(installed: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    installed.write()

    def fail() -> None:
        raise OperationalError("away")

    with monkeypatch.context() as away:
        away.setattr("metrics.spending.stored.positions", fail)
        installed.publisher.cover([OF_KEY])
    with pytest.raises(BudgetsUnavailable):
        installed.serve()


def test_budgets_go_on_while_control_is_away(installed: Installation, past: Past) -> None:
    budget(OF_KEY)
    past(5)
    installed.write()
    for _ in range(5):
        installed.serve()
        installed.budgets.end_epoch(lambda: None)
    assert installed.spent() == 55
    installed.write()
    assert installed.spent() == 55


def test_a_new_day_begins_with_nothing_and_without_control(installed: Installation, past: Past) -> None:
    budget(OF_KEY)
    past(5)
    installed.write()
    installed.now += 86_400
    assert installed.spent() == 0
    installed.serve()
    assert installed.spent() == 10
    installed.write()
    assert installed.spent() == 10
    installed.now -= 86_400
    assert installed.spent() == 5


def test_a_clock_that_is_set_back_finds_the_amounts_of_that_day(installed: Installation, past: Past) -> None:
    budget(OF_KEY)
    past(5, days=3)
    past(7)
    installed.write()
    installed.now -= 3 * 86_400
    with pytest.raises(BudgetsUnavailable):
        installed.serve()
    installed.write()
    assert installed.spent() == 5
    installed.serve()
    installed.now += 3 * 86_400
    installed.write()
    assert installed.spent() == 7


def test_a_clock_that_is_set_back_during_a_step(
    installed: Installation, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget(OF_KEY)
    past(5, days=3)
    installed.restart()
    installed.write()  # the amounts of three days ago are not among these
    installed.now += 86_400
    installed.write()
    installed.now -= 86_400
    add = installed.publisher.add

    def set_back(*values: Any) -> None:
        add(*values)
        installed.now -= 3 * 86_400

    monkeypatch.setattr(installed.publisher, "add", set_back)
    past(7)
    assert installed.spent() == 5


def test_repaired_figures_are_read_again(installed: Installation, past: Past) -> None:
    budget(OF_KEY)
    installed.write()
    past(30)
    installed.serve()
    installed.write()
    rows("UPDATE rollup_days SET input_tokens = input_tokens + 100 WHERE output_tokens > 0")
    installed.writer.read_again.set()
    installed.write()
    assert installed.spent() == 140


def test_positions_of_another_writer_are_noticed(installed: Installation, past: Past) -> None:
    budget(OF_KEY)
    installed.write()
    installed.world.gateway(request(api_key_id=KEY, input_tokens=8))
    installed.world.write()  # another process
    past(1)
    installed.write()
    assert installed.spent() == 9


def test_refusals_spend_nothing(installed: Installation) -> None:
    budget(OF_KEY)
    installed.world.gateway(request(REJECTED, api_key_id=KEY, input_tokens=10, error="x"))
    installed.write()
    assert not installed.spent()


# The law


@pytest.fixture
def differences(installed: Installation, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    monkeypatch.setattr(live, "is_running", lambda config: True)

    monkeypatch.setattr(budget_laws, "today_of", lambda config: (NOW + timedelta(seconds=installed.now - AT)).date())

    class Config:
        live_page_path = installed.path.with_name("page")
        zone = UTC_ZONE

    installed.path.with_name("page-spending").symlink_to(installed.path)

    def compare() -> list[str]:
        different_figures, _ = budget_laws.compare(Config, lambda seconds: None)  # type: ignore[arg-type]
        return sorted(difference.where for difference in different_figures)

    return compare


def test_reconcile_compares_budgets_with_usage(
    installed: Installation, past: Past, differences: Callable[[], list[str]]
) -> None:
    budget(OF_KEY)
    budget(EVERYONE, period=TOTAL)
    past(30)
    past(5, OTHER, days=100)
    installed.restart()
    installed.write()
    installed.serve()
    installed.write()
    assert differences() == []
    rows("UPDATE rollup_days SET input_tokens = input_tokens + 1 WHERE api_key_id = %s", OTHER)
    assert differences() == ["the total budget of everyone"]
    rows("UPDATE rollup_days SET input_tokens = input_tokens - 1 WHERE api_key_id = %s", OTHER)
    installed.serve(written=False)  # as if a row had counted what no record has
    assert differences() == [f"the day budget of key {KEY}"]


def test_amounts_of_budgets_for_pages(
    installed: Installation, past: Past, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    budget(OF_KEY, amount=100, period=TOTAL)
    budget(EVERYONE, amount=1000, period=TOTAL)
    past(80)
    monkeypatch.setattr(spent_now, "_open_file", lambda page: installed.file)
    monkeypatch.setattr(SpendingReader, "covers", lambda reader, day: True)
    amounts = SpentNow(tmp_path, UTC_ZONE)
    assert [amounts.spent(subject, TOKENS, TOTAL) for subject in (OF_KEY, EVERYONE)] == [80, 80]
    assert [amounts.used(subject, TOKENS, TOTAL) for subject in (OF_KEY, EVERYONE)] == [80, 80]
    held = installed.budgets.hold([(*OF_KEY, Budget("b", TOKENS, TOTAL, 10**9))], Reserve(10, 10), None)
    assert isinstance(held, Held)
    assert (amounts.spent(OF_KEY, TOKENS, TOTAL), amounts.used(OF_KEY, TOKENS, TOTAL)) == (80, 90)
    held.cancel()
    assert amounts.end_of(TOTAL) is None
    assert (amounts.end_of(DAY) or 0) > time.time()
    budget_watch.look()
    used = [
        (used_budget.level, used_budget.spent, used_budget.percent, used_budget.resets_at)
        for used_budget in used_budgets.current()[0]
    ]
    assert used == [(KEY_LEVEL, 80, 80, None), (EVERYONE_LEVEL, 80, 8, None)]
    assert used_budgets.current()[1] == 1
    monkeypatch.undo()
    monkeypatch.setattr(spent_now, "_open_file", lambda page: None)
    amounts = SpentNow(tmp_path, UTC_ZONE)
    assert amounts.spent(OF_KEY, TOKENS, TOTAL) is amounts.used(OF_KEY, TOKENS, TOTAL) is None
    budget_watch.look()
    assert used_budgets.current() == ((), 0)


def test_a_spent_budget_among_very_many_is_found(
    installed: Installation, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only so many budgets are looked at that nothing was spent of."""
    for number in range(5):
        budget((KEY_LEVEL, f"{number}"), amount=100, period=TOTAL)
    budget(OF_KEY, amount=100, period=TOTAL)
    past(80)
    monkeypatch.setattr(spent_now, "_open_file", lambda page: installed.file)
    monkeypatch.setattr(SpendingReader, "covers", lambda reader, day: True)
    monkeypatch.setattr(budget_watch, "MAX_LOOKED_AT", 2)
    monkeypatch.setattr(budget_watch, "some_budgets", lambda most: list(some_budgets(99))[:most])
    assert installed.publisher.spenders() == {OF_KEY}
    budget_watch.look(installed.publisher.spenders())
    assert used_budgets.current()[0][0].subject_id == KEY


def test_many_covered_subjects_are_covered_in_one_pass(
    installed: Installation, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bulk edit names thousands of subjects, each of which has amounts."""

    class Amounts(dict[Any, int]):
        passes = 0

        def items(self) -> Any:
            self.passes += 1
            return super().items()

    installed.write()
    past(40)
    amounts = Amounts()
    monkeypatch.setattr(stored, "read_some", lambda subjects, since: stored.StoredSums(amounts))
    installed.publisher.cover([(KEY_LEVEL, str(number)) for number in range(20)])
    assert amounts.passes == 1


class Looks(threading.Event):
    """An event that is set after so many looks."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = count

    def wait(self, timeout: float | None = None) -> bool:
        self.left -= 1
        return self.left < 0


def test_the_fullest_budgets_are_kept_with_their_names(
    installed: Installation, past: Past, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ada = User.objects.create(username="ada", password="x", role="viewer", created_at=NOW)
    mine = ApiKey.objects.create(name="mine", key_hash="0" * 64, created_by=ada, created_at=NOW)
    of_mine, of_ada = (KEY_LEVEL, str(mine.pk)), (USER_LEVEL, str(ada.pk))
    budget(of_mine, amount=100, period=TOTAL)
    budget(of_ada, amount=90, period=TOTAL, instead="small")
    budget(EVERYONE, amount=1000, period=TOTAL)
    limit(requests=600)
    past(85, of_mine[1])
    monkeypatch.setattr(spent_now, "_open_file", lambda page: installed.file)
    monkeypatch.setattr(SpendingReader, "covers", lambda reader, day: True)
    monkeypatch.setattr(connection, "close", lambda: None)  # the connection of this test
    budget_watch.run(Looks(1), lambda: False)
    budget_watch.run(Looks(1), lambda: True, has_limits=lambda: False)
    assert used_budgets.current() == ((), 0)
    budget_watch.run(Looks(1), lambda: True)
    expected = (
        UsedBudget(*of_ada, "ada", TOKENS, TOTAL, 90, 85, None, "small"),
        UsedBudget(*of_mine, "mine", TOKENS, TOTAL, 100, 85, None, None),
        UsedBudget(*EVERYONE, None, TOKENS, TOTAL, 1000, 85, None, None),
    )
    assert used_budgets.current() == (expected, 2)
    assert used_budgets.limits_of_everyone == {"requests": 600}

    def fails(subjects: object) -> None:
        raise OperationalError("gone")

    monkeypatch.setattr(budget_watch, "read_limits", fails)
    budget_watch.run(Looks(3), lambda: True)
    assert used_budgets.current() == (expected, 2)
    assert caplog.text.count("budgets cannot be read: gone") == 1
    budget_watch.run(Looks(1), lambda: True, has_limits=lambda: False)  # the last limits were removed
    assert used_budgets.current() == ((), 0)
    assert used_budgets.limits_of_everyone == {}
