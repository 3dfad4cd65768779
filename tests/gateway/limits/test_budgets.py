"""Budgets over several processes, which have a clock that the test sets, and control that the test plays."""

import os
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway.ipc.counters.places import NoPlace
from gateway.ipc.counters.spending import SpendingRow
from gateway.ipc.counters.spending_bank import SpendingBank, TooManyTags
from gateway.ipc.counters.spending_file import BUCKET_SIZE, BUCKETS, EPOCH, ROWS, SpendingFile
from gateway.limits import budgets as module
from gateway.limits import periods
from gateway.limits.budget_bits import BITS, kinds_of
from gateway.limits.budgets import BudgetExceeded, Budgets, BudgetsUnavailable, Held, Reserve
from gateway.registry.limits import DAY, EVERYONE_LEVEL, KEY_LEVEL, MONEY, MONTH, TOKENS, TOTAL, WEEK, Budget

ZONE = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 3, 28, 12, tzinfo=ZONE).timestamp()  # a Saturday; the next night has 23 hours
FIRST, LAST = date(2026, 3, 27), date(2026, 4, 4)
HUNDRED = Budget("b", TOKENS, DAY, 100)


class Node:
    """The file of one machine, its processes, and control."""

    def __init__(self, path):
        self.path = path
        self.now = NOON
        self.file = SpendingFile(path)
        self.bank = SpendingBank(self.file)
        self.records = []  # tag, amount, row and epoch of each
        self.processes = []

    def start(self):
        self.processes.append(Budgets(SpendingFile(self.path), ZONE, lambda: self.now))
        return self.processes[-1]

    def publish(self, *, covered=True):
        """Do as control does: include the epochs that are over, with all their records."""
        over = self.bank.over()
        spent: Counter[int] = Counter()
        for tag, amount, row, epoch in self.records:
            spent[tag] += amount if row is None or epoch <= over[row] else 0
        uncovered = self.bank.uncovered
        self.bank.publish(over, (FIRST.toordinal(), LAST.toordinal()), spent)
        if covered:
            self.bank.cover(uncovered)

    def tag(self, level=KEY_LEVEL, subject="k", budget=HUNDRED, day=date(2026, 3, 28)):
        return self.file.tag(level, subject, budget.unit, budget.period, periods.name_of(budget.period, day))

    def past(self, amount, **what):
        """Have a record in the database that no row counts."""
        self.records.append((self.tag(**what), amount, None, None))

    def end(self, process, held, amount, budget=HUNDRED, *, written=True, ended=None):
        """End a request of the key; `ended`: when its record says."""
        moment = self.now if ended is None else ended
        settled = held.settle(amount, amount, round(moment * 1e6))
        if written:
            day = periods.day_of(round(moment * 1e6), ZONE)
            self.records.append((self.tag(budget=budget, day=day), amount, settled.row, settled.epoch))
        return settled

    def kill(self, process):
        """End a process without a word: its lock is gone, and its words stay."""
        os.close(process._row._lock)
        process._row._lock = None
        self.file.bury()


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path / "spending")
    node.publish()
    return node


def hold(process, amount=10, budget=HUNDRED, level=KEY_LEVEL, subject="k", most=None, cost=None):
    reserved = Reserve(amount, amount if most is None else most)
    return process.hold([(level, subject, budget)], reserved, cost)


def held(process, *values, **named):
    reservation = hold(process, *values, **named)
    assert isinstance(reservation, Held)
    return reservation


def left(process, budget=HUNDRED, level=KEY_LEVEL, subject="k"):
    return process.left(level, subject, budget)


# Over all processes


def test_what_one_process_holds_another_does_not_get(node):
    first, second = node.start(), node.start()
    held(first, 60)
    exceeded = hold(second, 50)
    assert isinstance(exceeded, BudgetExceeded)
    assert (exceeded.used, exceeded.requested, exceeded.budget) == (60, 50, HUNDRED)
    held(second, 40)
    assert isinstance(hold(first, 1), BudgetExceeded)


def test_a_request_spends_what_it_used_and_not_what_it_reserved(node):
    first, second = node.start(), node.start()
    node.end(first, held(first, 90), 30)
    assert left(second) == 70
    held(second, 70)


def test_a_cancelled_request_spends_nothing(node):
    first, second = node.start(), node.start()
    reservation = held(first, 100)
    reservation.cancel()
    reservation.cancel()
    assert reservation.settle(5, 0, round(NOON * 1e6)) is None
    assert left(second) == 100
    held(second, 100)


def test_a_spent_budget_refuses_what_reserves_nothing(node):
    first = node.start()
    node.end(first, held(first, 100), 100)
    assert isinstance(hold(first, 0), BudgetExceeded)


