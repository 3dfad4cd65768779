"""Configuration of the documentation site that `make docs` builds with Sphinx."""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent

project = "RouterDash"
html_title = "RouterDash"
extensions = ["myst_parser"]
root_doc = "index"
exclude_patterns = ["screenshots", "grafana"]
html_theme = "furo"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
# Links between pages are written as GitHub reads them: relative paths, and anchors made of headings.
myst_heading_anchors = 4
pygments_style = "friendly"
pygments_dark_style = "native"


def navigation() -> str:
    """Return the site's table of contents: one `toctree` per section of index.md, in the order of its links."""
    trees = []
    for section in (DOCS / "index.md").read_text().split("\n## ")[1:]:
        caption, _, body = section.partition("\n")
        pages = re.findall(r"\]\(([\w/-]+)\.md\)", body)
        trees.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"]))
    return "\n\n".join(trees)


def prepare(_: Any, page: str, source: list[str]) -> None:
    """Append the table of contents to index.md, and turn links to pages outside docs/ into downloads."""
    if page == root_doc:
        source[0] += f"\n\n{navigation()}\n"
    source[0] = re.sub(r"\]\((?=[./]+(?:[A-Z]+|benchmarks/[A-Z]+)\.md\))", "](path:", source[0])


def setup(app: Any) -> None:
    app.connect("source-read", prepare)
