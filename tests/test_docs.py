"""The documentation tells the truth about what can be checked by reading it."""

import re
from pathlib import Path

import pytest
from django.urls import get_resolver

from gateway import errors
from gateway.bounds import BOUNDS
from gateway.config import secret_names, table

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_setting_is_documented_as_it_is() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    for name, default, meaning in table():
        assert f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |" in text


def test_the_file_variable_of_every_secret_is_documented_and_no_other() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    assert set(re.findall(r"`(\w+)_FILE`", text)) == set(secret_names())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_documented_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)", page.read_text()):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_documented_api_paths_exist() -> None:
    known = {re.sub(r"<[^>]+>", "{id}", str(pattern.pattern)) for pattern in get_resolver().url_patterns}
    text = (ROOT / "docs" / "api.md").read_text()
    for path in re.findall(r"`(?:[A-Z, ]+ )?/(api/[^`?]*)", text):
        assert path in known, path


def test_every_error_code_is_documented() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    codes = [value for name, value in vars(errors).items() if name.isupper() and isinstance(value, str)]
    assert [code for code in codes if f"`{code}`" not in text] == []


def test_the_page_of_limits_has_every_bound_as_it_is_and_no_other() -> None:
    text = (ROOT / "docs" / "limits.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{it.name}` | {it.title} | {it.limit} | {it.answer} |" for it in BOUNDS]


def test_the_page_of_limits_names_constants_and_settings_that_are_there() -> None:
    settings = {name for name, _, _ in table()}
    for bound in BOUNDS:
        for name in re.findall(r"`(ROUTERDASH_[A-Z_]+)`", bound.limit):
            assert name in settings
        for name, path in re.findall(r"`([A-Z_]+)` in `([a-z_/]+\.py)`", bound.limit):
            assert re.search(rf"^{name}\b", (ROOT / path).read_text(), re.MULTILINE), (name, path)
