"""Cells of CSV files that spreadsheets open."""

from typing import Any

# First characters that make a spreadsheet compute a cell; the full-width ones do so where East Asian texts are usual.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def csv_cell(value: Any) -> Any:
    """Return a value that a spreadsheet does not execute as a formula; booleans in lower case, as in JSON."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA) else value
    return str(value).lower() if isinstance(value, bool) else value
