"""Python source files and the parts of them that the measures read."""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("gateway", "endpoints", "metrics", "access", "routerdash", "manage.py")
_FENCE = re.compile(r"^\s*```.*?^\s*```", re.DOTALL | re.MULTILINE)
_WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")


@dataclass(frozen=True)
class Prose:
    """A comment or docstring; `line` is the line of its first word."""

    line: int
    text: str

    @cached_property
    def words(self) -> list[str]:
        """Words in lower case, without those inside code fences."""
        return [word.lower() for word in _WORD.findall(_FENCE.sub("", self.text))]


@dataclass(frozen=True)
class Source:
    """A Python file; `path` is relative to the project."""

    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @cached_property
    def module(self) -> str:
        """Dotted name; that of the package for an `__init__.py`."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @cached_property
    def is_migration(self) -> bool:
        return "migrations" in self.path.parts

    @cached_property
    def docstrings(self) -> list[Prose]:
        return list(_docstrings(self.tree))

    @cached_property
    def comments(self) -> list[Prose]:
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return [Prose(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]


def read_sources(paths: Iterable[Path], root: Path = ROOT) -> list[Source]:
    """Return the Python files among `paths` (files or folders), sorted by path."""
    files: set[Path] = set()
    for path in paths:
        files.update(path.rglob("*.py") if path.is_dir() else [path] if path.suffix == ".py" else [])
    return [Source(path.relative_to(root), path.read_text()) for path in sorted(files)]


def _docstrings(tree: ast.Module) -> Iterator[Prose]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str(text)), lineno=line), *_]:
                    yield Prose(line, text)