def test_a_hard_budget_reserves_the_most(node):
    process = node.start()
    hard = Budget("b", TOKENS, DAY, 100, hard=True)
    assert isinstance(hold(process, 10, hard, most=101), BudgetExceeded)
    held(process, 10, hard, most=100)
    assert isinstance(hold(process, 10, hard, most=1), BudgetExceeded)


def test_all_budgets_are_held_or_none(node):
    process = node.start()
    everyone = Budget("e", TOKENS, DAY, 20)
    demands = [(KEY_LEVEL, "k", HUNDRED), (EVERYONE_LEVEL, "", everyone)]
    assert isinstance(process.hold(demands, Reserve(30, 30), None), BudgetExceeded)
    held(process, 100)


def test_money_without_a_price_counts_nothing_or_is_refused(node):
    process = node.start()
    money = Budget("b", MONEY, DAY, 50)
    held(process, 1000, money).cancel()
    exceeded = hold(process, 1000, Budget("b", MONEY, DAY, 50, refuses_unpriced=True))
    assert isinstance(exceeded, BudgetExceeded)
    assert exceeded.is_unpriced
    assert isinstance(hold(process, 1, money, cost=Reserve(51, 51)), BudgetExceeded)
    reservation = held(process, 1, money, cost=Reserve(50, 50))
    reservation.settle(7, 20, round(NOON * 1e6))
    assert left(process, money) == 30


def test_the_bits_of_a_record_name_its_budgets(node):
    process = node.start()
    total = Budget("t", MONEY, TOTAL, 100)
    demands = [(KEY_LEVEL, "k", HUNDRED), (EVERYONE_LEVEL, "", total)]
    settled = process.hold(demands, Reserve(1, 1), Reserve(1, 1)).settle(1, 1, round(NOON * 1e6))
    assert set(kinds_of(settled.budgets)) == {(KEY_LEVEL, TOKENS, DAY), (EVERYONE_LEVEL, MONEY, TOTAL)}
    assert len(set(BITS.values())) == len(BITS)


# Publication


def test_nothing_is_counted_twice_or_lost_while_epochs_are_included(node, monkeypatch):
    monkeypatch.setattr(module, "EPOCH_SECONDS", 0)
    first, second = node.start(), node.start()
    spent = 0
    for round_ in range(20):
        for process in (first, second):
            node.end(process, held(process, 2), 2)
            spent += 2
            assert left(first) == left(second) == 100 - spent
        if round_ % 2:
            first.end_epoch(lambda: None)
        if round_ % 3:
            second.end_epoch(lambda: None)
        if round_ % 5 < 2:
            node.publish()
        assert left(first) == left(second) == 100 - spent


def test_an_epoch_ends_only_once_the_one_before_is_included(node, monkeypatch):
    monkeypatch.setattr(module, "EPOCH_SECONDS", 0)
    process = node.start()
    epochs = []
    for _ in range(3):
        node.end(process, held(process, 1), 1)
        process.end_epoch(lambda: None)
        epochs.append(process._row.epoch)
    assert epochs[1] == epochs[2] == epochs[0]  # the first one is not included
    node.publish()
    process.end_epoch(lambda: None)
    assert process._row.epoch == epochs[0] + 1
    assert left(process) == 97


def test_an_epoch_without_requests_does_not_end(node, monkeypatch):
    monkeypatch.setattr(module, "EPOCH_SECONDS", 0)
    process = node.start()
    held(process, 1).cancel()
    process.end_epoch(lambda: pytest.fail("there is nothing to write"))


def test_records_are_written_before_their_epoch_ends(node, monkeypatch):
    monkeypatch.setattr(module, "EPOCH_SECONDS", 0)
    process = node.start()
    node.end(process, held(process, 1), 1)
    epochs = []
    process.end_epoch(lambda: epochs.append(process._row.epoch))
    assert epochs == [process._row.epoch - 1]


def test_what_was_spent_before_a_process_started_counts(node):
    node.past(99)
    node.publish()
    process = node.start()
    assert left(process) == 1


def test_a_budget_is_unavailable_until_its_amount_is_published(tmp_path):
    node = Node(tmp_path / "spending")
    process = node.start()
    with pytest.raises(BudgetsUnavailable):
        hold(process)
    node.publish(covered=False)
    with pytest.raises(BudgetsUnavailable):
        hold(process)
    node.publish()
    held(process)


def test_a_changed_budget_is_unavailable_until_all_is_read_again(node):
    node.past(30, subject="other")
    node.publish()
    process = node.start()
    node.file.uncover()
    with pytest.raises(BudgetsUnavailable):
        hold(process)
    held(process, subject="other")  # it has a published amount
    node.publish()
    held(process)


