"""Rules for the admin's lists of roll-ups, whose sums are computed again from the rows of the history."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway.base.addresses import client_of
from gateway.ipc import record
from tests.displayed_figures import Place
from tests.expected_figures import Column, Reported, Row, Rule, Shown, table
from tests.sample_installation import ZONE, Ended

PAGE = 50  # rows
MINUTE, DAY, MONTH = "%Y-%m-%d %H:%M", "%Y-%m-%d", "%Y-%m"
NO_ENDPOINT = "00000000-0000-0000-0000-000000000000"
COUNTED: dict[str, Sequence[Column]] = {
    "OK": ["ok"],
    "Failed": ["failed"],
    "Cancelled": ["cancelled"],
    "Tokens (in / out)": ["input_tokens", "output_tokens"],
}


@dataclass
class _Sum:
    ok: int = 0
    failed: int = 0
    cancelled: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    duration_ms: float = 0
    attempts_ok: int = 0
    attempts_failed: int = 0
    rejected: int = 0

    def count(self, row: Ended) -> None:
        self.ok += row.outcome == record.OK
        self.cancelled += row.outcome == record.CANCELLED
        self.failed += row.outcome not in (record.OK, record.CANCELLED)
        self.input_tokens += row.tokens[0]
        self.output_tokens += row.tokens[1]
        self.duration_ms += row.duration_ms if row.outcome == record.OK else 0

    def count_attempt(self, outcome: str) -> None:
        self.attempts_ok += outcome == record.OK
        self.attempts_failed += outcome not in (record.OK, record.CANCELLED)


Key = tuple[str, ...]
Sums = defaultdict[Key, _Sum]


def cells(form: str, newest: int) -> Rule:
    """Return sums by minute, day or month in the server's zone; of the newest day or month if none is selected."""

    def rule(page: Shown) -> Reported:
        rows = _rows(_cells(page, form), ("at", "endpoint_id", "model", "kind", "key_id"))
        date = page.query.get("date", rows[0]["at"][:newest])
        rows = _selected(rows, date, endpoint_id=page.query.get("endpoint"), kind=page.query.get("kind"))
        columns: dict[str, Sequence[Column]] = {
            "Mean duration": [lambda row: row["duration_ms"] / row["ok"] if row["ok"] else None],
            "Attempts (OK / failed)": ["attempts_ok", "attempts_failed"],
            "Rejected": ["rejected"],
        }
        return {Place(""): _below(rows)} | table("", rows[:PAGE], "at", COUNTED | columns)

    return rule


def _cells(page: Shown, form: str) -> Sums:
    """An attempt counts for its own endpoint, a request for its last endpoint."""
    sums: Sums = defaultdict(_Sum)
    for row in page.busy.history():
        moment, of = row.at.strftime(form), (row.model, row.kind, row.key_id)
        for attempt in row.attempts:
            sums[moment, attempt["endpoint_id"], *of].count_attempt(attempt["outcome"])
        sums[moment, row.attempts[-1]["endpoint_id"] if row.attempts else NO_ENDPOINT, *of].count(row)
    for rejected in page.busy.rejections():
        moment = datetime.fromtimestamp(rejected.completed_us // 1_000_000, ZONE).strftime(form)
        sums[moment, NO_ENDPOINT, "", "", rejected.api_key_id or ""].rejected += 1
    return sums


def hours_of_clients(page: Shown) -> Reported:
    """Return hours of UTC in the server's zone."""

    return _clients(page, lambda row: (_hour(row), row.client), ("at", "client"))


def hours_of_all_clients(page: Shown) -> Reported:
    """Return the same with the number of clients."""
    sums: Sums = defaultdict(_Sum)
    clients: defaultdict[str, set[str]] = defaultdict(set)
    for row in page.busy.history():
        sums[(_hour(row),)].count(row)
        clients[_hour(row)].add(client_of(row.client))
    rows = _selected(_rows(sums, ("at",)), page.query.get("date", ""))
    columns: dict[str, Sequence[Column]] = {"Clients": [lambda row: len(clients[row["at"]])]}
    return {Place(""): _below(rows)} | table("", rows[:PAGE], "at", COUNTED | columns)


def _hour(row: Ended) -> str:
    return row.at.astimezone(UTC).replace(minute=0).astimezone(ZONE).strftime(MINUTE)


def days_of_clients(page: Shown) -> Reported:
    """Days of UTC."""

    def key(row: Ended) -> Key:
        return row.at.astimezone(UTC).strftime(DAY), row.client, row.key_id, row.model

    return _clients(page, key, ("at", "client", "key_id", "model"))


def _clients(page: Shown, key: Callable[[Ended], Key], names: Sequence[str]) -> Reported:
    sums: Sums = defaultdict(_Sum)
    for row in page.busy.history():
        sums[key(row)].count(row)
    rows = _selected(_rows(sums, names), page.query.get("date", ""), client=page.query.get("q"))
    above = [len(rows)] if "q" in page.query else []  # the number of results
    return {Place(""): [*above, *_below(rows)]} | table("", rows[:PAGE], "at", COUNTED)


def _rows(sums: Sums, names: Sequence[str]) -> list[Row]:
    """Return the last rows first."""
    return [dict(zip(names, key, strict=True)) | vars(sums[key]) for key in sorted(sums, reverse=True)]


def _selected(rows: list[Row], date: str, **values: str | None) -> list[Row]:
    def wanted(row: Row) -> bool:
        return row["at"].startswith(date) and all(value in (None, row[name]) for name, value in values.items())

    return list(filter(wanted, rows))


def _below(rows: list[Row]) -> list[int]:
    """Return the pages, if there are several, and the number of rows."""
    pages = -(-len(rows) // PAGE)
    return [*(range(1, pages + 1) if pages > 1 else ()), len(rows)]
