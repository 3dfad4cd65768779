"""Which pictures are taken: each once, and none of a page that is not there."""

from benchmarks.screenshots import PICTURES, Picture, _path
from tests.metrics.records import A


def test_every_picture_has_a_file_of_its_own() -> None:
    assert len({it.file for it in PICTURES}) == len(PICTURES)


def test_they_show_both_themes_both_languages_and_both_widths() -> None:
    assert {(it.theme, it.language, it.width) for it in PICTURES} >= {
        ("light", "en", 1440),
        ("dark", "en", 1440),
        ("light", "en", 390),
        ("dark", "ja", 390),
    }


def test_pages_that_are_not_there_are_left_out() -> None:
    assert _path(Picture("a", "overview"), A) == "/"
    assert _path(Picture("a", "endpoint"), A) == f"/endpoints/{A}"
    assert _path(Picture("a", "no-such-page"), A) is None
