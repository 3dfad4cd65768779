"""The documentation tells the truth about what can be checked by reading it."""

import re
from pathlib import Path

import pytest
from django.urls import get_resolver

from gateway import errors
from gateway.config import table

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_setting_is_documented_as_it_is() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    for name, default, meaning in table():
        assert f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |" in text


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
