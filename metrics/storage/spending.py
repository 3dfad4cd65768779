"""What the database writer needs of the publisher of budgets (metrics.spending), which is built on this package."""

from collections.abc import Collection, Mapping
from typing import Protocol

from gateway.ipc.journal import Position
from gateway.ipc.record import RequestRecord
from gateway.prices.costs import RequestCost
from metrics.storage.writer_step import WriterStep


class Spending(Protocol):
    """A publisher, as the thread of the database writer calls it. Each method may raise django.db.Error."""

    def begin(self, database_id: str) -> None:
        """Prepare a step, before its journals are read."""

    def add(self, step: WriterStep, counted: Collection[RequestRecord], costs: Mapping[str, RequestCost]) -> None:
        """Add the records of a committed batch, and their costs by id."""

    def publish(self, *, complete: bool) -> None:
        """Publish what has changed. `complete`: the step has read all journals to their ends."""

    def deletable(self, writer: str, position: Position) -> Position:
        """Return the position, not after a given one, before which the journal of a writer is not needed."""

    def forget(self) -> None:
        """Read everything again: figures of the database have changed in another way than by `add`."""


class NoSpending:
    """No budgets are published: in tests, and in commands."""

    def begin(self, database_id: str) -> None:
        pass

    def add(self, step: WriterStep, counted: Collection[RequestRecord], costs: Mapping[str, RequestCost]) -> None:
        pass

    def publish(self, *, complete: bool) -> None:
        pass

    def deletable(self, writer: str, position: Position) -> Position:
        return position

    def forget(self) -> None:
        pass
