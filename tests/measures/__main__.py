"""Print the measures of the product: `python -m tests.measures [--all] [FOLDER…]`. Exit 1 if one is over its limit."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tests.measures import language, structure
from tests.measures.measure import Measure
from tests.measures.source import PRODUCT, ROOT, Source, read_sources

WORST = 5
OUTSIDE = (Path("tests"), Path("benchmarks"))


def measures(root: Path, folders: list[Path]) -> list[Measure]:
    """Measure the product, or only the chosen folders and files.

    `folders` are relative to `root`. Those outside of the product are measured by file length and language.
    """
    product = read_sources([root / name for name in PRODUCT], root)
    contains = _containment(folders or [Path()])
    chosen = read_sources([root / folder for folder in folders or OUTSIDE], root)
    inside = [one for one in chosen if one.path.parts[0] in PRODUCT] if folders else product
    results = _structure(product, inside, contains, is_partial=bool(folders)) if inside else []
    for folder in OUTSIDE:
        outside = [one for one in chosen if one.path.is_relative_to(folder)]
        results += [structure.file_lengths(outside, f"{folder}/")] if outside else []
    prose = [one for one in (chosen if folders else product) if not one.is_migration]
    results += [*language.word_frequencies(prose), language.docstring_beginnings(prose)] if prose else []
    code = [one for one in inside if not one.is_migration]
    results += [language.dialect_identifiers(code)] if code else []
    results += [language.vague_variables(chosen if folders else [*product, *chosen])]
    docs = language.documents(root, contains)
    return results + ([language.long_prose_lines(root, docs)] if docs else [])


def report(results: list[Measure], *, all_places: bool) -> str:
    """Return the table of measures, followed by the places of those over their limit."""
    width = max(len(one.name) for one in results)
    lines = [f"{'measure':{width}}  {'value':>8}  {'limit':>6}"]
    for one in results:
        if one.limit is None:
            lines.append(f"{one.name:{width}}  {one.value:>8,g}  {'—':>6}")
        else:
            lines.append(f"{one.name:{width}}  {one.value:>8,g}  {one.limit:>6,g}  {'OVER' if one.is_over else 'OK'}")
    for one in results:
        if not one.places or not (one.is_over or all_places):
            continue
        places = sorted(one.places, key=lambda place: (-place.weight, place.path, place.line))
        shown = places if all_places else places[:WORST]
        lines += ["", f"{one.name}: {len(places)} places" + ("" if len(shown) == len(places) else "; --all lists all")]
        lines += [f"  {place.path}:{place.line}  {place.text}" for place in shown]
    return "\n".join(lines)


def main() -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` may close the pipe early
    parser = argparse.ArgumentParser(prog="python -m tests.measures", description="Measure structure and language.")
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="folders or files; by default the whole product")
    parser.add_argument("--all", action="store_true", help="list every place, not only the worst of each measure")
    arguments = parser.parse_args()
    folders = [Path(name).resolve() for name in arguments.folders]
    for folder in folders:
        if not folder.exists() or not folder.is_relative_to(ROOT):
            parser.error(f"{folder} is no file or folder of the project")
    results = measures(ROOT, [folder.relative_to(ROOT) for folder in folders])
    if not results:
        parser.error("no Python or Markdown file to measure")
    print(report(results, all_places=arguments.all))
    return int(any(one.is_over for one in results))


def _structure(
    product: list[Source], chosen: list[Source], contains: Callable[[Path], bool], *, is_partial: bool
) -> list[Measure]:
    across = [*structure.class_names(product), structure.import_circles(product)]
    return [
        structure.file_length_p95(chosen),
        structure.file_lengths(chosen),
        *([one.restricted(contains) for one in across] if is_partial else across),
        structure.untyped_dicts(chosen),
        structure.sql_exceptions(chosen),
    ]


def _containment(folders: list[Path]) -> Callable[[Path], bool]:
    return lambda path: any(path.is_relative_to(folder) for folder in folders)


if __name__ == "__main__":
    sys.exit(main())
