"""Rewrite a module of the gateway for mypyc, in a copy and without moving a line.

Sources stay plain Python. What mypyc needs beyond types can be derived from the syntax tree: which names are
constants, which classes are extended by modules that stay in Python, and which class implements a protocol.
"""

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

_OF_TYPES = {"TypeVar", "NewType", "ParamSpec", "NamedTuple", "namedtuple", "Literal", "Callable", "type"}

Edit = tuple[int, int, int, str]  # line and column, the number of bytes that it replaces, and the text


def split(source: str, name: str, structs: Collection[str]) -> tuple[str, str | None]:
    """Move what mypyc cannot define into a module that stays in Python: structs, whose keywords it drops, and generic
    data classes, with what their bodies need. Return both sources; None: there is nothing to move.

    Both keep the numbers of lines. `name`: of the module for what is moved; `structs`: names of all struct classes.
    """
    tree = ast.parse(source)
    moved = _moved(tree, structs)
    if not moved:
        return source, None
    lines = source.split("\n")
    kept, plain = list(lines), [""] * len(lines)
    for node in tree.body:
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
        span = slice(first - 1, node.end_lineno)
        if node in moved:
            plain[span] = lines[span]
            kept[span] = [""] * (node.end_lineno - first + 1)
            kept[first - 1] = f"from {name} import " + ", ".join(
                f"{bound} as {bound}" for bound in sorted(set(_bound_by(node)))
            )
        elif isinstance(node, (ast.Import, ast.ImportFrom)) or node is tree.body[0]:
            plain[span] = lines[span]
    return "\n".join(kept), "\n".join(plain)


def struct_names(trees: Collection[ast.Module]) -> set[str]:
    """The names of all classes that are msgspec structs, through any number of bases."""
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    names = {"Struct"}
    while more := {node.name for node in classes if node.name not in names and names & bases(node)}:
        names |= more
    return names


def bases(node: ast.ClassDef) -> set[str]:
    """The names of the base classes, without their modules and parameters."""
    return {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}


def _moved(tree: ast.Module, structs: Collection[str]) -> list[ast.stmt]:
    """The statements at the top of a module that define structs and generic data classes, and what these name."""
    by_name: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            for name in _bound_by(node):
                by_name.setdefault(name, []).append(node)
    waiting: list[ast.stmt] = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and (node.name in structs or _is_generic_data(node))
    ]
    moved: list[ast.stmt] = []
    while waiting:
        node = waiting.pop()
        if node not in moved:
            moved.append(node)
            named = (inner for inner in ast.walk(node) if isinstance(inner, ast.Name))
            waiting += (of for name in named for of in by_name.get(name.id, ()))
    return moved


def _is_generic_data(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list) and "Generic" in bases(node)


