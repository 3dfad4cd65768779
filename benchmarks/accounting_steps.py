"""Shares of the steps of accounting: CPU time of the functions of a record's path, each without the steps inside it."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

Step = tuple[object, str, str | Callable[..., str]]  # the owner of a function, its name, and the name of its step


class StepClock:
    """Measures the CPU time of wrapped functions. It takes about 1 µs for each call."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()  # seconds by step
        self._running: list[list[Any]] = []  # step and time of its last start, the outermost first

    def measure(self, steps: list[Step]) -> None:
        """Replace the functions by measured ones."""
        for owner, name, step in steps:
            setattr(owner, name, self._wrapped(getattr(owner, name), step))

    def _wrapped(self, function: Callable[..., Any], step: str | Callable[..., str]) -> Callable[..., Any]:
        def measured(*arguments: Any, **options: Any) -> Any:
            self._pause()
            self._running.append([step if isinstance(step, str) else step(*arguments), time.thread_time()])
            try:
                return function(*arguments, **options)
            finally:
                self._pause()
                self._running.pop()
                if self._running:
                    self._running[-1][1] = time.thread_time()

        return measured

    def _pause(self) -> None:
        if self._running:
            name, since = self._running[-1]
            self.spent[name] += time.thread_time() - since

    def table(self, records: int) -> str:
        """Return a line for each step, the most expensive first."""
        total = sum(self.spent.values())
        lines = [
            f"{name:24} {spent / records * 1e6:6.2f} µs {spent / total:4.0%}"
            for name, spent in self.spent.most_common()
        ]
        return "\n".join(lines)


def steps() -> list[Step]:
    """Return the steps of journal follower and database writer. Django must be set up."""
    from django.db import transaction

    from gateway.ipc import journal
    from metrics.counting.fold import Fold
    from metrics.memory.state import FiguresState
    from metrics.storage import bulk, history_rows, learning_rows, past_rows, rollups
    from metrics.storage.writer import DatabaseWriter

    return [
        (journal, "read", "journal: read, decode"),
        (Fold, "add_all", "fold"),
        (FiguresState, "add", "memory trackers"),
        (history_rows, "rows", "history: build rows"),
        (bulk, "insert", "history: insert"),
        (rollups, "upsert", lambda cursor, table, cells: f"{table.name}: build rows"),
        (bulk.Upsert, "write", lambda upsert, cursor, rows: f"{upsert.table}: write"),
        (rollups, "find", lambda cursor, table, *rest: f"{table}: find"),
        (bulk, "find", lambda cursor, table, *rest: f"{table}: find"),
        (learning_rows, "write", "learning: samples"),
        (past_rows, "write", "learning: samples of the past"),
        (transaction.Atomic, "__exit__", "commit"),
        (DatabaseWriter, "step", "other"),
    ]
