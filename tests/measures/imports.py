"""Import circles between modules of the product."""

import ast
from collections.abc import Iterator, Mapping
from itertools import pairwise

from tests.measures.source import Source

Graph = Mapping[str, Mapping[str, int]]
# Modules on a circle, each with the line of its import of the next.
Steps = list[tuple[str, int]]


def import_graph(sources: list[Source]) -> dict[str, dict[str, int]]:
    """Map each module to the modules that it imports, with the line; imports in functions and for types count."""
    known = {source.module for source in sources}
    graph: dict[str, dict[str, int]] = {}
    for source in sources:
        targets = graph.setdefault(source.module, {})
        for name, line in _imports(source, known):
            if name != source.module:
                targets.setdefault(name, line)
    return graph


def circles(graph: Graph) -> list[dict[str, Steps]]:
    """Return the strongly connected components of more than one module, the largest first.

    Each maps its modules to a shortest circle that begins there.
    """
    components = [component for component in _components(graph) if len(component) > 1]
    return [{module: _circle(graph, module) for module in one} for one in sorted(components, key=len, reverse=True)]


def _imports(source: Source, known: set[str]) -> Iterator[tuple[str, int]]:
    package = source.module.split(".") if source.is_package else source.module.split(".")[:-1]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                if name in known or base in known:
                    yield (name if name in known else base, node.lineno)


def _components(graph: Graph) -> list[set[str]]:
    """Find strongly connected components (Tarjan, 1972), without recursion."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[set[str]] = []
    for start in graph:
        if start in order:
            continue
        work = [(start, iter(graph[start]))]
        order[start] = low[start] = len(order)
        stack.append(start)
        while work:
            module, targets = work[-1]
            for target in targets:
                if target not in order:
                    order[target] = low[target] = len(order)
                    stack.append(target)
                    work.append((target, iter(graph[target])))
                    break
                if target in stack:
                    low[module] = min(low[module], order[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[module])
                if low[module] == order[module]:
                    components.append({*stack[(first := stack.index(module)) :]})
                    del stack[first:]
    return components


def _circle(graph: Graph, start: str) -> Steps:
    """Return a shortest circle from a module back to itself."""
    reached = {start: [start]}
    queue = [start]
    for module in queue:
        for target in graph[module]:
            if target == start:
                path = [*reached[module], start]
                return [(one, graph[one][following]) for one, following in pairwise(path)]
            if target not in reached:
                reached[target] = [*reached[module], target]
                queue.append(target)
    raise ValueError(f"{start} is in no circle")
