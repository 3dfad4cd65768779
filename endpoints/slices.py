"""Slices: capabilities that have a folder each (docs/architecture/slices.md).

The lists are in `routerdash/slices.py`. Each name is that of a package with a module `slice`, whose `SLICE` says what
the core takes from it. The package is a Django app, too: Django itself finds its commands, template tags and admin.
Nothing of the core imports a slice of the list `SLICES`, so that it can be removed with its folder and its line there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, ClassVar

from django.conf import settings
from django.urls import URLPattern, path
from django.utils.functional import Promise

from gateway.base.config import Config


@dataclass(frozen=True, slots=True)
class MenuEntry:
    """Page in the navigation.

    `covers` are the URL names of pages that belong to it; `key` is pressed after `g`. Pages with
    `for_administrators` are shown to them only. A page of a slice stands behind the page `after`.
    """

    name: str
    label: str | Promise
    icon: str
    key: str
    covers: tuple[str, ...] = ()
    for_administrators: bool = False
    after: str = ""


class Slice:
    """Additions of a slice to the core: none but those that it overrides.

    Methods import their modules when they are called: most processes need few of them.
    """

    places: ClassVar[Sequence[MenuEntry]] = ()
    covered: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # URL names of pages that belong to a place of the core
    sections: ClassVar[Mapping[str, str]] = {}  # templates by the place on a page of the core that includes them
    enums: ClassVar[Mapping[str, str]] = {}  # names of enumerations in the OpenAPI schema, and where their values are

    def urls(self) -> Sequence[URLPattern]:
        """Return the URLs of its pages and of its API."""
        return ()

    def refused_database(self, config: Config) -> str:
        """Return why RouterDash must not start with the database of these settings; empty if it may."""
        return ""

    def prepare(self, config: Config) -> None:
        """Complete the database at a start, after all migrations. Raises django.db.Error if it is unavailable."""

    def before_pruning(self, config: Config) -> None:
        """Read old rows of the history for the last time, before they are deleted. Raises django.db.Error."""


@cache
def slices() -> list[Slice]:
    """Return all slices, in the order of the lists."""
    return [import_module(f"{name}.slice").SLICE for name in (*settings.CORE_SLICES, *settings.SLICES)]


def api_urls(urls: Sequence[tuple[str, Any, str]]) -> list[URLPattern]:
    """Return the URLs of views of an API, given by route, class and name."""
    return [path(route, view.as_view(), name=name) for route, view, name in urls]