def test_a_failed_request_holds_nothing(node):
    process = node.start()
    node.file.uncover()
    with pytest.raises(BudgetsUnavailable):
        hold(process, 100)
    node.publish()
    held(process, 100)


def test_two_publications_keep_all_amounts(node):
    tags = {node.tag(subject=str(number)): number for number in range(50)}
    days = (FIRST.toordinal(), LAST.toordinal())
    for tag, amount in tags.items():
        node.bank.publish(node.bank.included, days, {tag: amount})
    for tag, amount in tags.items():
        assert node.file.published(node.file.words[5], tag) == amount


def test_removed_amounts_are_absent_from_both_banks(node):
    days = (FIRST.toordinal(), LAST.toordinal())
    node.bank.publish(node.bank.included, days, {node.tag(): 5, node.tag(subject="x"): 6})
    for _ in range(2):
        node.bank.publish(node.bank.included, days, {}, [node.tag()])
        assert node.file.published(node.file.words[5], node.tag()) is None
        assert node.file.published(node.file.words[5], node.tag(subject="x")) == 6


def test_a_publication_keeps_little_of_the_file_in_memory(node):
    node.past(30)
    for _ in range(2):
        node.publish()
    assert resident(node.path) < 1 << 20
    assert node.bank.value(node.tag()) == 30
    assert node.file.published(2, node.tag()) == node.file.published(1, node.tag()) == 30


def resident(path):
    """Return the bytes of a mapped file that are in the memory of this process."""
    size, is_of_file = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            is_of_file = line.endswith(f" {path}")
        elif is_of_file and line.startswith("Rss:"):
            size += int(line.split()[1]) << 10
    return size


def test_too_many_amounts_are_not_published(node, monkeypatch):
    monkeypatch.setattr("gateway.ipc.counters.spending_bank.MAX_PUBLISHED", 1)
    with pytest.raises(TooManyTags):
        node.bank.publish(node.bank.included, (0, 1), {1: 1, 2: 2})


# Kills


def test_a_killed_process_holds_nothing_and_keeps_what_it_spent(node):
    first, second = node.start(), node.start()
    node.end(first, held(first, 30), 30)
    held(first, 50)
    node.kill(first)
    assert left(second) == 70
    held(second, 70)


def test_what_a_killed_process_did_not_write_disappears_once_its_epoch_is_included(node):
    first, second = node.start(), node.start()
    node.end(first, held(first, 30), 30)
    node.end(first, held(first, 20), 20, written=False)
    node.kill(first)
    assert left(second) == 50
    node.publish()
    assert left(second) == 70


def test_a_row_is_used_again_only_after_its_epoch_is_included(node):
    first = node.start()
    node.end(first, held(first, 30), 30)
    number = first._row.number
    node.kill(first)
    second = node.start()
    assert left(second) == 70
    held(second, 1).cancel()
    assert second._row.number != number
    node.publish()
    third = node.start()
    held(third, 1).cancel()
    assert third._row.number == number
    assert left(third) == left(second) == 70


def test_epochs_go_on_in_another_life(node):
    first = node.start()
    settled = node.end(first, held(first), 10)
    node.kill(first)
    node.publish()
    second = node.start()
    later = node.end(second, held(second), 10)
    assert later.row == settled.row
    assert later.epoch > settled.epoch
    assert left(second) == 80


def test_a_process_that_stops_gives_its_row_back(node):
    process = node.start()
    node.end(process, held(process), 10)
    process.close()
    node.publish()
    assert all(node.file.words[EPOCH + row] == last for row, last in enumerate(node.bank.included))


def test_without_a_free_row_budgets_are_unavailable(node, monkeypatch):
    first, second = node.start(), node.start()
    with monkeypatch.context() as one_row:
        one_row.setattr("gateway.ipc.counters.spending_file.ROWS", 1)
        held(first, 1).cancel()
        with pytest.raises(BudgetsUnavailable):
            hold(second)
    monkeypatch.setattr(module, "CLAIM_SECONDS", 0)
    second._claim_at = 0
    first.close()
    node.publish()
    held(second, 1)


def test_a_replaced_file_is_left_to_its_processes(node):
    process = node.start()
    node.path.unlink()
    SpendingFile(node.path)
    with pytest.raises(BudgetsUnavailable, match="another release"):
        hold(process)


@pytest.mark.parametrize("offset", [0, 8])
def test_a_file_of_another_layout_or_boot_is_replaced(node, offset):
    with node.path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\1")
    again = SpendingFile(node.path)
    assert again.life != node.file.life
    assert not again.is_of_this_file(0, node.file.words[EPOCH])
    assert again.is_of_this_file(0, again.words[EPOCH])
    assert not again.is_of_this_file(ROWS, again.words[EPOCH])


# Periods


