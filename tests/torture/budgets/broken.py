"""Wrong implementations of the rules of budgets. The torture test must notice each of them."""

import time
from collections.abc import Callable, Collection
from typing import Any

from gateway.ipc.counters.spending import SpendingReader, SpendingRow, TagView
from gateway.ipc.counters.spending_bank import SpendingBank
from gateway.ipc.counters.spending_file import EPOCH, FLIP, ROWS, SpendingFile
from gateway.ipc.journal import Position
from gateway.limits.budgets import Budgets
from metrics.spending import stored
from metrics.spending.publisher import SpendingPublisher
from tests.torture.budgets.gateway import TorturedGateway


def record_before_spent() -> None:
    original = TorturedGateway.__init__

    def initialise(gateway: TorturedGateway, *values: Any) -> None:
        original(gateway, *values)
        gateway.records_first = True

    TorturedGateway.__init__ = initialise  # type: ignore[method-assign, assignment]


def budgets_not_in_record() -> None:
    """Control cannot know which amounts rows count, so it publishes them as well."""
    original = TorturedGateway.__init__

    def initialise(gateway: TorturedGateway, *values: Any) -> None:
        original(gateway, *values)
        gateway.names_budgets = False

    TorturedGateway.__init__ = initialise  # type: ignore[method-assign, assignment]


def running_epoch_included() -> None:
    def over(bank: SpendingBank) -> list[int]:
        return [max(bank.included[row], bank._words[EPOCH + row]) for row in range(ROWS)]

    SpendingBank.over = over  # type: ignore[method-assign, assignment]


def epoch_not_awaited() -> None:
    """A process ends its epoch although the one before is not included: its words are cleared too early."""
    SpendingRow.can_end_epoch = lambda row: row.has_spent  # type: ignore[method-assign, assignment]


def row_used_again() -> None:
    """A row is given to another process before what its last one spent is included."""
    original = SpendingFile.claim

    def claim(file: SpendingFile) -> tuple[int, int] | None:
        included = file.included
        file.included = lambda: file.words[EPOCH : EPOCH + ROWS].tolist()  # type: ignore[method-assign]
        try:
            return original(file)
        finally:
            file.included = included  # type: ignore[method-assign]

    SpendingFile.claim = claim  # type: ignore[method-assign, assignment]


def reservations_not_counted() -> None:
    def look(reader: SpendingReader, view: TagView) -> None:
        original(reader, view)
        view.held = []

    original = SpendingReader._look
    SpendingReader._look = look  # type: ignore[method-assign, assignment]


def open_epochs_forgotten() -> None:
    """After a restart, control publishes what rows count as well."""
    SpendingPublisher._read_open = lambda *values: None  # type: ignore[method-assign]


def segments_not_kept() -> None:
    def deletable(publisher: SpendingPublisher, writer: str, position: Position) -> Position:
        return position

    SpendingPublisher.deletable = deletable  # type: ignore[method-assign, assignment]


def budgets_not_covered() -> None:
    """Gateways learn of a budget that was added before what it has spent is published."""

    def cover(publisher: SpendingPublisher, subjects: Collection[Any]) -> None:
        for level, subject_id in subjects:
            kinds = stored.kinds_of(level, [subject_id]).get((level, subject_id), frozenset())
            if len(kinds) < 2:  # one was deleted
                original(publisher, subjects)

    original = SpendingPublisher.cover
    SpendingPublisher.cover = cover  # type: ignore[method-assign, assignment]


def two_stores() -> None:
    """The included epochs are published some time before the amounts."""
    original = SpendingBank.publish

    def publish(bank: SpendingBank, included: Any, days: Any, changed: Any, removed: Any = ()) -> None:
        original(bank, included, days, {}, ())
        time.sleep(0.002)
        original(bank, included, days, changed, removed)

    SpendingBank.publish = publish  # type: ignore[method-assign, assignment]


def bank_not_read_again() -> None:
    """A reader keeps the amount that it has, when another one is published."""

    def spent(reader: SpendingReader, view: TagView) -> int | None:
        if view.flip < 0:
            return original(reader, view)
        view.flip = reader._words[FLIP]
        return original(reader, view)

    original = SpendingReader._spent
    SpendingReader._spent = spent  # type: ignore[method-assign, assignment]


def reservation_kept() -> None:
    """What a request held is not given back."""
    Budgets.let_go = lambda budgets, places: None  # type: ignore[method-assign, assignment]


RULES: dict[str, Callable[[], None]] = {
    "order": record_before_spent,
    "named": budgets_not_in_record,
    "over": running_epoch_included,
    "awaited": epoch_not_awaited,
    "row": row_used_again,
    "held": reservations_not_counted,
    "restart": open_epochs_forgotten,
    "kept": segments_not_kept,
    "covered": budgets_not_covered,
    "one store": two_stores,
    "bank": bank_not_read_again,
    "given back": reservation_kept,
}
