"""What the processes of a run share besides the product's own files, and what there is to count."""

import mmap
from datetime import date, timedelta
from pathlib import Path

from gateway.registry.limits import DAY, EVERYONE_LEVEL, KEY_LEVEL, TOKENS, TOTAL, USER_LEVEL, Budget

WORKERS, KEYS, USERS = 4, 20, 4
DAYS_AROUND = 3  # to which the clock may be set
DAYS = 2 * DAYS_AROUND + 1

Subject = tuple[str, str]


def identity(kind: int, number: int) -> str:
    return f"{number:08x}-{kind:04x}-4000-8000-000000000000"


KEY_IDS = [identity(1, number) for number in range(KEYS)]
USER_IDS = [identity(2, number) for number in range(USERS)]
SUBJECTS: list[Subject] = [
    *((KEY_LEVEL, key) for key in KEY_IDS),
    *((USER_LEVEL, user) for user in USER_IDS),
    (EVERYONE_LEVEL, ""),
]
_AMOUNTS = {KEY_LEVEL: 25_000, USER_LEVEL: 90_000, EVERYONE_LEVEL: 300_000}
BUDGETS: list[tuple[Subject, Budget]] = [
    (subject, Budget(identity(3, 2 * number + index), TOKENS, period, _AMOUNTS[subject[0]] * times))
    for number, subject in enumerate(SUBJECTS)
    for index, (period, times) in enumerate(((DAY, 1), (TOTAL, 4)))
]


def user_of(key: int) -> int:
    return key % USERS


def subjects_of(key: int) -> list[int]:
    """Return the numbers of the subjects that requests of an API key count for."""
    return [key, KEYS + user_of(key), KEYS + USERS]


def is_edited(number: int) -> bool:
    """Return True for the budgets that come and go during a run."""
    return number % 3 == 0


class Board:
    """Words in a mapped file."""

    OFFSET, STOP, BASE = 0, 1, 2  # seconds that the clock is wrong; 1: end; the real day, as in date.toordinal()
    KNOWN = 8  # for each budget: 1 while gateways know it
    EDITS = KNOWN + len(BUDGETS)
    WRITTEN = EDITS + len(BUDGETS)  # for each worker, subject and day: tokens of records that are in the journal
    SIZE = len(SUBJECTS) * DAYS
    BEGUN = WRITTEN + WORKERS * SIZE  # tokens of requests that began to end
    MOVED = BEGUN + WORKERS * SIZE  # of these, tokens of requests that were admitted on another day
    # For each worker, budget and day: of the written tokens, those of requests that were admitted with this budget.
    COUNTED = MOVED + WORKERS * SIZE
    BUDGET_SIZE = len(BUDGETS) * DAYS
    TALLIES = COUNTED + WORKERS * BUDGET_SIZE  # for each worker: admitted, refused, unavailable
    WORDS = TALLIES + WORKERS * 3

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(8 * self.WORDS)
            self.words = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")

    def day(self, index: int) -> date:
        return date.fromordinal(self.words[self.BASE]) + timedelta(days=index - DAYS_AROUND)

    def index(self, day: date) -> int:
        return day.toordinal() - self.words[self.BASE] + DAYS_AROUND

    def add(self, part: int, worker: int, subject: int, day: int, amount: int) -> None:
        self.words[part + worker * self.SIZE + subject * DAYS + day] += amount

    def add_counted(self, worker: int, number: int, day: int, amount: int) -> None:
        self.words[self.COUNTED + worker * self.BUDGET_SIZE + number * DAYS + day] += amount

    def counted(self, number: int, day: int | None) -> int:
        """Return the tokens that count for a budget over all workers, of one day or of all (None)."""
        return sum(
            self.words[self.COUNTED + worker * self.BUDGET_SIZE + number * DAYS + each_day]
            for worker in range(WORKERS)
            for each_day in (range(DAYS) if day is None else (day,))
        )

    def sum(self, part: int, subject: int, day: int | None) -> int:
        """Return the sum over all workers, of one day or of all (None)."""
        return sum(
            self.words[part + worker * self.SIZE + subject * DAYS + each_day]
            for worker in range(WORKERS)
            for each_day in (range(DAYS) if day is None else (day,))
        )
