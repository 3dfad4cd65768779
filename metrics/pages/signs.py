"""Signs of endpoints in long tables: there are few different ones, so each is rendered once for a page."""

from collections.abc import Iterable
from functools import cache
from typing import Any

from django.template.loader import render_to_string


def signed(rows: Iterable[dict[str, Any]], *, quiet: bool = False) -> list[dict[str, Any]]:
    """Rows with those of their status and breaker. `quiet`: none for a breaker that is closed."""
    status = cache(lambda state: render_to_string("inc/status.html", {"state": state}))
    breaker = cache(lambda state: render_to_string("inc/breaker.html", {"state": state, "quiet": quiet}))
    return [
        row | {"status_mark": status(row["entry"].shown_status), "breaker_mark": breaker(row["breaker"])}
        for row in rows
    ]
