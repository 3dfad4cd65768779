"""Figures of a page, read from its HTML without knowledge of its templates.

Each text of the page's main part that has a figure stands under the place where a reader finds it. A place is a panel,
a row and a column: the heads of a table, the term of a list of facts, else nothing. Texts of one place are joined. Text
that has digits but is no figure is removed by name (`NOT_FIGURES`); every digit that is left must be expected.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import NamedTuple

VOID = {"area", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
# Scripts, and templates from which a script creates rows.
UNSEEN = {"script", "style", "template", "noscript", "textarea", "pre"}
# Attributes that contain or draw a figure.
API_UNITS = ("title", "aria-label", "data-ok", "data-failed")

MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
NOT_FIGURES = {
    "an id": re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"),
    "a conversation": re.compile(r"\b[0-9a-f]{16}\b"),
    "a moment": re.compile(r"\b(\d{4}-)?\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?([+-]\d\d:\d\d|Z)?"),
    "an address": re.compile(r"(https?://)?\b\d+\.\d+\.\d+\.\d+(:\d+)?\b|\b[0-9a-f]{1,4}:[0-9a-f:]*:[0-9a-f:]*(/64)?"),
    "an example of an address": re.compile(r"https?://[\w:@.-]*\bexample\.com(:\d+)?"),
    "a pattern of models": re.compile(r"\b[a-z][\w.-]*\*"),
    "the beginning of a key": re.compile(r"\bsk_\w+…?"),
    "a day or a month": re.compile(
        rf"\b\d{{4}}-\d\d(-\d\d)?\b|\b\d\d? ({MONTHS})[a-z]*\b|\b({MONTHS})[a-z.]* \d\d?(, \d{{4}})?,?"
    ),
    "a time of day": re.compile(r"\b\d\d?(:\d\d(:\d\d)?( [ap]\.m\.)?| [ap]\.m\.)"),
}
NUMBER = re.compile(
    r"[+±\N{MINUS SIGN}]?(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
    r"(?:[\s ]?(?:%|ms|s|min|h|d|T|G|M)(?![\w/]))?"
)
# The units of the API: milliseconds, percent, ones.
UNITS = {"ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6, "d": 8.64e7, "M": 1e6, "G": 1e9, "T": 1e12}
WHOLE = 1e-9  # of 100 %: nothing less is rounded up to it


class Place(NamedTuple):
    panel: str
    row: str = ""
    column: str = ""


@dataclass(eq=False)
class Element:
    tag: str
    attributes: dict[str, str]
    parent: "Element | None" = None
    children: list["Element | str"] = field(default_factory=list)

    @property
    def elements(self) -> list["Element"]:
        return [child for child in self.children if isinstance(child, Element)]

    def inside(self) -> Iterator["Element"]:
        yield self
        for element in self.elements:
            yield from element.inside()

    def around(self) -> Iterator["Element"]:
        element: Element | None = self
        while element is not None:
            yield element
            element = element.parent

    def closest(self, *tags: str) -> "Element | None":
        return next((element for element in self.around() if element.tag in tags), None)

    def texts(self) -> Iterator[tuple["Element", str]]:
        """Yield texts in the order of reading, with the element that contains them or has them as an attribute."""
        if self.tag in UNSEEN:
            return
        yield from ((self, text) for name in API_UNITS if (text := self.attributes.get(name)))
        if self.tag == "input" and self.attributes.get("type") == "number":
            yield self, self.attributes.get("value", "")
        for child in self.children:
            if isinstance(child, Element):
                yield from child.texts()
            elif child.strip():
                yield self, child

    @property
    def words(self) -> str:
        return " ".join(" ".join(text.split()) for text in self._words())

    def _words(self) -> Iterator[str]:
        for child in self.children if self.tag not in UNSEEN else ():
            if isinstance(child, str):
                yield from [child] if child.strip() else []
            else:
                yield from child._words()

    @property
    def name(self) -> str:
        """Return the first words of the element."""
        return next((" ".join(text.split()) for text in self._words()), "")


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = self.current = Element("", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {name: value or "" for name, value in attrs}, self.current)
        self.current.children.append(made)
        if tag not in VOID:
            self.current = made

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        closed = self.current.closest(tag)
        if closed is not None and tag not in VOID:
            self.current = closed.parent or self.root

    def handle_data(self, data: str) -> None:
        self.current.children.append(data)


def parsed(html: str) -> Element:
    builder = _Builder()
    builder.feed(html)
    return builder.root


def main_of(page: Element) -> Element:
    """Return the element between navigation and footer, in our pages and in the admin."""
    by_id = {element.attributes.get("id"): element for element in page.inside()}
    return by_id.get("content") or by_id["main"]


def embedded(page: Element, name: str) -> str:
    """Return the JSON that a page gives to its script."""
    script = next(
        element for element in page.inside() if element.tag == "script" and element.attributes.get("id") == name
    )
    return "".join(child for child in script.children if isinstance(child, str))


def places(part: Element) -> dict[Place, str]:
    """Map each place to its texts and to figures of attributes."""
    by_place: dict[Place, list[str]] = {}
    for element, text in part.texts():
        by_place.setdefault(_place(element), []).append(" ".join(text.split()))
    return {place: " ".join(texts) for place, texts in by_place.items()}


def _place(element: Element) -> Place:
    panel = _panel(element)
    cell = element.closest("td", "th")
    if cell is not None and cell.closest("table") is not None:
        return Place(panel, *_heads(cell))
    if element.tag == "tr":
        return Place(panel, _row_name(element))
    fact = element.closest("dd")
    if fact is not None and fact.parent is not None:
        before = fact.parent.elements[: fact.parent.elements.index(fact)]
        return Place(panel, "", next((earlier.name for earlier in reversed(before) if earlier.tag == "dt"), ""))
    return Place(panel)


def _panel(element: Element) -> str:
    """Return the ID of its heading; in the admin, whose IDs are only numbered, the words of the heading."""
    labelled = next((outer for outer in element.around() if outer.attributes.get("aria-labelledby")), None)
    if labelled is None:
        return ""
    name = labelled.attributes["aria-labelledby"]
    if not name.startswith("fieldset-"):
        return name
    return next(inner.name for inner in labelled.inside() if inner.attributes.get("id") == name)


def _heads(cell: Element) -> tuple[str, str]:
    row, table = cell.closest("tr"), cell.closest("table")
    if row is None or table is None or cell.closest("thead") is not None:
        return "", ""
    cells = [child for child in row.elements if child.tag in ("td", "th")]
    head = next((inner for inner in table.inside() if inner.tag == "thead"), None)
    names = [inner for inner in head.inside() if inner.tag == "th"] if head else []
    place = next(position for position, other in enumerate(cells) if other is cell)
    return _row_name(row), names[place].name if place < len(names) else ""


def _row_name(row: Element) -> str:
    """Return the target of the link in the first cell with a word, or else the text."""
    head = next((child for child in row.elements if child.tag == "th"), None)
    head = head or next((child for child in row.elements if child.name), None)
    if head is None:
        return ""  # the row of a form that is not filled in
    return next((inner for inner in head.inside() if inner.tag == "a"), head).name


def without(text: str, names: Iterable[str]) -> str:
    """Remove names and other texts with digits that are not figures."""
    for name in names:
        text = text.replace(name, " … ")
    for pattern in NOT_FIGURES.values():
        text = pattern.sub(" … ", text)
    return text


def numbers(text: str) -> list[str]:
    """Return the numbers of a text without names. Raises ValueError for digits that are not a number."""
    texts = [match.group().strip() for match in NUMBER.finditer(text)]
    if any(character.isdigit() for character in NUMBER.sub("", text)):
        raise ValueError(f"digits that are no number: {text!r}")
    return texts


def value(number: str) -> tuple[float, float]:
    """Return the value in the unit of the API, and the value of its last digit."""
    digits, _, unit = re.sub(r"([a-zA-Z%]+)$", r" \1", number.replace(",", "")).partition(" ")
    digits = digits.lstrip("+±").replace("\N{MINUS SIGN}", "-")
    size = UNITS.get(unit.strip(), 1.0)
    step = size * 10.0 ** -len(digits.partition(".")[2])
    return float(digits) * size, WHOLE if number == "100 %" else step


def agrees(number: str, reported: Sequence[float]) -> bool:
    """Return True if the text equals a value reported before or after the page was read, or is between them, within the
    precision of its digits.
    """
    shown, step = value(number)
    return min(reported) - step < shown < max(reported) + step