def timestamp(*moment: int) -> float:
    values = [*moment, 0, 0, 0][:6]
    return datetime(values[0], values[1], values[2], values[3], values[4], values[5], tzinfo=ZONE).timestamp()


@pytest.mark.parametrize(
    ("period", "later"),
    [(DAY, timestamp(2026, 3, 29)), (WEEK, timestamp(2026, 3, 30)), (MONTH, timestamp(2026, 4, 1)), (TOTAL, None)],
)
def test_a_period_ends_in_the_zone_of_the_installation(node, period, later):
    process = node.start()
    budget = Budget("b", TOKENS, period, 10)
    node.end(process, held(process, 10, budget), 10, budget)
    exceeded = hold(process, 1, budget)
    assert isinstance(exceeded, BudgetExceeded)
    assert exceeded.resets_at == later
    node.now = (later or timestamp(2026, 4, 3)) - 1
    assert isinstance(hold(process, 1, budget), BudgetExceeded)
    if later is not None:
        node.now = later
        held(process, 10, budget)


def test_the_clock_may_be_set_back_to_yesterday(node):
    process = node.start()
    node.end(process, held(process, 60), 60)
    node.now = NOON + 86_400
    node.end(process, held(process, 10), 10)
    node.now = NOON
    assert left(process) == 40
    node.publish()
    assert left(process) == 40
    node.now = timestamp(2026, 3, 26, 23)
    with pytest.raises(BudgetsUnavailable):
        hold(process)


def test_a_request_counts_in_the_period_in_which_it_completed(node):
    process = node.start()
    node.now = timestamp(2026, 3, 28, 23, 59, 59)
    reservation = held(process, 100)
    node.now = timestamp(2026, 3, 29, 0, 0, 1)
    node.end(process, reservation, 80)
    assert left(process) == 20
    node.now = timestamp(2026, 3, 28, 23, 59, 59)
    assert left(process) == 100
    held(process, 100)


def test_days_are_those_of_the_usage_page_when_clocks_change():
    days = periods.Days(ZONE)
    for hour in range(23):
        moment = timestamp(2026, 3, 29) + 3600 * hour
        assert days.of(round(moment * 1e6)) == date(2026, 3, 29)
    assert days.of(round((timestamp(2026, 3, 29) + 23 * 3600) * 1e6)) == date(2026, 3, 30)
    assert periods.end_of(DAY, date(2026, 3, 29), ZONE) == timestamp(2026, 3, 29) + 23 * 3600
    assert periods.end_of(MONTH, date(2026, 12, 31), ZONE) == timestamp(2027, 1, 1)
    assert periods.name_of(WEEK, date(2026, 3, 29)) == "2026-03-23"
    assert datetime.fromtimestamp(timestamp(2026, 3, 29), UTC).day == 28


# Room


def test_an_idle_place_is_given_to_another_budget(node, monkeypatch):
    monkeypatch.setattr(module, "EPOCH_SECONDS", 0)
    process = node.start()
    held(process, 1).cancel()
    row = process._row
    tags = [number * BUCKETS + 7 for number in range(1, BUCKET_SIZE + 3)]
    places = [row.hold(tag, 1) for tag in tags[:BUCKET_SIZE]]
    with pytest.raises(NoPlace):
        row.hold(tags[-1], 1)
    row.let_go(places[3], 1)
    assert row.hold(tags[-1], 1) == places[3]
    row.spend(tags[0], 5)
    row.let_go(places[0], 1)
    with pytest.raises(NoPlace):
        row.hold(tags[-2], 1)


def test_a_request_that_ends_without_a_place_counts_for_all(node):
    first, second = node.start(), node.start()
    held(first, 1).cancel()
    row = first._row
    for number in range(1, BUCKET_SIZE + 1):
        row.hold(number * BUCKETS + 7, 1)
    row.spend(7, 30)
    assert left(second) == 70
    first.close()
    node.publish()
    assert left(second) == 100


def test_budgets_in_use_are_bounded(node, monkeypatch):
    monkeypatch.setattr("gateway.ipc.counters.spending.MAX_PLACES", 3)
    process = node.start()
    reservations = [held(process, 1, subject=str(number)) for number in range(3)]
    with pytest.raises(BudgetsUnavailable):
        hold(process, 1, subject="more")
    reservations[1].cancel()
    held(process, 1, subject="more")


def test_a_place_of_another_tag_is_not_read(node):
    process, reader = node.start(), node.start()
    held(process, 1).cancel()
    assert left(reader) == 100
    row: SpendingRow = process._row
    place = row._places[node.tag()]
    assert row._forget_idle()
    row._places[12345] = place
    held(process, 1, subject="other").settle(50, 0, round(NOON * 1e6))
    assert left(reader) == 100
