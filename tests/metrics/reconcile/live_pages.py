"""Figures in the markup of the overview and of the admin, compared as `reconcile` compares those of the API."""

import sys
from html.parser import HTMLParser
from typing import ClassVar

from django.conf import settings

from metrics.reconcile import live
from metrics.reconcile.live import FiguresOf, slot_figures


def _page(body: str) -> dict[str, int]:
    """Return the figures in the markup of the overview. Raises ValueError if it has none of the total or a minute."""
    page = _Page()
    page.feed(body)
    if "stats/total_requests" not in page.figures or not any(name.startswith("history/") for name in page.figures):
        raise ValueError("no figures")
    return page.figures


def _admin(body: str) -> dict[str, int]:
    page = _Page()
    page.feed(body)
    return page.figures


class _Page(HTMLParser):
    """Parser that collects the marked figures of the overview, and columns of the endpoint list in the admin."""

    COLUMNS: ClassVar = {"field-attempts": "total_requests", "field-failures": "failed_requests"}

    def __init__(self) -> None:
        super().__init__()
        self.figures: dict[str, int] = {}
        self._endpoint = self._name = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if "data-endpoint" in attributes or attributes.get("name") == "_selected_action":
            self._endpoint = attributes.get("data-endpoint") or attributes["value"]
        column = attributes.get("data-value") or self.COLUMNS.get(attributes.get("class", ""))
        if "data-minute" in attributes:
            slot = {name: attributes[f"data-{name}"] for name in ("success", "error")}
            self.figures |= slot_figures(attributes["data-minute"], slot)
        elif "data-stat" in attributes:
            self._name = f"stats/{attributes['data-stat']}"
        elif column:
            self._name = f"endpoints/{self._endpoint}/{column}"

    def handle_endtag(self, tag: str) -> None:
        self._name = ""

    def handle_data(self, data: str) -> None:
        number = data.strip().replace(",", "")
        if self._name and number.isdigit():
            self.figures[self._name] = int(number)


PAGES: dict[str, FiguresOf] = {"/": _page, "/admin/endpoints/endpoint/": _admin}


def main(cookie: str) -> None:
    """Print the differences of the pages of a running RouterDash, in a process with its settings."""
    for path, figures_of in PAGES.items():
        for difference in live.compare_response(settings.ROUTERDASH, path, figures_of, {"Cookie": cookie}):
            sys.stdout.write(f"{difference}\n")
