"""Removes a slice from a copy of the project, and tries what is left.

    python -m tests.removal SLICE [--parts checks start tests] [--tests ARGUMENTS] [--keep FOLDER]

SLICE is a name of the list in `routerdash/slices.py`, or the last part of one, such as `replay`. What goes is its
package, its line in the list, its tests, its templates, script and style sheet, and its name in the contracts of
imports. Tables and migrations stay. Then

- `checks` runs Ruff, mypy, import-linter, and Django's checks of migrations, settings and the API schema;
- `start` starts RouterDash and requests every page;
- `tests` runs the short tests, or those that the arguments of pytest in `--tests` name.

Exits with 1 if anything fails. Documentation and translations still name the slice, so their tests are left out.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from routerdash.slices import SLICES
from tests.router import PASSWORD, ROOT, RouterDash, clean_environment

PARTS = ("checks", "start", "tests")
LEFT_OUT = ("tests/test_docs.py", "tests/test_translations.py")
LINKED = (".venv", ".cache")  # environments, which the copy uses as they are


OTHER_PLACES = {  # what only that slice needs
    "metrics.replay": (
        "benchmarks/routing/predictions.py",
        "tests/benchmarks/routing/test_predictions.py",
        "tests/metrics/test_one_expected_time.py",
    ),
}


def copy_project(target: Path) -> None:
    """Copy the files of the repository, with changes that are not committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    for name in LINKED:
        if (ROOT / name).exists():
            (target / name).symlink_to((ROOT / name).resolve())
    if (ROOT / ".mypy_cache").exists():  # what it knows of files that do not change saves minutes
        shutil.copytree(ROOT / ".mypy_cache", target / ".mypy_cache")


def places(slice_name: str) -> Iterator[str]:
    """Yield where a slice may have folders and files."""
    folder, last = slice_name.replace(".", "/"), slice_name.rpartition(".")[2]
    yield from (folder, f"tests/{folder}", f"templates/{last}", f"static/js/{last}.js", f"static/css/pages/{last}.css")
    yield from OTHER_PLACES.get(slice_name, ())


def remove(slice_name: str, project: Path) -> None:
    for place in places(slice_name):
        path = project / place
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    edit(project / "routerdash/slices.py", rf'\n    "{re.escape(slice_name)}",', "")
    edit(project / "pyproject.toml", rf'"{re.escape(slice_name)}", |, "{re.escape(slice_name)}"', "")


def edit(path: Path, pattern: str, text: str) -> None:
    edited, count = re.subn(pattern, text, path.read_text())
    assert count, f"{path.name} does not name the slice in the expected form"
    path.write_text(edited)


def commands(parts: Sequence[str], tests: Sequence[str]) -> Iterator[list[str]]:
    """Yield the commands of the parts, in the folder of the copy."""
    program = Path(sys.executable).parent
    if "checks" in parts:
        yield [str(program / "ruff"), "check", "--quiet", "."]
        yield [str(program / "mypy"), "."]
        yield [str(program / "lint-imports")]
        yield [sys.executable, "-W", "ignore::RuntimeWarning", "manage.py", "makemigrations", "--check", "--dry-run"]
        yield [sys.executable, "manage.py", "check", "--fail-level", "WARNING"]
        yield [
            sys.executable, "manage.py", "spectacular", "--validate", "--fail-on-warn", "--file", "/dev/null",
        ]  # fmt: skip
    if "start" in parts:
        yield [sys.executable, "-c", "from tests.removal import look_at_pages; look_at_pages()"]
    if "tests" in parts:
        options = [
            "-q",
            "-m",
            "not slow",
            "--hypothesis-profile=fast",
            *(f"--deselect={left_out}" for left_out in LEFT_OUT),
        ]
        yield [sys.executable, "-m", "pytest", *options, *(tests or ["-n", "2", "--dist", "worksteal"])]


def look_at_pages() -> None:
    """Start RouterDash and request each page without arguments. Exits with 1 if one fails."""
    import django

    django.setup()
    from tests.pages import admin_pages, admin_path, own_pages, path_of

    paths = [path_of(page, {}) for page in own_pages() if not page.pattern.converters]
    paths += [admin_path(name, argument, {}) for name, argument in admin_pages() if not argument]
    with tempfile.TemporaryDirectory() as folder:
        router = RouterDash(Path(folder))
        try:
            router.start()
            status, browser = router.log_in("admin", PASSWORD)
            assert status == 200, status
            for path in paths:
                with browser.open(f"{router.url}{path}", timeout=30) as response:
                    assert response.status == 200, path
            done = router.manage("reconcile")
            assert done.returncode == 0, done.stdout
        finally:
            router.end()
    print(f"{len(paths)} pages")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("slice", choices=[*SLICES, *(name.rpartition(".")[2] for name in SLICES)], metavar="SLICE")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tests", type=shlex.split, default=[], help="arguments of pytest, instead of all short tests")
    parser.add_argument("--keep", type=Path, help="make the copy in this folder, which must not exist, and keep it")
    options = parser.parse_args()
    (name,) = (name for name in SLICES if options.slice in (name, name.rpartition(".")[2]))
    with tempfile.TemporaryDirectory(prefix="routerdash-removal-") as folder:
        project = options.keep or Path(folder) / "project"
        project.mkdir()
        copy_project(project)
        remove(name, project)
        failed = 0
        for command in commands(options.parts, options.tests):
            print(" ".join(command), flush=True)
            environment = clean_environment({"PYTHONPATH": str(project), "DJANGO_SETTINGS_MODULE": "tests.settings"})
            failed += subprocess.run(command, cwd=project, env=environment, check=False).returncode != 0
    sys.exit(f"without {name}, {failed} commands fail" if failed else 0)


if __name__ == "__main__":
    main()
