"""HTML of pages without the line breaks of their templates, so that tests compare it piece by piece."""

import re


def one_line(html: str) -> str:
    """Return the HTML without line breaks and indents: none beside a tag, one space inside a tag or a text."""
    html = re.sub(r"(?<=>)\s*\n\s*|\s*\n\s*(?=<)", "", html)
    return re.sub(r"\s*\n\s*", " ", html)
