"""Sentences of the API's page."""

import pytest

from routerdash.templatetags.words import code


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("", ""),
        ("Of `model` or `kind`.", "Of <code>model</code> or <code>kind</code>."),
        ("`a` and ` alone", "<code>a</code> and ` alone"),
        ("`<b>` & more", "<code>&lt;b&gt;</code> &amp; more"),
    ],
)
def test_code(text: str, html: str) -> None:
    assert code(text) == html
