"""Control, reduced to the journal follower, the database writer, the publisher of budgets, and edits of budgets."""

import random
import time
from pathlib import Path

from django.db import Error, connection

from gateway.ipc.counters.spending_file import SpendingFile
from metrics.costs.price_cache import price_cache
from metrics.memory.journal_follower import JournalFollower
from metrics.memory.journal_reader import JournalReader
from metrics.memory.trackers import Trackers
from metrics.spending.money import Money
from metrics.spending.publisher import SpendingPublisher
from metrics.storage import database, seeding
from metrics.storage.history_rows import EndpointName
from metrics.storage.writer import DatabaseWriter
from metrics.storage.writer_step import PositionConflict
from tests.torture.budgets.board import BUDGETS, Board, is_edited
from tests.torture.budgets.gateway import UTC


class TorturedControl:
    """A process that writes the journals to the database, and publishes what budgets have spent, until it is killed."""

    def __init__(self, root: Path, seed: int) -> None:
        self.board = Board(root / "board")
        self.rng = random.Random(seed)
        self.database_id = database.database_id()
        self.follower = JournalFollower(JournalReader(root / "journal"), Trackers(UTC))
        self.spending = SpendingPublisher(
            SpendingFile(root / "spending"),
            self.follower.reader,
            UTC,
            lambda entry: None,
            Money(UTC, price_cache.rates),
            self.clock,
        )
        self.writer = DatabaseWriter(
            self.follower, UTC, lambda key: EndpointName("a", "192.0.2.7"), reseed=self.seed, spending=self.spending
        )

    def clock(self) -> float:
        return time.time() + self.board.words[Board.OFFSET]

    def seed(self) -> None:
        self.follower.seed(seeding.load(time.time()), self.database_id)

    def run(self) -> None:
        self.seed()
        self.writer.sweep()
        self.writer.step()
        for number in range(len(BUDGETS)):
            if self.board.words[Board.KNOWN + number] != self.is_stored(number):
                self.edit(number)  # control was killed in the middle of an edit
        while True:
            self.follower.catch_up()
            try:
                self.writer.step()
            except (PositionConflict, Error):
                connection.close()
            if self.rng.random() < 0.5 and not self.board.words[Board.STOP]:
                self.edit(self.rng.choice([number for number in range(len(BUDGETS)) if is_edited(number)]))
            time.sleep(self.rng.uniform(0.01, 0.08))

    def is_stored(self, number: int) -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM budgets WHERE id = %s", (BUDGETS[number][1].id,))
            return cursor.fetchone() is not None

    def edit(self, number: int) -> None:
        """Delete a budget that gateways know, or create one: they learn of it when its amount is published."""
        (level, subject_id), budget = BUDGETS[number]
        words = self.board.words
        words[Board.EDITS + number] += 1
        if words[Board.KNOWN + number]:
            words[Board.KNOWN + number] = 0
            with connection.cursor() as cursor:
                cursor.execute("DELETE FROM budgets WHERE id = %s", (budget.id,))
            self.spending.cover([(level, subject_id)])
        else:
            if not self.is_stored(number):
                store(number)
            self.spending.cover([(level, subject_id)])
            words[Board.KNOWN + number] = 1
        words[Board.EDITS + number] += 1


def store(number: int) -> None:
    (level, subject_id), budget = BUDGETS[number]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO budgets (id, level, subject_id, unit, period, amount, hard, refuses_unpriced, instead)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, '')",
            (budget.id, level, subject_id, budget.unit, budget.period, budget.amount, False, False),
        )
