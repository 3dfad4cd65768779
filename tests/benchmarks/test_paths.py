"""The benchmark of pages measures every page."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from django.urls import URLResolver, get_resolver, resolve

from benchmarks import paths
from tests.slices import slice_tests

UNMEASURED = {
    # Requests that change something, and endless responses.
    "api-events", "api-endpoint-detect", "api-endpoint-discover", "api-endpoint-test", "api-endpoint-sync",
    "api-endpoint-drain", "api-endpoint-disable", "api-endpoint-enable", "api-live-cancel", "api-playground-chat",
    "api-endpoint-reset-breaker", "api-currency-rate",
    "clients-threshold", "discover", "discover-cloud", "api-endpoint-discover-cloud", "endpoints-act",
    "notice-dismiss", "set_language", "theme", "login", "logout",
    "password_change",
    # Other names of measured paths
    "healthz", "livez", "readyz",
    # Exports, which are measured separately.
    "api-requests-export", "api-requests-export-progress", "requests-export", "api-records-export",
    # Pages of the admin without a link to them, and files.
    "autocomplete", "jsi18n", "view_on_site", "password_change_done", "app_list",
    "metrics_requesthistory_add", "metrics_requesthistory_delete", "metrics_requesthistory_history",
    "access_apikey_history", "key", "key-delete", "key-enabled", "key-rotate", "api-own-key", "api-own-key-rotation",
    "api-limits-everyone", "api-limits-key", "api-limits-user", "api-limits-everyone-use", "api-limits-key-use",
    "api-limits-user-use", "style-sheet",
    "limits-everyone", "limits-key", "limits-keys", "limits-user",
    "cloud-metrics",  # a redirect
}  # fmt: skip


def names(patterns: Any) -> Iterator[str]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from names(pattern.url_patterns)
        elif pattern.name:
            yield pattern.name


def test_every_page_is_measured() -> None:
    key = "c0000000-0000-4000-8000-000000000001"
    known = paths.Known(
        key, "model-001", "10.0.0.1", key, key, "a" * 16, "", "cursor", "newer", "sought", "?cursor=older"
    )
    measured = {resolve(urlsplit(path).path).url_name for path in paths.paths(known).values()}
    known_names = {name for name in names(get_resolver().url_patterns) if not name.startswith("beside-")}
    unmeasured = UNMEASURED.union(*(one.unmeasured for one in slice_tests()))
    assert known_names - measured - unmeasured == set()
