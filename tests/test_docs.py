"""The documentation agrees with the code wherever a test can check it."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class
from django.urls import get_resolver

from access.models import PERMISSIONS
from access.permissions import EFFECTS
from gateway.base import errors
from gateway.base.bounds import BOUNDS
from gateway.base.config import secret_names, table
from routerdash.processes.schedules import SCHEDULES
from tests import reference_pages
from tests.doc_examples import REASONS, SHELL, Example, examples_of, failures, problem
from tests.measures.source import PRODUCT

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "benchmarks" / "MEASUREMENTS.md",
    *sorted(DOCS.rglob("*.md")),
]
BY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
LONG_COLUMNS = 100
FOLDERS_OF_DJANGO = {"management", "migrations", "templatetags"}


def without_code(text: str) -> str:
    """Return a page without code blocks, in which `](` and `#` have other meanings."""
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub creates from a page's headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted(reference_pages.PAGES))
def test_the_lists_of_settings_and_limits_are_those_of_the_code(page: str) -> None:
    assert reference_pages.entries(page) == reference_pages.PAGES[page](), "run `python -m tests.reference_pages`"


def test_the_file_variable_of_every_secret_is_documented_and_no_other() -> None:
    text = (REFERENCE / "settings.md").read_text()
    assert set(re.findall(r"`(\w+)_FILE`", text)) == set(secret_names())


def test_the_table_of_packages_is_complete() -> None:
    listed = set(re.findall(r"^\| `(\w+(?:/\w+)*)/` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    files = (path for top in PRODUCT for path in (ROOT / top).rglob("__init__.py"))
    packages = {str(path.parent.relative_to(ROOT)) for path in files if not FOLDERS_OF_DJANGO & {*path.parts}}
    assert {name for name in listed if name.partition("/")[0] in PRODUCT} == packages


def test_the_table_of_markers_is_complete() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    markers = {re.split(r"[:(]", marker)[0] for marker in options["markers"]}
    table = (ROOT / "CONTRIBUTING.md").read_text().split("| marker | tests |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)", table, re.MULTILINE)) == markers


@BY_PAGE
def test_links_have_existing_files_and_anchors(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", without_code(page.read_text())):
        file = (page.parent / target) if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def test_links_out_of_the_site_have_no_anchor() -> None:
    """`make docs` does not build files outside of docs/, so it finds no headings in them."""
    links = [
        (page.name, target)
        for page in DOCS.rglob("*.md")
        for target in re.findall(r"\]\((?!https?://)([^)#]+)#[^)]*\)", without_code(page.read_text()))
        if not (page.parent / target).resolve().is_relative_to(DOCS)
    ]
    assert links == []


def test_the_index_links_to_every_page() -> None:
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", (DOCS / "index.md").read_text())}
    assert set(DOCS.rglob("*.md")) - {DOCS / "index.md"} == linked


@BY_PAGE
def test_prose_is_wrapped(page: Path) -> None:
    """Links may make one line in twenty longer. Rows of tables cannot be wrapped."""
    lines = [line for line in without_code(page.read_text()).splitlines() if line and not line.startswith("|")]
    assert sum(len(line) > LONG_COLUMNS for line in lines) <= len(lines) / 20


@BY_PAGE
def test_documented_files_exist(page: Path) -> None:
    packages = "access|benchmarks|endpoints|gateway|metrics|routerdash|static|templates|tests"
    text = without_code(page.read_text())
    if page.name == "moved.md":  # its first column has the places of earlier releases
        text = re.sub(r"^\|.*\|(?=[^|]+\|$)", "", text, flags=re.MULTILINE)
    for path in re.findall(rf"`((?:{packages})/(?!assets)[\w/.-]*)`", text):
        assert (ROOT / path).exists(), path


@BY_PAGE
def test_documented_names_are_in_their_files(page: Path) -> None:
    """A page names code as `function` in `file`; test_documented_files_exist reports a file that is missing."""
    for name, path in re.findall(r"`(\w+)` in\s+`([a-z_0-9/]+\.(?:py|js))`", without_code(page.read_text())):
        assert not (ROOT / path).exists() or re.search(rf"\b{name}\b", (ROOT / path).read_text()), (name, path)


def test_documented_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)", page.read_text()):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", sorted(REFERENCE.glob("*.md")), ids=lambda page: page.name)
def test_documented_api_paths_exist(page: Path) -> None:
    routed = {re.sub(r"<[^>]+>", "{id}", str(pattern.pattern)) for pattern in get_resolver().url_patterns}
    for path in re.findall(r"`(?:GET|POST|PUT|PATCH|DELETE)[A-Z, ]* /(api/[^`?]*)", page.read_text()):
        assert page.name == "llmlb.md" or re.sub(r"\{\w+\}", "{id}", path) in routed, path


def test_the_documented_permissions_are_those_that_have_an_effect() -> None:
    text = (DOCS / "how-to" / "keys.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_.]+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(EFFECTS)
    idle = text[text.index("`invitations.manage`") : text.index("come from llmlb")]
    assert set(re.findall(r"`([a-z_.]+)`", idle)) == set(PERMISSIONS) - set(EFFECTS)


def test_how_often_retention_runs_is_said_once_and_is_true() -> None:
    often = re.compile(
        r"(every \d+ minutes|hourly|daily|continuously|every hour)[^.|]{0,60}(retention|old[\w ]* rows)"
        r"|(retention|old[\w ]* rows)[^.|]{0,60}(every \d+ minutes|hourly|daily|continuously|every hour)",
        re.IGNORECASE,
    )
    sentences = [(page.name, each.group()) for page in PAGES for each in often.finditer(page.read_text())]
    _, minutes = SCHEDULES["prune history"]
    assert sentences == [("retention.md", f"Retention is a background job that runs every {minutes} minutes")]


# Examples

WITH_EXAMPLES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
EXAMPLES = [example for page in WITH_EXAMPLES for example in examples_of(page.read_text(), str(page.relative_to(ROOT)))]
COMMANDS = [example for example in EXAMPLES if example.language in SHELL]


def test_every_block_of_code_is_run_or_says_why_not() -> None:
    assert [f"{example.place}: {wrong}" for example in EXAMPLES if (wrong := problem(example))] == []
    assert {example.reason for example in COMMANDS if example.reason} == REASONS, "REASONS has some that no page gives"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```sh\nls\n```\n", None),
        ("<!-- not run: takes minutes -->\n\n```sh\nls\n```\n", None),
        ("<!-- not run: no time -->\n```sh\nls\n```\n", "for a reason that is none of"),
        ("```\ncurl http://x\n```\n", "names none of the languages"),
        ("```text\ncurl http://x\n```\n", "has commands"),
        ("```text\na picture\n```\n", None),
    ],
)
def test_a_block_that_hides_its_commands_is_noticed(text: str, expected: str | None) -> None:
    (example,) = examples_of(f"words\n{text}more words\n", "page.md")
    assert expected in str(problem(example)) if expected else problem(example) is None


@pytest.mark.parametrize(
    "example", [example for example in COMMANDS if example.reason], ids=lambda example: example.place
)
def test_a_command_that_is_not_run_has_the_options_of_its_example(example: Example) -> None:
    for arguments in re.findall(r" manage\.py (.+)$", example.text, re.MULTILINE):
        name, *options = shlex.split(arguments)
        parser = load_command_class(get_commands()[name], name).create_parser("manage.py", name)
        parser.parse_args(options)  # an unknown option ends the test


@pytest.mark.slow
@pytest.mark.one_database
@pytest.mark.needs("curl")
@pytest.mark.timeout(1800)
def test_the_examples_in_the_shell_run() -> None:
    failed = failures([example for example in COMMANDS if example.reason is None])
    assert not failed, "\n\n".join(failed)


def test_every_error_code_is_documented() -> None:
    text = (REFERENCE / "errors.md").read_text()
    codes = [value for name, value in vars(errors).items() if name.isupper() and isinstance(value, str)]
    assert [code for code in codes if f"`{code}`" not in text] == []


def test_limits_name_constants_and_settings_that_exist() -> None:
    settings = {name for name, _, _ in table()}
    for limit in BOUNDS:
        for name in re.findall(r"`(ROUTERDASH_[A-Z_]+)`", limit.allowed):
            assert name in settings
        for name, path in re.findall(r"`([A-Z_]+)` in `([a-z_/]+\.py)`", limit.allowed):
            assert re.search(rf"^{name}\b", (ROOT / path).read_text(), re.MULTILINE), (name, path)
