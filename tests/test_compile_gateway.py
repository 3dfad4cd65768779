"""The sources that mypyc compiles: what `packaging/mypyc_sources.py` changes in them, and what it must not change."""

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.test_docs import ROOT

MODULES = sorted((ROOT / "gateway").rglob("*.py"))
OF_RECORDS = sorted((ROOT / "metrics").rglob("*.py"))


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "packaging" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sources = _load("mypyc_sources")


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "packaging"))
    return _load("compile_gateway")


@pytest.mark.parametrize("change", [None, "sources", "program", "mypy", "level"])
def test_it_is_built_again_if_the_sources_or_what_compiles_them_have_changed(
    compiler: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str | None
) -> None:
    package, programs, built = (tmp_path / name for name in ("gateway", "packaging", "compiled"))
    for folder in (package, programs, built):
        folder.mkdir()
    (package / "a.py").write_text("A = 1\n")
    (programs / "mypyc_sources.py").write_text("B = 1\n")
    monkeypatch.setattr(compiler, "__file__", str(programs / "compile_gateway.py"))

    def is_built(level: str = "2") -> bool:
        return compiler.is_built(built, compiler.digest(package), level)  # type: ignore[no-any-return]

    assert not is_built()
    (built / compiler.DIGEST).write_text(compiler.digest(package))
    assert not is_built(), "nothing says how"
    (built / compiler.TOOL).write_text(compiler.tool("2"))
    if change == "sources":
        (package / "a.py").write_text("A = 2\n")
    elif change == "program":
        (programs / "mypyc_sources.py").write_text("B = 2\n")
    elif change == "mypy":
        monkeypatch.setattr(compiler, "version", lambda _: "0.1")
    assert is_built("0" if change == "level" else "2") == (change is None)


def test_the_lists_of_modules_name_modules_that_exist() -> None:
    tree = ast.parse((ROOT / "packaging" / "compile_gateway.py").read_text())
    names = {".".join(path.relative_to(ROOT / "gateway").with_suffix("").parts) for path in MODULES}
    lists = {
        ast.unparse(statement.targets[0]): set(ast.literal_eval(statement.value.args[0]))
        for statement in tree.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) in ("HOT", "IN_PYTHON", "OF_RECORDS")
        if isinstance(statement.value, ast.Call)
    }
    assert sorted(lists) == ["HOT", "IN_PYTHON", "OF_RECORDS"]
    assert lists["HOT"] <= names - lists["IN_PYTHON"]
    assert lists["IN_PYTHON"] <= names
    assert lists["OF_RECORDS"] <= {
        ".".join(path.relative_to(ROOT / "metrics").with_suffix("").parts) for path in OF_RECORDS
    }


@pytest.mark.parametrize(
    ("source", "compiled"),
    [
        ("A = 1", "A: Final = 1"),
        ("_decode = make()", "_decode: Final = make()"),
        ("A: int = 1", "A: Final[int] = 1"),
        ("A, B = 1, 'b'", "A: Final = 1; B: Final = 'b'"),
        ("A, B = range(2)", "A: Final = 0; B: Final = 1"),
        ("T = TypeVar('T')", "T = TypeVar('T')"),
        ("Point = namedtuple('Point', 'x y')", "Point = namedtuple('Point', 'x y')"),
        ("A = 1\nA = 2", "A = 1\nA = 2"),
        ("a = None\ndef f():\n    global a\n    a = 1", "a = None\ndef f():\n    global a\n    a = 1"),
        ("for A in range(3):\n    B = A", "for A in range(3):\n    B = A"),
        ("def f():\n    a = 1\n    del a", "def f():\n    a = 1\n    pass"),
        ("def f(d):\n    del d['a']", "def f(d):\n    del d['a']"),
        ("@dataclass(frozen=True, slots=True)\nclass A: ...", "@dataclass(frozen=True)\nclass A: ..."),
        ("@dataclass(slots=True)\nclass A: ...", "@dataclass\nclass A: ..."),
        (
            "class A:\n    def f(self, n: int = 1) -> int: return n\n    g = f",
            "class A:\n    def f(self, n: int = 1) -> int: return n\n"
            "    def g(self, n: int=1) -> int: return self.f(n)",
        ),
    ],
)
def test_what_is_rewritten(source: str, compiled: str) -> None:
    assert sources.rewritten("import x\n" + source).split("\n", 1)[1] == compiled


