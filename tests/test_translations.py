"""Every text of ours has a Japanese translation, and what is compiled is what is written."""

import re
from pathlib import Path

import polib
import pytest

from tests.messages import LOCALE

SOURCE = LOCALE / "ja" / "LC_MESSAGES" / "django.po"
CATALOGUE = polib.pofile(str(SOURCE))
TEMPLATES = LOCALE.parent / "templates"
PLACEHOLDER = re.compile(r"%\(\w+\)\w|<[^>]+>")


def test_nothing_is_left_untranslated() -> None:
    assert [entry.msgid for entry in CATALOGUE.untranslated_entries() + CATALOGUE.fuzzy_entries()] == []


def test_translations_keep_placeholders_and_markup() -> None:
    for entry in CATALOGUE:
        if not entry.msgid_plural:
            assert sorted(PLACEHOLDER.findall(entry.msgstr)) == sorted(PLACEHOLDER.findall(entry.msgid)), entry.msgid


def test_the_compiled_catalogue_is_current() -> None:
    compiled = polib.mofile(str(SOURCE.with_suffix(".mo")))
    assert {entry.msgid: entry.msgstr for entry in compiled} == {entry.msgid: entry.msgstr for entry in CATALOGUE}


@pytest.mark.parametrize("template", sorted(TEMPLATES.rglob("*.html")), ids=lambda path: path.name)
def test_texts_of_templates_are_in_the_catalogue(template: Path) -> None:
    known = {entry.msgid for entry in CATALOGUE}
    found = re.findall(r"""\{% translate (?:"([^"]+)"|'([^']+)') %\}""", template.read_text())
    django_own = {"View site", "Documentation"}
    assert {one or other for one, other in found} - known - django_own == set()
