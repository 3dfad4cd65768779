"""One gateway, reduced to its budgets and its journal."""

import heapq
import random
import time
from pathlib import Path
from zoneinfo import ZoneInfo

from gateway.ipc import journal
from gateway.ipc.counters.spending_file import HELD, SLOTS, SpendingFile
from gateway.ipc.record import OK, AttemptRecord, RequestRecord, uuid7
from gateway.limits import budgets as module
from gateway.limits.budgets import Budgets, BudgetsUnavailable, Demand, Held, Reserve
from gateway.limits.periods import day_of
from tests.torture.budgets.board import BUDGETS, KEY_IDS, KEYS, USER_IDS, Board, subjects_of, user_of

UTC = ZoneInfo("UTC")
ENDPOINT = "aaaaaaaa-0000-4000-8000-000000000001"
SEGMENT_BYTES = 3_000
RATE = 300.0  # requests a second
EPOCH_SECONDS = 0.6
WAITS = 0.15  # mean duration of a request, in seconds


class TorturedGateway:
    """A process that admits and ends requests until it is killed, or told to stop."""

    def __init__(self, root: Path, number: int, seed: int, database_id: str) -> None:
        vars(module)["EPOCH_SECONDS"] = EPOCH_SECONDS
        self.board = Board(root / "board")
        self.number = number
        self.rng = random.Random(seed)
        self.budgets = Budgets(SpendingFile(root / "spending"), UTC, self.clock)
        self.journal = journal.Writer(root / "journal", database_id, segment_bytes=SEGMENT_BYTES)
        # End, number, key, tokens, day, budgets and reservation of each request.
        self.running: list[tuple[float, int, int, int, int, list[int], Held]] = []
        # Key, day, tokens and budgets of records that are not written yet.
        self.unwritten: list[tuple[int, int, int, list[int]]] = []
        self.records_first = False  # a broken rule
        self.names_budgets = True  # likewise

    def clock(self) -> float:
        return time.time() + self.board.words[Board.OFFSET]

    def run(self) -> None:
        due, count = time.monotonic(), 0
        while not self.board.words[Board.STOP] or self.running:
            now = time.monotonic()
            while self.running and self.running[0][0] <= now:
                self.end(*heapq.heappop(self.running)[2:])
            self.flush()
            self.budgets.end_epoch(self.flush)
            while due < now and not self.board.words[Board.STOP]:
                due += self.rng.expovariate(RATE)
                count += 1
                self.admit(count, now)
            if self.rng.random() < 0.001:
                self.journal.close()  # the next record starts another one
            time.sleep(0.001)
        self.journal.close()
        row = self.budgets._row
        if row is not None and any(row._words[row._first + HELD : row._first + HELD + SLOTS]):
            raise AssertionError("something is held without a request")
        self.budgets.close()

    def admit(self, count: int, now: float) -> None:
        key = int(KEYS * self.rng.random() ** 1.5)
        reserved = self.rng.randrange(20, 200)
        tally = Board.TALLIES + 3 * self.number
        try:
            budgets = self.known(key)
            held = self.budgets.hold(demands_of(budgets), Reserve(reserved, reserved), None)
        except BudgetsUnavailable:
            self.board.words[tally + 2] += 1
            return
        if not isinstance(held, Held):
            self.board.words[tally + 1] += 1
        elif self.rng.random() < 0.05:
            held.cancel()
        else:
            self.board.words[tally] += 1
            tokens = int(reserved * self.rng.choice((0, 0.3, 0.6, 0.9, 1.0)))
            day = self.board.index(day_of(int(self.clock() * 1e6), UTC))
            end = now + self.rng.expovariate(1 / WAITS)
            heapq.heappush(self.running, (end, count, key, tokens, day, budgets, held))

    def known(self, key: int) -> list[int]:
        """Return the numbers of the budgets of an API key that gateways know now."""
        numbers = [2 * subject + index for subject in subjects_of(key) for index in (0, 1)]
        return [number for number in numbers if self.board.words[Board.KNOWN + number]]

    def end(self, key: int, tokens: int, admitted: int, budgets: list[int], held: Held) -> None:
        completed_us = int(self.clock() * 1e6)
        day = self.board.index(day_of(completed_us, UTC))
        for subject in subjects_of(key):
            self.board.add(Board.BEGUN, self.number, subject, day, tokens)
            if day != admitted:
                self.board.add(Board.MOVED, self.number, subject, day, tokens)
        if self.records_first:
            self.put(key, tokens, completed_us, None, None, None)
            self.unwritten.append((key, day, tokens, budgets))
            self.flush()
            time.sleep(0.002)
            held.settle(tokens, 0, completed_us)
            return
        settled = held.settle(tokens, 0, completed_us)
        assert settled is not None
        bits = settled.budgets if self.names_budgets else None
        self.put(key, tokens, completed_us, settled.row, settled.epoch, bits)
        self.unwritten.append((key, day, tokens, budgets))

    def put(
        self, key: int, tokens: int, completed_us: int, row: int | None, epoch: int | None, bits: int | None
    ) -> None:
        record = RequestRecord(
            uuid7(), completed_us, "chat_completions", "tiny", OK, 200, 1000,
            attempts=(AttemptRecord(ENDPOINT, OK, 200, 1000),), input_tokens=tokens - tokens // 3,
            output_tokens=tokens // 3, api_key_id=KEY_IDS[key], user_id=USER_IDS[user_of(key)], row=row, epoch=epoch,
            budgets=bits,
        )  # fmt: skip
        self.journal.put(record)

    def flush(self) -> None:
        if self.journal.pending:
            self.journal.flush()
        for key, day, tokens, budgets in self.unwritten:
            for subject in subjects_of(key):
                self.board.add(Board.WRITTEN, self.number, subject, day, tokens)
            for number in budgets:
                self.board.add_counted(self.number, number, day, tokens)
        self.unwritten.clear()


def demands_of(budgets: list[int]) -> list[Demand]:
    return [(*BUDGETS[number][0], BUDGETS[number][1]) for number in budgets]
