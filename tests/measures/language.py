"""Measures of the language of comments, docstrings, identifiers and documents."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.measures.measure import Measure, Place
from tests.measures.source import Prose, Source

DOCSTRING_BEGINNINGS = 2.0
DOCS_LONG_LINES = 5.0
# Stored and public names stay: `said` of two records, and `asked_names` and `workers_told` of the JSON API.
DIALECT_IDENTIFIERS = 6
DOCS_COLUMNS = 100
TOP_DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")


@dataclass(frozen=True)
class WordGroup:
    """Words that may occur at most `limit` times in 1,000 words."""

    name: str
    limit: float
    words: frozenset[str]


WORD_GROUPS = [
    WordGroup("tell, told", 0.5, frozenset(["tell", "tells", "told", "telling"])),
    WordGroup("say, said", 2, frozenset(["say", "says", "said", "saying"])),
    WordGroup("what, whatever", 3, frozenset(["what", "whatever"])),
    WordGroup("who, whoever, nobody, somebody", 1, frozenset(["who", "whoever", "whom", "nobody", "somebody"])),
    WordGroup("answer", 1, frozenset(["answer", "answers", "answered", "answering"])),
]

# A variable is named by what its value is. Fields may have these names: their class says what is found, or when.
VAGUE_NAMES = frozenset(["it", "found", "at"])

DIALECT_WORDS = frozenset(["told", "tell", "asked", "asks", "asking", "say", "says", "said"])

# "past", "up", "down", "near" and "but" are left out: they also begin good noun phrases.
PREPOSITIONS = frozenset(
    """about above across after against along among around as at before behind below beneath beside besides between
    beyond by despite during except for from in inside into like of off on onto out outside over per since than through
    throughout till to toward towards under until unlike upon via with within without""".split()
)
BEGINNINGS = PREPOSITIONS | {"what", "whatever", "those", "whether"}

_LINK_ALONE = re.compile(
    r"^\s*(?:[-*+]\s+|\d+\.\s+)?(?:!?\[[^\]]*\]\([^)]*\)|\[!\[.*\)|\[[^\]]+\]:\s*\S+|<?https?://\S+)\s*$"
)
_FENCE = re.compile(r"^\s*(```|~~~)")
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def words(sources: list[Source]) -> int:
    return sum(len(prose.words) for source in sources for prose in _prose(source))


def word_frequencies(sources: list[Source]) -> list[Measure]:
    """Occurrences of each word group per 1,000 words of comments and docstrings."""
    total = words(sources)
    measures = []
    for group in WORD_GROUPS:
        places = list(_occurrences(sources, group.words))
        count = sum(place.weight for place in places)
        frequency = round(1000 * count / total, 2) if total else 0
        measures.append(Measure(f"{group.name}, per 1,000 words", frequency, group.limit, places))
    return measures


def docstring_beginnings(sources: list[Source]) -> Measure:
    """Percentage of docstrings that begin with a preposition, "what", "those" or "whether"."""
    total = sum(len(source.docstrings) for source in sources)
    places = [
        Place(source.path, docstring.line, _first_line(docstring))
        for source in sources
        for docstring in source.docstrings
        if docstring.words and docstring.words[0] in BEGINNINGS
    ]
    share = round(100 * len(places) / total, 1) if total else 0
    return Measure("docstrings that begin with a preposition, %", share, DOCSTRING_BEGINNINGS, places)


def dialect_identifiers(sources: list[Source]) -> Measure:
    """Names of functions, classes and arguments, and assigned names, that contain a word of DIALECT_WORDS.

    A name counts once per file.
    """
    places = []
    for source in sources:
        lines: dict[str, int] = {}
        for name, line in _identifiers(source.tree):
            if DIALECT_WORDS.intersection(_CAPITAL.sub("_", name).lower().split("_")):
                lines[name] = min(line, lines.get(name, line))
        places += [Place(source.path, line, name) for name, line in lines.items()]
    return Measure("identifiers with told, asked, said", len(places), DIALECT_IDENTIFIERS, places)


def vague_variables(sources: list[Source]) -> Measure:
    """Variables and parameters whose name is one of VAGUE_NAMES."""
    places = [
        Place(source.path, line, name)
        for source in sources
        for name, line in _variables(source.tree)
        if name in VAGUE_NAMES
    ]
    return Measure("variables named it, found, at", len(places), 0, places)


def documents(root: Path, contains: Callable[[Path], bool]) -> list[Path]:
    """Return the chosen documents, relative to `root`."""
    paths = [*sorted((root / "docs").rglob("*.md")), *(root / name for name in TOP_DOCUMENTS)]
    return [path.relative_to(root) for path in paths if path.exists() and contains(path.relative_to(root))]


def long_prose_lines(root: Path, paths: list[Path]) -> Measure:
    """Percentage of prose lines over 100 columns in documents; tables, code and lone links are no prose."""
    total, places = 0, []
    for path in paths:
        for number, line in prose_lines((root / path).read_text()):
            total += 1
            if len(line) > DOCS_COLUMNS:
                places.append(Place(path, number, f"{len(line)} columns", len(line)))
    share = round(100 * len(places) / total, 1) if total else 0
    return Measure("lines of docs over 100 columns, %", share, DOCS_LONG_LINES, places)


def prose_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number and text of each prose line of a Markdown document."""
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if _FENCE.match(line):
            is_code = not is_code
        elif not is_code and line.strip() and not line.lstrip().startswith("|") and not _LINK_ALONE.match(line):
            yield number, line


def _identifiers(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno


def _variables(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the names of parameters and of variables outside class bodies, with their lines."""
    nodes: list[ast.AST] = [tree]
    for node in nodes:
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        is_class = isinstance(node, ast.ClassDef)
        nodes += [
            child
            for child in ast.iter_child_nodes(node)
            if not (is_class and isinstance(child, ast.Assign | ast.AnnAssign))
        ]


def _prose(source: Source) -> Iterator[Prose]:
    yield from source.docstrings
    yield from source.comments


def _occurrences(sources: list[Source], group: frozenset[str]) -> Iterator[Place]:
    for source in sources:
        for prose in _prose(source):
            count = sum(word in group for word in prose.words)
            if count:
                yield Place(source.path, prose.line, _first_line(prose), count)


def _first_line(prose: Prose) -> str:
    lines = prose.text.strip().splitlines()
    return lines[0][:90] if lines else ""