def _bound_by(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        yield node.name
    elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from (inner.id for inner in ast.walk(target) if isinstance(inner, ast.Name))


def rewritten(
    source: str, subclassed: Collection[str] = (), protocols: Mapping[str, tuple[str, str]] = MappingProxyType({})
) -> str:
    """Return the source of a module as mypyc shall read it.

    `subclassed`: classes that Python modules extend; `protocols`: by the name of each protocol, the module and the name
    of the class that alone implements it.
    """
    tree = ast.parse(source)
    annotations, imports = _classes_of_protocols(tree, protocols)
    edits = [*_constants(tree), *_classes(tree, subclassed), *_deletions(tree), *annotations]
    if edits:
        edits.append(_imports(tree))
    return _edited(source, edits) + imports


def _classes_of_protocols(tree: ast.Module, protocols: Mapping[str, tuple[str, str]]) -> tuple[list[Edit], str]:
    """Annotate with the class in place of a protocol: mypyc looks up each attribute of a protocol by its name.

    Return the edits, and the imports for them, which only the type checker reads.
    """
    named = re.compile(rf"\b({'|'.join(protocols)})\b") if protocols else None
    edits: list[Edit] = []
    used: set[str] = set()
    for node in ast.walk(tree):
        annotation = node.returns if isinstance(node, ast.FunctionDef) else getattr(node, "annotation", None)
        if named is None or not isinstance(annotation, ast.expr):
            continue
        text = annotation.value if isinstance(annotation, ast.Constant) else ast.unparse(annotation)
        if isinstance(text, str) and (names := set(named.findall(text))):
            used |= names
            shown = named.sub(r"_Class\1", text).replace("'", "")
            edits.append((annotation.lineno, annotation.col_offset, _length(annotation), repr(shown)))
    imports = [
        f"    from {protocols[protocol][0]} import {protocols[protocol][1]} as _Class{protocol}"
        for protocol in sorted(used)
    ]
    return edits, "\n".join(["", "if TYPE_CHECKING:", *imports, ""]) if used else ""


def _constants(tree: ast.Module) -> Iterator[Edit]:
    """Declare what a module binds once, at its top, as Final: mypyc reads it without a dictionary."""
    bound = Counter(_bound(tree))
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
            if isinstance(target, ast.Name) and bound[target.id] == 1 and _is_value(target.id, node.value):
                yield *_end(target), 0, ": Final"
            elif (values := _values_of(node)) and isinstance(target, ast.Tuple) and node.lineno == node.end_lineno:
                pairs = zip(target.elts, values, strict=True)
                names = [(name.id, ast.unparse(value)) for name, value in pairs if isinstance(name, ast.Name)]
                if len(names) == len(target.elts) and all(bound[name] == 1 for name, _ in names):
                    text = "; ".join(f"{name}: Final = {value}" for name, value in names)
                    yield node.lineno, node.col_offset, _length(node), text
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            shown = ast.unparse(node.annotation)
            if bound[node.target.id] == 1 and "Final" not in shown and "TypeAlias" not in shown:
                yield node.annotation.lineno, node.annotation.col_offset, 0, "Final["
                yield *_end(node.annotation), 0, "]"


def _values_of(node: ast.Assign) -> list[ast.expr]:
    """Return the values that an assignment to several names has, as far as the source shows them."""
    match node.value:
        case ast.Tuple(elts=values):
            return values
        case ast.Call(func=ast.Name(id="range"), args=[ast.Constant(value=int(count))]):
            return [ast.Constant(number) for number in range(count)]
    return []


def _bound(tree: ast.Module) -> Iterator[str]:
    """The names that the module binds, once for each time."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Global):
            yield from node.names
            yield from node.names
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        if isinstance(node, functions):
            yield from (name for inner in ast.walk(node) if isinstance(inner, ast.Global) for name in inner.names * 2)
        elif not isinstance(node, ast.comprehension):
            waiting += ast.iter_child_nodes(node)


def _is_value(name: str, value: ast.expr) -> bool:
    """Whether the assignment binds a value and not a type."""
    if isinstance(value, ast.Call):
        called = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
        if called in _OF_TYPES:
            return False
    return bool(re.fullmatch(r"_?_?[A-Z][A-Z0-9_]*|_?[a-z][a-z0-9_]*", name)) and not name.startswith("__")


def _classes(tree: ast.Module, subclassed: Collection[str]) -> Iterator[Edit]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        data_class = [decorator for decorator in node.decorator_list if "dataclass" in ast.unparse(decorator)]
        for decorator in data_class:
            if isinstance(decorator, ast.Call):
                kept = [keyword for keyword in decorator.keywords if keyword.arg != "slots"]
                text = "dataclass" + (f"({', '.join(ast.unparse(keyword) for keyword in kept)})" if kept else "")
                yield decorator.lineno, decorator.col_offset, _length(decorator), text
        yield from _second_names(node)
        marks = []
        if node.name in subclassed:
            marks.append("allow_interpreted_subclasses=True")
        if marks:
            yield node.lineno, node.col_offset, 0, f"@mypyc_attr({', '.join(marks)})\n"


def _second_names(node: ast.ClassDef) -> Iterator[Edit]:
    """Make a method of each `second = first` in a class: a compiled one would be an attribute of every instance."""
    methods = {method.name: method for method in node.body if isinstance(method, ast.FunctionDef)}
    for line in node.body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Name) and line.value.id in methods:
            assert isinstance(line.targets[0], ast.Name)
            method = methods[line.value.id]
            given = ", ".join(argument.arg for argument in method.args.args[1:])
            assert method.returns is not None
            head = f"def {line.targets[0].id}({ast.unparse(method.args)}) -> {ast.unparse(method.returns)}: "
            text = head + f"return self.{method.name}({given})"
            yield line.lineno, line.col_offset, _length(line), text


def _deletions(tree: ast.Module) -> Iterator[Edit]:
    """Leave out `del` of local variables, which fails in coroutines. It breaks cycles of frames, which do not exist."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Delete) and all(isinstance(target, ast.Name) for target in node.targets):
            yield node.lineno, node.col_offset, _length(node), "pass"


def _end(node: ast.expr) -> tuple[int, int]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return node.end_lineno, node.end_col_offset


def _length(node: ast.expr | ast.stmt) -> int:
    assert node.lineno == node.end_lineno
    assert node.end_col_offset is not None
    return node.end_col_offset - node.col_offset


def _imports(tree: ast.Module) -> Edit:
    text = "from typing import Final, TYPE_CHECKING; from mypy_extensions import mypyc_attr; "
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            return node.lineno, node.col_offset, 0, text
    first = tree.body[1] if ast.get_docstring(tree) is not None else tree.body[0]
    return first.lineno, first.col_offset, 0, text


def _edited(source: str, edits: list[Edit]) -> str:
    lines = [line.encode() for line in source.split("\n")]
    for number, column, length, text in sorted(edits, reverse=True):
        line = lines[number - 1]
        lines[number - 1] = line[:column] + text.encode() + line[column + length :]
    return b"\n".join(lines).decode()
