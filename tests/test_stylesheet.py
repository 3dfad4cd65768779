"""The stylesheet has no rule for what no page has."""

import re
from collections.abc import Iterator
from pathlib import Path

from django.contrib.messages.constants import DEFAULT_TAGS

ROOT = Path(__file__).resolve().parent.parent
STYLES = ROOT / "static" / "css" / "routerdash.css"


def styled() -> set[str]:
    """Every class that a selector names, but the chart library's own."""
    css = re.sub(r"/\*.*?\*/", "", STYLES.read_text(), flags=re.DOTALL)
    selectors = " ".join(re.findall(r"([^{}]+)\{", css))
    return {name for name in re.findall(r"\.([a-zA-Z][\w-]*)", selectors) if not name.startswith(("u-", "uplot"))}


def used() -> Iterator[str]:
    """The words of class attributes, of icons and of what scripts set as classes, and those of messages."""
    for page in (ROOT / "templates").rglob("*.html"):
        yield from re.findall(r'class="([^"]*)"|css="([^"]*)"|(\{% icon .*?%\})', page.read_text())
    for script in (ROOT / "static" / "js").glob("*.js"):
        yield from (line for line in script.read_text().splitlines() if "class" in line)
    for module in (ROOT / "metrics" / "templatetags").glob("*.py"):
        yield module.read_text()
    yield from DEFAULT_TAGS.values()


def test_every_class_of_the_stylesheet_is_used() -> None:
    words = {word for text in used() for word in re.findall(r"[\w-]+", str(text))}
    assert sorted(styled() - words) == []
