"""Requests of the history, newest first, a page at a time: none costs more for how many rows there are.

A page begins behind the last row of the page before (no OFFSET) and nothing is counted. A time span, an endpoint,
outcomes that are no success and the id that a client gave are answered by indexes. Everything else is looked for in the
next thousands of these rows; where that is not enough to fill a page, it says how far back it has looked, and the next
page goes on from there. A page of newer rows goes the same way in the other direction.

Knows no Django: an export reads in a process of its own (metrics.export).
"""

import base64
import binascii
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from gateway import reasons, record
from gateway.kinds import GENERATING
from metrics.fold import NO_ENDPOINT

LOOK = 10_000  # rows that one page looks through
LOOK_SCATTERED = 2_000  # where each may lie on a page of the disk of its own

OUTCOMES = (
    record.OK, record.REFUSED, record.FAILED, record.TRUNCATED, record.CANCELLED, record.NO_ENDPOINT, record.QUEUE,
)  # fmt: skip
ERROR = "error"  # any outcome but `ok`
STATUSES = {"success": record.OK, "error": record.FAILED}  # what rows have that the reference wrote

COLUMNS = (
    "id", "completed_at", "model", "kind", "request_type", "endpoint_id", "endpoint_name", "client_ip", "api_key_id",
    "outcome", "status", "status_code", "error_message", "streamed", "duration_us", "duration_ms", "first_token_us",
    "input_tokens", "output_tokens", "total_tokens", "tokens_estimated", "attempts", "queue_us", "request_id",
    "endpoint_ip",
)  # fmt: skip

NIL_ID = str(uuid.UUID(int=0))  # before every id

Vendor = Literal["sqlite", "postgresql"]
Row = Sequence[Any]
Run = Callable[[str, Sequence[Any]], list[Row]]  # SQL with %s, and the values
NameOf = Callable[[str], str | None]  # what an endpoint of this id is called, or was