def test_a_class_that_python_extends_says_so() -> None:
    first, *rest = sources.rewritten("import x\nclass A: ...\nclass B: ...", {"B"}).split("\n")
    assert first.endswith("import x")
    assert rest == ["class A: ...", "@mypyc_attr(allow_interpreted_subclasses=True)", "class B: ..."]


def test_annotations_name_the_class_that_implements_a_protocol() -> None:
    source = 'import x\nclass A:\n    def f(self, a: Part | None, b: "Part") -> list[Part]:\n        self.a: Part = a\n'
    first, *rest = sources.rewritten(source, (), {"Part": ("gateway.y", "Y")}).split("\n")
    assert first.endswith("import x")
    assert rest == [
        "class A:",
        "    def f(self, a: '_ClassPart | None', b: '_ClassPart') -> 'list[_ClassPart]':",
        "        self.a: '_ClassPart' = a",
        "",
        "if TYPE_CHECKING:",
        "    from gateway.y import Y as _ClassPart",
        "",
    ]


STRUCT = """import msgspec
LIMIT = 3
OTHER = 4
class Found(msgspec.Struct, kw_only=True):
    number: int = LIMIT
def use(found: Found) -> int:
    return found.number + OTHER"""


def test_structs_move_with_what_they_need_and_lines_keep_their_numbers() -> None:
    kept, plain = sources.split(STRUCT, "gateway.plain.x", {"Struct", "Found"})
    lines = STRUCT.split("\n")
    assert plain is not None
    assert plain.split("\n") == [*lines[:2], "", *lines[3:5], "", ""]
    moved = "from gateway.plain.x import "
    assert kept.split("\n") == [
        lines[0], f"{moved}LIMIT as LIMIT", lines[2], f"{moved}Found as Found", "", *lines[5:]
    ]  # fmt: skip


def test_structs_are_known_through_their_bases() -> None:
    trees = [ast.parse("class B(A): ..."), ast.parse("class A(msgspec.Struct, tag='a'): ...\nclass C: ...")]
    assert sources.struct_names(trees) == {"Struct", "A", "B"}


def test_every_module_of_the_gateway_can_be_rewritten() -> None:
    structs = sources.struct_names([ast.parse(path.read_text()) for path in MODULES])
    for path in MODULES:
        source = path.read_text()
        kept, plain = sources.split(source, "gateway.plain.x", structs)
        assert ast.parse(sources.rewritten(kept)), path
        assert plain is None or ast.parse(plain), path
        assert len(kept.split("\n")) == len(source.split("\n")), path


def _uses(path: Path, name: str) -> bool:
    return any(
        isinstance(node, ast.Import | ast.ImportFrom) and name in ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text()))
    )


def test_the_gateway_uses_no_weak_references() -> None:
    """Objects of compiled classes that extend Python's do not clear them, so that they would refer to freed memory."""
    assert [path for path in MODULES if _uses(path, "weakref")] == []


def _waits_within_a_tuple(path: Path) -> bool:
    """Return True if a statement such as `a, b = c, (yield from d)` is in a module."""
    return any(
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Tuple)
        and any(isinstance(part, ast.Await | ast.Yield | ast.YieldFrom) for part in ast.walk(node.value))
        for node in ast.walk(ast.parse(path.read_text()))
    )


def test_no_assignment_of_several_values_waits_for_one() -> None:
    """Compiled, it loses the values before."""
    assert [path for path in MODULES if _waits_within_a_tuple(path)] == []
