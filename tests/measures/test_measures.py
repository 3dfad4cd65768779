from collections.abc import Callable
from pathlib import Path

import pytest
from grimp import ImportGraph

from tests.measures import language, structure
from tests.measures.__main__ import measures, report
from tests.measures.direct_layers import DirectLayersContract
from tests.measures.imports import circles, import_graph
from tests.measures.measure import Measure, Place
from tests.measures.source import PRODUCT, Source


def source(path: str, text: str) -> Source:
    return Source(Path(path), text)


def texts(measure: Measure) -> list[str]:
    return [place.text for place in measure.places]


def test_names_in_two_and_in_more_modules():
    several = [source(f"{name}.py", "class A: ...\nclass Meta: ...") for name in "abc"]
    pair = [source(f"{name}.py", "class B: ...\nclass B: ...") for name in "de"]
    more, two = structure.class_names([*several, *pair])
    assert (more.value, texts(more)) == (1, ["A: a, b, c"] * 3)
    assert (two.value, texts(two)) == (1, ["B: d, e"] * 2)


def test_circles_through_types_functions_and_relative_imports():
    sources = [
        source("pack/__init__.py", ""),
        source("pack/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.b import B\n"),
        source("pack/b.py", "def run():\n    from . import c"),
        source("pack/c.py", "import pack.a\nimport pack.d"),
        source("pack/d.py", "from .e import x"),
        source("pack/e.py", ""),
    ]
    (circle,) = circles(import_graph(sources))
    assert circle["pack.a"] == [("pack.a", 3), ("pack.b", 2), ("pack.c", 1)]
    assert set(circle) == {"pack.a", "pack.b", "pack.c"}
    assert structure.import_circles(sources).value == 3


def test_two_circles_are_two_components():
    graph = {"a": {"b": 1}, "b": {"a": 1, "c": 2}, "c": {"d": 1}, "d": {"c": 1}, "e": {"a": 1}}
    assert sorted(map(sorted, circles(graph))) == [["a", "b"], ["c", "d"]]


def test_the_length_of_files_by_nearest_rank():
    sources = [source(f"{number}.py", "\n" * number) for number in range(21)]
    assert structure.file_length_p95(sources).value == 19
    assert structure.file_lengths(sources).value == 20


@pytest.mark.parametrize(
    ("annotation", "counts"),
    [
        ("dict[str, Any]", True),
        ("list[dict[str, Any]]", True),
        ('"dict[str, Any] | None"', True),
        ("Rows", True),
        ("dict[str, int]", False),
    ],
)
def test_functions_that_return_untyped_dicts(annotation, counts):
    text = f"Rows = dict[str, Any]\nasync def a(x: dict[str, Any]) -> {annotation}: ..."
    assert structure.untyped_dicts([source("a.py", text)]).value == counts


def test_sql_exceptions_are_comments():
    text = 'a = f""  # noqa: S608\nb = ""  # noqa: S101, S608 - table names\nc = "# noqa: S608"\nd = 1  # noqa: S101\n'
    assert structure.sql_exceptions([source("a.py", text)]).value == 2


def test_words_are_counted_only_in_comments_and_docstrings():
    text = '"""Who answers?\n\n```\nwhat\n```\n"""\nwhat = "nobody"  # told twice, told\n'
    values = {one.name.split(",")[0]: one.value for one in language.word_frequencies([source("a.py", text)])}
    assert values == {"tell": 400, "say": 0, "what": 0, "who": 200, "answer": 200}


def test_no_words_are_no_error():
    assert {one.value for one in language.word_frequencies([source("a.py", "")])} == {0}
    assert language.docstring_beginnings([source("a.py", "")]).value == 0


@pytest.mark.parametrize(
    ("docstring", "counts"),
    [("Of the rows.", True), ("What failed.", True), ("Until then.", True), ("Rows of it.", False), ("", False)],
)
def test_docstrings_that_begin_with_a_preposition(docstring, counts):
    assert language.docstring_beginnings([source("a.py", f'"""{docstring}"""')]).value == 100 * counts


def test_identifiers_count_once_per_file_by_their_words():
    text = """
class ToldOnce: ...
def _tell(asked, /, *says, saying): ...
async def ask():
    for self.said in []: pass
    with x as (told, foretold): told = told.asks
told_again: int = 2
"""
    identifiers = language.dialect_identifiers([source("a.py", text), source("b.py", "told = other.said(asked=1)")])
    assert sorted((str(place.path), place.line, place.text) for place in identifiers.places) == [
        ("a.py", 2, "ToldOnce"),
        ("a.py", 3, "_tell"),
        ("a.py", 3, "asked"),
        ("a.py", 3, "says"),
        ("a.py", 5, "said"),
        ("a.py", 6, "told"),
        ("a.py", 7, "told_again"),
        ("b.py", 1, "told"),
    ]