class StoredAttempt(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An attempt as a history row holds it: an object without what goes without saying."""

    endpoint_id: str
    outcome: str
    status: int
    duration_us: int
    error: str | None = None
    at_us: int = 0  # from the request's arrival
    reason: str = ""  # one of gateway.balancer's words
    scores: dict[str, int] = {}  # endpoint and requests in flight
    said: str | None = None  # the endpoint's own words on its error: content, as bodies are


class BadCursor(ValueError):
    """A cursor that no page of ours has given out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which requests. `text` is part of the name of a model or an endpoint, or of a client's address, `model_part` of a
    model's name alone; `outcome` may be ERROR; who was `retried` had more than one attempt.
    """

    since: datetime | None = None  # of completion, inclusive
    until: datetime | None = None  # exclusive
    endpoint_id: str | None = None
    outcome: str | None = None
    model: str | None = None
    api_key_id: str | None = None
    client_ip: str | None = None
    streamed: bool | None = None
    min_duration_ms: float | None = None
    min_tokens: int | None = None  # in and out
    status_code: int | None = None
    retried: bool | None = None
    request_id: str | None = None  # the client's own
    text: str | None = None
    model_part: str | None = None


_NEWER = "+"  # in front of the moment of a cursor


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page begins: behind this row, or, without an id, before this moment; one of `newer` rows goes the other
    way, from the first row after this one, or after this moment. `moment` as the database has it.
    """

    moment: str
    id: str | None
    newer: bool = False

    def encode(self) -> str:
        text = f"{_NEWER if self.newer else ''}{self.moment}|{self.id or ''}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, vendor: Vendor) -> "Cursor":
        """Raises BadCursor."""
        try:
            padded = text.encode("ascii") + b"=" * (-len(text) % 4)
            text = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
            moment, divider, row_id = text.removeprefix(_NEWER).partition("|")
            if not divider or datetime.fromisoformat(moment).tzinfo is None or "\0" in row_id:
                raise ValueError(text)
            if row_id and vendor == "postgresql":
                row_id = str(uuid.UUID(row_id))
        except (ValueError, binascii.Error):
            raise BadCursor(text) from None
        return cls(moment, row_id or None, text.startswith(_NEWER))


@dataclass(frozen=True, slots=True)
class Page:
    rows: list[Row]  # of COLUMNS
    next: Cursor | None  # None: there is nothing older
    looked_back_to: datetime | None  # everything wanted since then is in this page or before; None: everything there is
    previous: Cursor | None = None  # of newer rows; None: there were none when this page was read
    cut: bool = False  # the rows are fewer than asked for only because no more were looked at


def page(run: Run, vendor: Vendor, wanted: Wanted, cursor: Cursor | None, size: int) -> Page:
    """At most `size` rows, and where the pages beside it begin. At most two queries; raises what `run` raises."""
    query = _Query(vendor, wanted, cursor)
    edge = _edge(run, query)
    rows = readable(run(*query.rows(edge, size + 1)))
    if cursor is not None and cursor.newer:
        return _newer(rows, edge, size, cursor)
    return _older(rows, edge, size, cursor)


def _edge(run: Run, query: "_Query") -> str | None:
    """As far as what no index answers is looked for; None: through all there is."""
    if not query.sought:
        return None
    found = run(*query.edge(LOOK if query.index == "history_completed" else LOOK_SCATTERED))
    return moment_text(found[0][0]) if found else None


@dataclass(frozen=True, slots=True)
class Numbered:
    """`count` rows are wanted in all; at least so many if it is `capped`."""

    rows: list[Row]
    count: int
    capped: bool


def numbered(run: Run, vendor: Vendor, wanted: Wanted, skip: int, size: int) -> Numbered:
    """The rows behind the newest `skip`, and how many there are, counted up to LOOK. At most three queries."""
    query = _Query(vendor, wanted, None)
    edge = _edge(run, query)
    ((count,),) = run(*query.count(edge, LOOK + 1))
    return Numbered(readable(run(*query.rows(edge, size, skip))), min(count, LOOK), edge is not None or count > LOOK)


def count(run: Run, vendor: Vendor, wanted: Wanted) -> int:
    """How many, without an end to the search: for what lies in a short time. One query."""
    ((found,),) = run(*_Query(vendor, wanted, None).count(None))
    return int(found)


def _older(rows: list[Row], edge: str | None, size: int, cursor: Cursor | None) -> Page:
    previous = None
    if cursor is not None:
        previous = _at(rows[0], newer=True) if rows else Cursor(cursor.moment, NIL_ID, newer=True)
    if len(rows) > size:
        rows = rows[:size]
        return Page(rows, _at(rows[-1]), moment(rows[-1][1]), previous)
    if edge is not None:
        return Page(rows, Cursor(edge, None), moment(edge), previous, cut=True)
    return Page(rows, None, None, previous)


def _newer(rows: list[Row], edge: str | None, size: int, cursor: Cursor) -> Page:
    """Of rows that come oldest first."""
    full = len(rows) > size
    rows = rows[size - 1 :: -1] if full else rows[::-1]
    older = _at(rows[-1]) if rows else Cursor(edge or cursor.moment, None)
    back_to = moment(rows[-1][1] if rows else older.moment)
    if full:
        return Page(rows, older, back_to, _at(rows[0], newer=True))
    if edge is not None:
        return Page(rows, older, back_to, Cursor(edge, None, newer=True), cut=True)
    return Page(rows, older, back_to, None)


def _at(row: Row, *, newer: bool = False) -> Cursor:
    return Cursor(moment_text(row[1]), str(row[0]), newer)


def one(run: Run, request_id: str) -> Row | None:
    """The row of this id, by the primary key; None where there is none."""
    rows = readable(run(f"SELECT {', '.join(COLUMNS)} FROM request_history WHERE id = %s", [request_id]))  # noqa: S608
    return rows[0] if rows else None


# How many attempts a row has; none of a row that was damaged by hand.
_ATTEMPTS = {
    "sqlite": "COALESCE(json_array_length(attempts), 0)",
    "postgresql": "CASE WHEN jsonb_typeof(attempts) = 'array' THEN jsonb_array_length(attempts) ELSE 0 END",
}


class _Query:
    """Conditions in two parts: what an index answers, and what is sought among that."""

    def __init__(self, vendor: Vendor, wanted: Wanted, cursor: Cursor | None) -> None:
        self.vendor = vendor
        self.newer = cursor is not None and cursor.newer
        self.index = "history_completed"
        self.indexed: list[tuple[str, tuple[Any, ...]]] = []
        self.sought: list[tuple[str, tuple[Any, ...]]] = []
        self.behind: list[tuple[str, tuple[Any, ...]]] = []  # among rows of the cursor's own moment
        failing = wanted.outcome not in (None, record.OK)
        if wanted.request_id is not None:
            self.index = "history_request_id"
            self.indexed.append(("request_id = %s", (wanted.request_id,)))
        elif wanted.endpoint_id is not None:
            self.index = "history_endpoint"
            self.indexed.append(("endpoint_id = %s", (wanted.endpoint_id,)))
        elif failing:
            self.index = "history_failed"
            self.indexed.append(("status = 'error'", ()))  # no parameter: SQLite must see that the index is of these
        self._span(wanted, cursor)
        self._seek(wanted)

    def _span(self, wanted: Wanted, cursor: Cursor | None) -> None:
        if wanted.since is not None:
            self.indexed.append(("completed_at >= %s", (self._bound(wanted.since),)))
        if wanted.until is not None:
            self.indexed.append(("completed_at < %s", (self._bound(wanted.until),)))
        if cursor is None:
            return
        way = ">" if cursor.newer else "<"
        if cursor.id is None:
            self.indexed.append((f"completed_at {way} %s", (cursor.moment,)))
        else:
            self.indexed.append((f"completed_at {way}= %s", (cursor.moment,)))
            self.behind.append((f"(completed_at {way} %s OR id {way} %s)", (cursor.moment, cursor.id)))

    def _seek(self, wanted: Wanted) -> None:
        equal = {
            "model": wanted.model,
            "api_key_id": wanted.api_key_id,
            "client_ip": wanted.client_ip,
            "status_code": wanted.status_code,
            "endpoint_id": wanted.endpoint_id if self.index != "history_endpoint" else None,
        }
        self.sought += [(f"{self._plain(name)} = %s", (value,)) for name, value in equal.items() if value is not None]
        self.sought += self._outcome(wanted.outcome)
        if wanted.streamed is not None:
            self.sought.append(("streamed = %s", (wanted.streamed,)))
        if wanted.min_duration_ms is not None:
            self.sought.append(
                ("COALESCE(duration_us, duration_ms * 1000) >= %s", (round(wanted.min_duration_ms * 1000),))
            )
        if wanted.min_tokens is not None:
            tokens = "COALESCE(total_tokens, COALESCE(input_tokens, 0) + COALESCE(output_tokens, 0))"
            self.sought.append((f"{tokens} >= %s", (wanted.min_tokens,)))
        if wanted.retried is not None:
            self.sought.append((f"{_ATTEMPTS[self.vendor]} {'>' if wanted.retried else '<='} 1", ()))
        if wanted.text:
            self.sought.append(self._part(wanted.text, "model", "endpoint_name", "client_ip"))
        if wanted.model_part:
            self.sought.append(self._part(wanted.model_part, "model"))

    def _part(self, text: str, *names: str) -> tuple[str, tuple[Any, ...]]:
        part = "instr(lower({}), lower(%s)) > 0" if self.vendor == "sqlite" else "strpos(lower({}), lower(%s)) > 0"
        return f"({' OR '.join(map(part.format, names))})", (text,) * len(names)

    def _outcome(self, outcome: str | None) -> list[tuple[str, tuple[Any, ...]]]:
        """Rows that the reference wrote have none, but a status."""
        if outcome is None or (outcome == ERROR and self.index == "history_failed"):
            return []
        if outcome == record.FAILED:
            return [("(outcome = %s OR (outcome IS NULL AND status = 'error'))", (record.FAILED,))]
        if outcome in (record.OK, ERROR):
            return [(f"{self._plain('status')} = '{'success' if outcome == record.OK else 'error'}'", ())]
        return [("outcome = %s", (outcome,))]

    def edge(self, look: int) -> tuple[str, list[Any]]:
        """The moment of the row behind the next `look` ones; none where there are fewer."""
        way = "ASC" if self.newer else "DESC"
        return self._select("completed_at", self.indexed, f"ORDER BY completed_at {way} LIMIT 1 OFFSET {look}")

    def rows(self, edge: str | None, limit: int, skip: int = 0) -> tuple[str, list[Any]]:
        """Newest first; those of a cursor of newer rows oldest first."""
        way = "ASC" if self.newer else "DESC"
        end = f"ORDER BY completed_at {way}, id {way} LIMIT {limit} OFFSET {skip}"
        return self._select(", ".join(COLUMNS), self._conditions(edge), end)

    def count(self, edge: str | None, most: int | None = None) -> tuple[str, list[Any]]:
        """How many, up to `most`."""
        sql, values = self._select("1 AS one", self._conditions(edge), "" if most is None else f"LIMIT {most}")
        return f"SELECT COUNT(*) FROM ({sql}) AS found", values  # noqa: S608

    def _conditions(self, edge: str | None) -> list[tuple[str, tuple[Any, ...]]]:
        found = [*self.indexed, *self.behind, *self.sought]
        if edge is not None:
            found.append((f"completed_at {'<=' if self.newer else '>='} %s", (edge,)))
        return found

    def _select(self, columns: str, conditions: list[tuple[str, tuple[Any, ...]]], end: str) -> tuple[str, list[Any]]:
        # An adopted database has indexes of its own, which SQLite would take for the better ones.
        hint = f" INDEXED BY {self.index}" if self.vendor == "sqlite" else ""
        where = " AND ".join(text for text, _ in conditions) or "true"
        values = [value for _, some in conditions for value in some]
        return f"SELECT {columns} FROM request_history{hint} WHERE {where} {end}", values  # noqa: S608

    def _plain(self, column: str) -> str:
        """Not by an index of an adopted database."""
        return f"+{column}" if self.vendor == "sqlite" else column

    def _bound(self, moment: datetime) -> Any:
        """For `>=` and `<`. Text is cut before its offset and an empty fraction: the reference writes 0 to 9 digits."""
        moment = moment.astimezone(UTC)
        if self.vendor == "postgresql":
            return moment
        return moment.replace(tzinfo=None).isoformat(timespec="microseconds" if moment.microsecond else "seconds")


_NUMBERS = frozenset(
    COLUMNS.index(name)
    for name in (
        "status_code", "streamed", "duration_us", "duration_ms", "first_token_us", "input_tokens", "output_tokens",
        "total_tokens", "tokens_estimated", "queue_us",
    )
)  # fmt: skip
_sound: set[tuple[type, ...]] = set()  # types that the columns of undamaged rows have


def readable(rows: list[Row]) -> list[Row]:
    """Rows of COLUMNS, in which a damaged cell costs only itself: SQLite stores anything in any column."""
    return [row if tuple(map(type, row)) in _sound else _readable(row) for row in rows]


def _readable(row: Row) -> Row:
    fixed = tuple(_number(value) if at in _NUMBERS else _text(value) for at, value in enumerate(row))
    if all(one is other for one, other in zip(fixed, row, strict=True)):
        _sound.add(tuple(map(type, row)))
    return fixed


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def has_page(row: Row) -> bool:
    """Has it an id by which it can be asked for?"""
    return _UUID.fullmatch(str(row[0])) is not None


def _number(value: Any) -> Any:
    return value if value is None or isinstance(value, int) else 0


def _text(value: Any) -> Any:
    """Moments, UUIDs and lists are PostgreSQL's."""
    return str(value, "utf-8", "replace") if isinstance(value, bytes) else value


def moment(value: Any) -> datetime | None:
    """A moment as either database gives it; None for what cannot be read."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    found = value
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def json_time(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC with `Z`, as the dashboard's JSON has it."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_text(value: Any) -> str:
    return value if isinstance(value, str) else value.astimezone(UTC).isoformat(timespec="microseconds")


def nameless(endpoint_id: str) -> str | None:
    """Where nobody knows endpoints by name."""
    return None


def told(row: Row, name_of: NameOf = nameless) -> dict[str, Any]:
    """A row as the API tells it: durations in milliseconds, null for what is not known."""
    it = dict(zip(COLUMNS, row, strict=True))
    endpoint_id = None if str(it["endpoint_id"]) == NO_ENDPOINT else str(it["endpoint_id"])

    def known(some_id: str) -> str | None:
        """The row itself knows what its endpoint was called."""
        return name_of(some_id) or (it["endpoint_name"] if some_id == endpoint_id else None)

    tries = attempts(it["attempts"])
    return {
        "id": str(it["id"]),
        "completed_at": json_time(moment(it["completed_at"])),
        "model": it["model"],
        "kind": it["kind"] or it["request_type"].lower(),
        "endpoint_id": endpoint_id,
        "endpoint_name": None if endpoint_id is None else it["endpoint_name"],
        "client_ip": it["client_ip"],
        "api_key_id": None if it["api_key_id"] is None else str(it["api_key_id"]),
        "outcome": it["outcome"] or STATUSES.get(it["status"], it["status"]),
        "status_code": it["status_code"],
        "error": reasons.shown(it["outcome"], it["error_message"], it["status_code"]),
        "streamed": _flag(it["streamed"]),
        "duration_ms": it["duration_ms"] if it["duration_us"] is None else it["duration_us"] / 1000,
        "first_token_ms": None if it["first_token_us"] is None else it["first_token_us"] / 1000,
        "input_tokens": it["input_tokens"],
        "output_tokens": it["output_tokens"],
        "total_tokens": it["total_tokens"],
        "tokens_estimated": _flag(it["tokens_estimated"]),
        "attempts": [_attempt(attempt, known) for attempt in tries],
        "queue_ms": None if it["queue_us"] is None else it["queue_us"] / 1000,
        "request_id": it["request_id"],
        "tokens_per_second": _speed(it, tries),
    }


def _speed(it: dict[str, Any], tries: list[StoredAttempt]) -> float | None:
    """Of one answer, as it goes into the moving average: output tokens over the whole attempt that made them."""
    if it["outcome"] != record.OK or it["kind"] not in GENERATING or not tries:
        return None
    seconds = tries[-1].duration_us / 1e6
    return it["output_tokens"] / seconds if it["output_tokens"] and seconds else None


FIELDS = (
    "id", "completed_at", "model", "kind", "endpoint_id", "endpoint_name", "client_ip", "api_key_id", "outcome",
    "status_code", "error", "streamed", "duration_ms", "first_token_ms", "input_tokens", "output_tokens",
    "total_tokens", "tokens_estimated", "attempts", "queue_ms", "request_id", "tokens_per_second",
)  # fmt: skip


def _flag(value: Any) -> bool | None:
    return None if value is None else bool(value)


_attempts_of = msgspec.json.Decoder(list[StoredAttempt]).decode


def attempts(stored: Any) -> list[StoredAttempt]:
    """SQLite gives text, PostgreSQL what it stands for. None of a row that was damaged by hand."""
    if stored is None:
        return []
    try:
        return _attempts_of(stored) if isinstance(stored, str) else msgspec.convert(stored, list[StoredAttempt])
    except (msgspec.DecodeError, UnicodeError):
        return []


def _attempt(it: StoredAttempt, name_of: NameOf) -> dict[str, Any]:
    return {
        "endpoint_id": it.endpoint_id,
        "endpoint_name": name_of(it.endpoint_id),
        "outcome": it.outcome,
        "status_code": it.status or None,
        "at_ms": it.at_us / 1000,
        "duration_ms": it.duration_us / 1000,
        "error": reasons.shown(it.outcome, it.error, it.status),
        "reason": it.reason or None,
        "scores": [
            {"endpoint_id": key, "endpoint_name": name_of(key), "in_flight": count}
            for key, count in sorted(it.scores.items(), key=lambda score: (score[1], score[0]))
        ],
    }
