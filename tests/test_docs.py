"""The documentation agrees with the code wherever a test can check it."""

import re
from pathlib import Path

import pytest
from django.urls import get_resolver

from gateway.base import errors
from gateway.base.config import secret_names, table
from gateway.base.limits import LIMITS
from tests import reference_pages

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


@BY_PAGE
def test_links_have_existing_files_and_anchors(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", without_code(page.read_text())):
        file = (page.parent / target) if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


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
    for path in re.findall(rf"`((?:{packages})/(?!assets)[\w/.-]*)`", without_code(page.read_text())):
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


def test_every_error_code_is_documented() -> None:
    text = (REFERENCE / "errors.md").read_text()
    codes = [value for name, value in vars(errors).items() if name.isupper() and isinstance(value, str)]
    assert [code for code in codes if f"`{code}`" not in text] == []


def test_limits_name_constants_and_settings_that_exist() -> None:
    settings = {name for name, _, _ in table()}
    for limit in LIMITS:
        for name in re.findall(r"`(ROUTERDASH_[A-Z_]+)`", limit.allowed):
            assert name in settings
        for name, path in re.findall(r"`([A-Z_]+)` in `([a-z_/]+\.py)`", limit.allowed):
            assert re.search(rf"^{name}\b", (ROOT / path).read_text(), re.MULTILINE), (name, path)
