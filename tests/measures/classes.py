"""Classes of the product."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.measures.source import Source

FRAMEWORK_NAMES = {"Meta", "Command", "Migration"}


@dataclass(frozen=True)
class ClassSource:
    """A class definition."""

    module: str
    path: Path
    node: ast.ClassDef

    @property
    def name(self) -> str:
        return self.node.name


def classes_of(sources: list[Source]) -> Iterator[ClassSource]:
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                yield ClassSource(source.module, source.path, node)
