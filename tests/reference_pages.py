"""Lists of the reference pages that repeat tables of the code: `python -m tests.reference_pages` writes them."""

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

from gateway.base.bounds import BOUNDS
from gateway.base.config import table

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
COLUMNS = 98
_ENTRY = re.compile(r"^- `(\w+)`.*(?:\n  .*)*", re.MULTILINE)


def settings() -> dict[str, str]:
    """Return the entry of each setting by its variable."""
    return {
        name: _entry(name, f"{f', default `{default}`' if default else ''}: {meaning}")
        for name, default, meaning in table()
    }


def bounds() -> dict[str, str]:
    """Return the entry of each bound by its name."""
    return {
        bound.name: _entry(
            bound.name, f": {bound.title}. **Bound**: {bound.allowed}. **Beyond it**: {bound.consequence}"
        )
        for bound in BOUNDS
    }


PAGES = {"settings.md": settings, "bounds.md": bounds}


def entries(page: str) -> dict[str, str]:
    """Return the entries that a page of docs/reference/ has, by name."""
    return {match[1]: match[0] for match in _ENTRY.finditer((REFERENCE / page).read_text())}


def write(page: str, wanted: Mapping[str, str]) -> None:
    """Bring the entries of a page up to date in place. Raises KeyError for a removed name, ValueError for a new one."""
    path = REFERENCE / page
    path.write_text(_ENTRY.sub(lambda match: wanted[match[1]], path.read_text()))
    if missing := wanted.keys() - entries(page).keys():
        raise ValueError(f'{page} lacks {", ".join(sorted(missing))}: add a line "- `name`" in the right section')


def _entry(name: str, text: str) -> str:
    whole = re.sub(r"`[^`]+`", lambda span: span[0].replace(" ", "\0"), f"- `{name}`{text}")
    lines = textwrap.fill(whole, COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return lines.replace("\0", " ")


if __name__ == "__main__":
    for _page, _wanted in PAGES.items():
        write(_page, _wanted())
