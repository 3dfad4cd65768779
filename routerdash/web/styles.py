"""Style sheets of pages: the files of `static/css`, joined into one response for each kind of page.

A browser loads one style sheet, although there is one file for each component and page. The files declare their
cascade layer themselves. Files are read at the first request of a process.
"""

import gzip
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_safe

ASSETS = Path(settings.STATICFILES_DIRS[0])
UPLOT = "vendor/uplot/uPlot.min.css"
ORDER = "@layer vendor, tokens, base, components, pages;\n"
# In this order: later rules of equal weight win.
ADMIN = ("theme", "layout", "lists", "controls", "status", "django", "conflict", "keyboard_help", "print")
SHEETS = {
    "routerdash": (UPLOT, "css/tokens.css", "css/base.css", "css/components/*.css", "css/pages/*.css"),
    "admin": ("css/tokens.css", *(f"css/admin/{name}.css" for name in ADMIN)),
}
FOREVER = "max-age=31536000, immutable"  # of an address with the version of the content
HOUR = f"max-age={settings.SERVESTATIC_MAX_AGE}"


class Sheet(NamedTuple):
    """`version` is a digest of `content`; `compressed` is the same content by gzip."""

    content: bytes
    compressed: bytes
    version: str


def _texts(patterns: tuple[str, ...]) -> Iterator[str]:
    yield ORDER
    for pattern in patterns:
        for file in sorted(ASSETS.glob(pattern)):
            text = file.read_text(encoding="utf-8")
            # Rules outside of layers would win over ours.
            yield f"@layer vendor {{{text}}}\n" if pattern == UPLOT else text


@cache
def sheet(name: str) -> Sheet:
    """Return the style sheet of this name. Raises KeyError for an unknown one."""
    content = "".join(_texts(SHEETS[name])).encode()
    return Sheet(content, gzip.compress(content, mtime=0), hashlib.sha256(content).hexdigest()[:12])


def address(name: str) -> str:
    """Return the URL of a style sheet; it changes with the content, so that browsers may keep it for a year."""
    return f"{reverse('style-sheet', args=[name])}?v={sheet(name).version}"


@require_safe
def style_sheet(request: HttpRequest, name: str) -> HttpResponse:
    if name not in SHEETS:
        raise Http404
    stylesheet = sheet(name)
    compressed = "gzip" in request.headers.get("Accept-Encoding", "")
    response = HttpResponse(
        stylesheet.compressed if compressed else stylesheet.content, content_type="text/css; charset=utf-8"
    )
    if compressed:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Cache-Control"] = FOREVER if request.GET.get("v") == stylesheet.version else HOUR
    response.headers["Content-Length"] = str(len(response.content))
    patch_vary_headers(response, ["Accept-Encoding"])
    return response


URLS: list[URLPattern] = [path("static/css/<slug:name>.css", style_sheet, name="style-sheet")]