def test_vague_variables_are_no_fields():
    text = """
class Edit:
    at: float
    found = None
    def at(self, it, *, found=1): return [at for at, _ in it if (found := _)]
"""
    vague = language.vague_variables([source("a.py", text)])
    assert sorted(texts(vague)) == ["at", "found", "found", "it"]


def test_prose_lines_are_no_tables_code_or_lone_links():
    text = (
        "# Title\n\n| a | b |\n```\ncode\n```\n- [a](https://x)\n[name]: https://x\n![picture](x.png)\nText [a](b).\n"
    )
    assert list(language.prose_lines(text)) == [(1, "# Title"), (10, "Text [a](b).")]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], None]:
    """Write a file of a project, whose product folders exist."""
    for name in PRODUCT:
        (tmp_path / name).write_text("") if name.endswith(".py") else (tmp_path / name).mkdir()

    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    return write


def by_name(results: list[Measure]) -> dict[str, Measure]:
    return {one.name: one for one in results}


def test_the_whole_project_is_measured(tmp_path, write):
    write("gateway/a.py", "from gateway import b\nclass A: ...")
    write("gateway/b.py", "from gateway import a\nclass A: ...")
    write("tests/test_a.py", "\n" * 901 + "# what\n")
    write("benchmarks/a.py", "")
    write("docs/more/a.md", "x" * 101 + "\n")
    write("README.md", "short\n")
    results = by_name(measures(tmp_path, []))
    assert results["modules in import circles"].value == 2
    assert results["class names in two modules"].value == 1
    assert results["lines of the longest file in tests/"].value == 902
    assert not results["lines of the longest file in tests/"].is_over
    assert results["what, whatever, per 1,000 words"].value == 0
    assert results["lines of docs over 100 columns, %"].value == 50


def test_a_folder_is_measured_alone_against_the_whole_product(tmp_path, write):
    write("gateway/a.py", "from metrics import b\nclass A: ...\n# what\n")
    write("metrics/b.py", "from gateway import a\nclass A: ...\nclass B: ...\n")
    write("metrics/c.py", "class B: ...\n" * 501)
    write("docs/a.md", "x" * 101)
    results = by_name(measures(tmp_path, [Path("gateway")]))
    assert results["modules in import circles"].value == 1
    assert results["class names in two modules"].value == 1
    assert results["lines of the longest file"].value == 3
    assert results["what, whatever, per 1,000 words"].value == 1000
    assert "lines of docs over 100 columns, %" not in results


def test_a_folder_of_tests_is_measured_by_its_files_and_language(tmp_path, write):
    write("tests/e2e/test_a.py", "def a() -> dict[str, Any]: ...  # who\n")
    names = list(by_name(measures(tmp_path, [Path("tests/e2e")])))
    assert names[0] == "lines of the longest file in tests/"
    assert len(names) == 8


def test_the_report_lists_the_worst_places_of_measures_over_their_limit():
    places = [Place(Path("a.py"), line, f"{line} lines", line) for line in range(1, 8)]
    measured = [Measure("length", 7, 5, places), Measure("names", 1, 1, places[:1]), Measure("lines", 9, None, places)]
    text = report(measured, all_places=False)
    assert text.splitlines() == [
        "measure     value   limit",
        "length         7       5  OVER",
        "names          1       1  OK",
        "lines          9       —",
        "",
        "length: 7 places; --all lists all",
        *(f"  a.py:{line}  {line} lines" for line in (7, 6, 5, 4, 3)),
    ]
    assert len(report([Measure("length", 7, 5, places)], all_places=True).splitlines()) == 11


def test_the_report_ranks_by_weight_then_by_place():
    places = [Place(Path("b.py"), 1, "x"), Place(Path("a.py"), 2, "x"), Place(Path("c.py"), 1, "x", 1)]
    lines = report([Measure("x", 1, 0, places)], all_places=False).splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["c.py:1", "a.py:2", "b.py:1"]


def test_direct_layers_refuse_an_import_of_a_higher_layer_but_no_chain():
    graph = ImportGraph()
    for module in ("core", "low", "low.a", "other", "high", "high.a"):
        graph.add_module(module)
    for importer, imported in (("high.a", "low"), ("low.a", "core"), ("core", "high"), ("other", "high.a")):
        graph.add_import(importer=importer, imported=imported)

    def refused(*layers: str) -> list[tuple[str, str]]:
        contract = DirectLayersContract("order", {}, {"layers": [*layers]})
        return list(contract.check(graph, verbose=False).metadata["refused"])

    assert refused("high", "low") == []
    assert refused("low", "high") == [("high.a", "low")]
    assert refused("high", "low + other") == [("other", "high.a")]
    with pytest.raises(ValueError, match="there is no package gone"):
        refused("gone", "low")
