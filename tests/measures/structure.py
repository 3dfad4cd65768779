"""Measures of files, classes and imports."""

import ast
import math
import re
from collections import defaultdict
from collections.abc import Iterator

from tests.measures.classes import FRAMEWORK_NAMES, ClassSource, classes_of
from tests.measures.imports import circles, import_graph
from tests.measures.measure import Measure, Place
from tests.measures.source import Source

LONG_FILE = 500  # lines, from which on a file is listed
NAMES_IN_TWO_MODULES = 10
UNTYPED_DICTS = 10
SQL_EXCEPTIONS = 10
_S608 = re.compile(r"noqa:[^#]*\bS608\b")


def file_lengths(sources: list[Source], folder: str = "") -> Measure:
    """Lines of the longest file, for information."""
    long = [Place(one.path, 1, f"{one.lines} lines", one.lines) for one in sources if one.lines > LONG_FILE]
    name = f"lines of the longest file {folder and 'in '}{folder}".strip()
    return Measure(name, max((one.lines for one in sources), default=0), None, long)


def file_length_p95(sources: list[Source]) -> Measure:
    """95th percentile (nearest rank) of the lines of files that are not empty, migrations excepted; for information."""
    measured = sorted(one.lines for one in sources if one.lines and not one.is_migration)
    rank = math.ceil(0.95 * len(measured)) - 1
    return Measure("lines of a file, p95", measured[rank] if measured else 0, None)


def class_names(sources: list[Source]) -> list[Measure]:
    """Class names that occur in more than one module, names that Django prescribes excepted."""
    by_name: dict[str, dict[str, ClassSource]] = defaultdict(dict)
    for one in classes_of(sources):
        if one.name not in FRAMEWORK_NAMES and "migrations" not in one.path.parts:
            by_name[one.name].setdefault(one.module, one)
    many = {name: list(places.values()) for name, places in by_name.items() if len(places) > 2}
    two = {name: list(places.values()) for name, places in by_name.items() if len(places) == 2}
    return [
        Measure("class names in more than two modules", len(many), 0, list(_shared_names(many))),
        Measure("class names in two modules", len(two), NAMES_IN_TWO_MODULES, list(_shared_names(two))),
    ]


def import_circles(sources: list[Source]) -> Measure:
    """Modules that import each other in a circle, TYPE_CHECKING imports included; each with its shortest circle."""
    sources = [one for one in sources if not one.is_migration]
    paths = {source.module: source.path for source in sources}
    places = []
    for circle in circles(import_graph(sources)):
        for module, steps in sorted(circle.items()):
            text = " → ".join([*(f"{step}:{line}" for step, line in steps), module])
            places.append(Place(paths[module], steps[0][1], text, len(circle) - len(steps) / 1000))
    return Measure("modules in import circles", len(places), 0, places)


def untyped_dicts(sources: list[Source]) -> Measure:
    """Functions whose return annotation contains `dict[str, Any]`, or a name that stands for it."""
    aliases = {name for one in sources for name in _dict_aliases(one.tree)}
    places = [
        Place(one.path, node.lineno, f"{node.name} → {ast.unparse(node.returns)}")
        for one in sources
        for node in ast.walk(one.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.returns is not None
        and _has_untyped_dict(node.returns, aliases)
    ]
    return Measure("functions that return dict[str, Any]", len(places), UNTYPED_DICTS, places)


def sql_exceptions(sources: list[Source]) -> Measure:
    """Exceptions from ruff's rule against assembled SQL."""
    places = [
        Place(one.path, comment.line, comment.text)
        for one in sources
        for comment in one.comments
        if _S608.search(comment.text)
    ]
    return Measure("noqa: S608", len(places), SQL_EXCEPTIONS, places)


def _shared_names(by_name: dict[str, list[ClassSource]]) -> Iterator[Place]:
    for name, places in sorted(by_name.items()):
        text = f"{name}: {', '.join(one.module for one in places)}"
        for one in places:
            yield Place(one.path, one.node.lineno, text, len(places))


def _dict_aliases(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.value) == "dict[str, Any]":
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _has_untyped_dict(annotation: ast.expr, aliases: set[str]) -> bool:
    if "dict[str, Any]" in ast.unparse(annotation):
        return True
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return "dict[str, Any]" in annotation.value
    return any(isinstance(node, ast.Name) and node.id in aliases for node in ast.walk(annotation))
