"""Starts gateways and control, kills and stops them, sets the clock, and compares what is spent with records."""

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.context import ForkProcess
from pathlib import Path

from gateway.ipc.counters.spending import SpendingReader, TagView
from gateway.ipc.counters.spending_file import EPOCH, ROWS, SpendingFile
from gateway.limits.periods import name_of
from gateway.registry.limits import DAY, KEY_LEVEL, USER_LEVEL
from tests.router import ROOT
from tests.torture.budgets.board import (
    BUDGETS,
    DAYS,
    DAYS_AROUND,
    KEY_IDS,
    SUBJECTS,
    USER_IDS,
    WORKERS,
    Board,
    Subject,
    is_edited,
    user_of,
)
from tests.torture.run import Result

FORK = multiprocessing.get_context("fork")  # this process has no thread, and no connection to the database
LOOKED_AT = 8  # budgets at once
END_SECONDS = 60.0


class BudgetResult(Result):
    """Result of a torture of budgets."""

    def __str__(self) -> str:
        return f"{self.name}: {self.kills} kills in {self.seconds:.0f} s, {len(self.wrong)} differences; {self.done}"


def process(role: str, root: Path, number: int, seed: int, rule: str) -> None:
    """Be a gateway or control, in a new process."""
    from tests.torture.budgets.broken import RULES

    if rule:
        RULES[rule]()
    if role == "control":
        from tests.torture.budgets.control import TorturedControl

        TorturedControl(root, seed).run()
    else:
        from tests.torture.budgets.gateway import TorturedGateway

        database_id = (root / "database-id").read_text()
        TorturedGateway(root, number, seed, database_id).run()


def prepare(root: Path) -> None:
    """Create the database with users, API keys and budgets. In a process of its own."""
    import django

    django.setup()
    from django.conf import settings

    from routerdash.processes import prepare as product

    product.create_database(settings.ROUTERDASH)
    product.migrate(settings.ROUTERDASH)
    from access.models import ApiKey, User
    from metrics.storage import database
    from tests.torture.budgets.control import store

    (root / "database-id").write_text(database.database_id())
    now = datetime.now(UTC)
    users = [
        User.objects.create(id=user_id, username=user_id, password="x", role="viewer", created_at=now)
        for user_id in USER_IDS
    ]
    for number, key in enumerate(KEY_IDS):
        ApiKey.objects.create(
            id=key, key_hash=f"{number:064x}", name=key, created_by=users[user_of(number)], created_at=now
        )
    for number in range(len(BUDGETS)):
        store(number)


