"""The list of screenshots: each once, and none of a missing page."""

from benchmarks.screenshots import PICTURES, Picture, _path
from tests.metrics.records import A


def test_every_screenshot_has_its_own_file() -> None:
    assert len({picture.file for picture in PICTURES}) == len(PICTURES)


def test_screenshots_show_both_themes_languages_and_widths() -> None:
    assert {(picture.theme, picture.language, picture.width) for picture in PICTURES} >= {
        ("light", "en", 1440),
        ("dark", "en", 1440),
        ("light", "en", 390),
        ("dark", "ja", 390),
    }


def test_missing_pages_are_left_out() -> None:
    assert _path(Picture("a", "overview"), A) == "/"
    assert _path(Picture("a", "endpoint"), A) == f"/endpoints/{A}"
    assert _path(Picture("a", "no-such-page"), A) is None
