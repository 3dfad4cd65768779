"""How roll-ups are written: sums and histograms are added to the rows of a span of time, inside a transaction.

There is one writer, so a histogram is read, added to, and written back; a sum is added to by the database.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metrics import histogram
from metrics.database import storable
from metrics.fold import CELL_COLUMNS, Cell
from metrics.histogram import Histogram

_DIMENSIONS = ("endpoint_id", "model", "kind", "api_key_id")
_HISTOGRAMS = ("durations", "first_tokens")


@dataclass(frozen=True, slots=True)
class RollUpTable:
    """Its statements. `span` is the column that says which minute or day."""

    name: str
    span: str

    @property
    def read(self) -> str:
        where = " AND ".join(f"{column} = %s" for column in (self.span, *_DIMENSIONS))
        return f"SELECT {', '.join(_HISTOGRAMS)} FROM {self.name} WHERE {where}"  # noqa: S608

    @property
    def write(self) -> str:
        keys = (self.span, *_DIMENSIONS)
        columns = (*keys, *CELL_COLUMNS, *_HISTOGRAMS)
        # COALESCE: rows of releases that did not count this yet
        sums = [f"{name} = COALESCE({self.name}.{name}, 0) + excluded.{name}" for name in CELL_COLUMNS]
        replaced = [f"{name} = COALESCE(excluded.{name}, {self.name}.{name})" for name in _HISTOGRAMS]
        return (
            f"INSERT INTO {self.name} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))}) "  # noqa: S608
            f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {', '.join((*sums, *replaced))}"
        )


MINUTES = RollUpTable("rollup_minutes", "minute")
DAYS = RollUpTable("rollup_days", "date")


def upsert(cursor: Any, table: RollUpTable, cells: Mapping[Any, Cell]) -> None:
    """Add the cells to a table; `cells` by (span, endpoint, model, kind, key). In order of their keys: two writers that
    meet on PostgreSQL never wait for each other in a circle.
    """
    rows = [_row(cursor, table, key, cells[key]) for key in sorted(cells)]
    if rows:
        cursor.executemany(table.write, rows)


def _row(cursor: Any, table: RollUpTable, key: tuple[Any, ...], cell: Cell) -> tuple[Any, ...]:
    key = tuple(storable(part) if isinstance(part, str) else part for part in key)
    stored: tuple[str | None, ...] = (None, None)
    if cell.durations:  # without a duration there is no first token either
        cursor.execute(table.read, key)
        stored = cursor.fetchone() or stored
    return (
        *key,
        *(getattr(cell, name) for name in CELL_COLUMNS),
        _merged(stored[0], cell.durations),
        _merged(stored[1], cell.first_tokens),
    )


def _merged(stored: str | None, new: Histogram) -> str | None:
    if not new:
        return None
    counts = histogram.unpack(stored)
    histogram.add(counts, new)
    return histogram.pack(counts)