@dataclass(slots=True)
class Torture:
    root: Path
    seed: int
    rule: str
    result: BudgetResult
    board: Board
    file: SpendingFile
    reader: SpendingReader
    rng: random.Random
    gateways: list[ForkProcess] = field(default_factory=list)
    control: ForkProcess | None = None
    starts: int = 0
    views: dict[tuple[int, str], TagView] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)

    def spawn(self, role: str, number: int = 0) -> ForkProcess:
        self.starts += 1
        values = (role, self.root, number, self.seed * 10_000 + self.starts, self.rule)
        child = FORK.Process(target=process, args=values, daemon=True)
        child.start()
        return child

    def turn(self) -> None:
        """Cause one fault, or none, and look at some budgets."""
        assert self.control is not None
        roll = self.rng.random()
        if roll < 0.2:
            number = self.rng.randrange(WORKERS)
            self.events["gateways killed"] += 1
            kill(self.gateways[number])
            self.gateways[number] = self.spawn("gateway", number)
        elif roll < 0.3:
            self.events["controls killed"] += 1
            kill(self.control)
            self.control = self.spawn("control")
        elif roll < 0.36:
            self.events["clock set"] += 1
            days = self.rng.choice((0, 0, 0, -1, 1, 2, -2))
            self.board.words[Board.OFFSET] = 86_400 * days
        elif roll < 0.42:
            self.events["stopped"] += 1
            stopped = self.rng.choice([self.control, *self.gateways])
            with contextlib.suppress(ProcessLookupError):  # it has failed: see below
                os.kill(stopped.pid or 0, signal.SIGSTOP)
                self.look()
                time.sleep(0.2)
                os.kill(stopped.pid or 0, signal.SIGCONT)
        deadline = time.monotonic() + self.rng.uniform(0.05, 0.4)
        while time.monotonic() < deadline:
            self.look()
            time.sleep(0.003)
        for child in (self.control, *self.gateways):
            if not child.is_alive():
                self.result.wrong.append(f"a process has ended with {child.exitcode}")

    def look(self) -> None:
        """What is spent is never less than what is written, nor more than what has begun to end.

        Written requests that were admitted before a budget was known count once control has stored them.
        """
        words, board = self.board.words, self.board
        day = board.index(datetime.fromtimestamp(time.time() + words[Board.OFFSET], UTC).date())
        for number in self.rng.sample(range(len(BUDGETS)), LOOKED_AT):
            edits = words[Board.EDITS + number]
            if not words[Board.KNOWN + number] or edits % 2:
                continue
            period, subject = BUDGETS[number][1].period, number // 2
            counted_day = day if period == DAY else None
            least = board.counted(number, counted_day)
            spent = self.spent(number, day)
            most = board.sum(Board.BEGUN, subject, counted_day)
            if spent is None or words[Board.EDITS + number] != edits:
                self.events["not looked at"] += 1
                continue
            self.events["looks"] += 1
            if not least <= spent <= most:
                self.wrong(f"{'less' if spent < least else 'more'} spent than written{' after edits' * bool(edits)}")

    def wrong(self, text: str) -> None:
        self.events[text] += 1
        if self.events[text] == 1:
            self.result.wrong.append(text)

    def spent(self, number: int, day: int) -> int | None:
        (level, subject_id), budget = BUDGETS[number]
        name = name_of(budget.period, self.board.day(day))
        view = self.views.get((number, name))
        if view is None:
            tag = self.file.tag(level, subject_id, budget.unit, budget.period, name)
            view = self.views[number, name] = TagView(tag)
        return self.reader.spent(view) if self.reader.covers(self.board.day(day).toordinal()) else None

    def finish(self) -> None:
        """End all requests, wait until all is included, and compare with the database."""
        words = self.board.words
        words[Board.OFFSET] = 0
        words[Board.STOP] = 1
        for gateway in self.gateways:
            gateway.join(END_SECONDS)
            if gateway.exitcode:
                self.wrong(f"a gateway has ended with {gateway.exitcode}")
        if not until(self.is_included):
            self.wrong("epochs of ended processes are not included")
        if not until(lambda: not os.listdir(self.root / "journal")):
            self.wrong("journals of ended processes remain")
        if self.control is not None:
            kill(self.control)
        self.compare()

    def is_included(self) -> bool:
        epochs, included = self.file.words[EPOCH : EPOCH + ROWS].tolist(), self.file.included()
        return all(epoch <= last for epoch, last in zip(epochs, included, strict=True))

    def compare(self) -> None:
        stored = self.stored()
        for number, (subject, budget) in enumerate(BUDGETS):
            days = range(DAYS) if budget.period == DAY else [None]
            for day in days:
                name = "" if day is None else self.board.day(day).isoformat()
                self.compare_one(number, day, stored[subject][name])
        admitted, refused, unavailable = (sum(self.board.words[Board.TALLIES + kind :: 3]) for kind in range(3))
        self.events |= Counter(admitted=admitted, refused=refused, unavailable=unavailable)
        if admitted < 100 or not refused:
            self.wrong("hardly any requests were admitted, or none was refused")

    def compare_one(self, number: int, day: int | None, expected: int) -> None:
        """Compare a budget on a day, or of all time (None), with the sum in the database."""
        budget, board, subject = BUDGETS[number][1], self.board, number // 2
        if expected < board.sum(Board.WRITTEN, subject, day):
            self.wrong("the database has less than was written")
        if not is_edited(number) and expected > budget.amount + board.sum(Board.MOVED, subject, day):
            self.wrong("a budget was exceeded")
        if board.words[Board.KNOWN + number] and (day is None or day >= DAYS_AROUND - 1):
            spent = self.spent(number, DAYS_AROUND if day is None else day)
            self.events["compared"] += 1
            if spent != expected:
                self.wrong(f"{'nothing' if spent is None else 'less' if spent < expected else 'more'} spent at the end")

    def stored(self) -> dict[Subject, Counter[str]]:
        """Return the sums of the database by subject and day; the empty day is all time."""
        from django.db import connection

        sums: dict[Subject, Counter[str]] = defaultdict(Counter)
        with connection.cursor() as cursor:
            cursor.execute("SELECT date, api_key_id, SUM(input_tokens + output_tokens) FROM rollup_days GROUP BY 1, 2")
            for day, key, tokens in cursor.fetchall():
                user = USER_IDS[user_of(KEY_IDS.index(key))]
                for subject in ((KEY_LEVEL, key), (USER_LEVEL, user), SUBJECTS[-1]):
                    sums[subject][day] += tokens
                    sums[subject][""] += tokens
        return sums


def kill(child: ForkProcess) -> None:
    child.kill()
    child.join()


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def torture_budgets(*, seconds: float, seed: int, rule: str = "") -> BudgetResult:
    """Run once. Each run has a data directory of its own, so this process runs one only."""
    result = BudgetResult(f"budgets, seed {seed}{f', broken: {rule}' if rule else ''}")
    with tempfile.TemporaryDirectory(prefix="budgets-") as name:
        root = Path(name)
        os.environ["ROUTERDASH_DATA_DIR"] = name
        os.environ["ROUTERDASH_TIME_ZONE"] = "UTC"
        os.environ.pop("DATABASE_URL", None)
        os.environ["DJANGO_SETTINGS_MODULE"] = "routerdash.settings"
        code = f"from pathlib import Path; from {__spec__.name} import prepare; prepare(Path({name!r}))"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        import django

        django.setup()
        (root / "journal").mkdir(exist_ok=True)
        file = SpendingFile(root / "spending")
        board = Board(root / "board")
        board.words[Board.BASE] = datetime.now(UTC).date().toordinal()
        for number in range(len(BUDGETS)):
            board.words[Board.KNOWN + number] = 1
        run = Torture(root, seed, rule, result, board, file, SpendingReader(file), random.Random(seed))
        started = time.monotonic()
        run.control = run.spawn("control")
        run.gateways = [run.spawn("gateway", number) for number in range(WORKERS)]
        with contextlib.suppress(KeyboardInterrupt):
            while time.monotonic() - started < seconds:
                run.turn()
        run.finish()
        result.seconds = time.monotonic() - started
        result.kills = run.events["gateways killed"] + run.events["controls killed"]
        result.done = dict(run.events)
    return result


if __name__ == "__main__":
    outcome = torture_budgets(seconds=float(sys.argv[1]), seed=int(sys.argv[2]), rule=sys.argv[3])
    print(outcome, *outcome.wrong, sep="\n  ")
    sys.exit(bool(outcome.wrong))
