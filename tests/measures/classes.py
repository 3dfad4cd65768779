"""Methods and attributes of the product's classes, inherited ones counted."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tests.measures.source import Source

FRAMEWORK_NAMES = {"Meta", "Command", "Migration"}


@dataclass(frozen=True)
class ClassSource:
    """A class definition and the names of its own methods and attributes."""

    module: str
    path: Path
    node: ast.ClassDef

    @property
    def name(self) -> str:
        return self.node.name

    @cached_property
    def methods(self) -> set[str]:
        return {function.name for function in _functions(self.node.body)}

    @cached_property
    def attributes(self) -> set[str]:
        """Names that methods assign on their first argument, properties excepted."""
        assigned: set[str] = set()
        for function in _functions(self.node.body):
            arguments = [*function.args.posonlyargs, *function.args.args]
            if arguments and not _has_decorator(function, "staticmethod", "classmethod"):
                assigned.update(_assigned(function, arguments[0].arg))
        return assigned - self.methods


@dataclass
class ClassTable:
    """All classes of some source files, with bases resolved by their imported names."""

    classes: list[ClassSource] = field(default_factory=list)
    _by_place: dict[tuple[str, str], ClassSource] = field(default_factory=dict)
    _names: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)

    @classmethod
    def read(cls, sources: list[Source]) -> "ClassTable":
        table = cls()
        for source in sources:
            for node in ast.walk(source.tree):
                if isinstance(node, ast.ClassDef):
                    one = ClassSource(source.module, source.path, node)
                    table.classes.append(one)
                    table._by_place[source.module, node.name] = one
            table._names[source.module] = dict(_imported(source))
        return table

    def members(self, one: ClassSource) -> tuple[set[str], set[str]]:
        """Return the names of methods and of attributes, inherited ones of these classes included."""
        methods, attributes = set(one.methods), set(one.attributes)
        for base in self._ancestors(one, set()):
            methods |= base.methods
            attributes |= base.attributes
        return methods, attributes - methods

    def _ancestors(self, one: ClassSource, seen: set[tuple[str, str]]) -> Iterator[ClassSource]:
        for expression in one.node.bases:
            base = self._resolve(one.module, expression)
            if base is not None and base is not one and (base.module, base.name) not in seen:
                seen.add((base.module, base.name))
                yield base
                yield from self._ancestors(base, seen)

    def _resolve(self, module: str, expression: ast.expr) -> ClassSource | None:
        if isinstance(expression, ast.Subscript):
            return self._resolve(module, expression.value)
        if isinstance(expression, ast.Name):
            place = self._names[module].get(expression.id, (module, expression.id))
            return self._by_place.get(place)
        if isinstance(expression, ast.Attribute):
            written = ast.unparse(expression.value)
            base, name = self._names[module].get(written, ("", written))
            return self._by_place.get((f"{base}.{name}" if base else name, expression.attr))
        return None


def _functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from _functions([*node.body, *node.orelse])


def _assigned(function: ast.AST, receiver: str) -> Iterator[str]:
    for node in ast.walk(function):
        match node:
            case ast.Attribute(value=ast.Name(id=name), ctx=ast.Store()) if name == receiver:
                yield node.attr


def _has_decorator(function: ast.FunctionDef | ast.AsyncFunctionDef, *names: str) -> bool:
    return any(isinstance(one, ast.Name) and one.id in names for one in function.decorator_list)


def _imported(source: Source) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield each imported name with the (module, name) that it stands for."""
    package = source.module.split(".") if source.is_package else source.module.split(".")[:-1]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((alias.asname or alias.name, (base, alias.name)) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.asname, ("", alias.name)) for alias in node.names if alias.asname)
