"""All pages, found by their URL patterns: new pages are included automatically."""

from collections.abc import Iterator

from django.contrib import admin
from django.urls import URLPattern, get_resolver, reverse

from gateway.health_paths import LIVENESS, READINESS

# Not pages: paths for machines, redirects, and style sheets.
NOT_PAGES = frozenset(
    "logout metrics discover-cloud endpoints-act clients-threshold notice-dismiss requests-export theme key-enabled "
    "style-sheet".split()
) | frozenset(path.removeprefix("/") for path in (*LIVENESS, *READINESS))
# Pages that do not need a login.
BEFORE_LOGIN = {"login"}


def own_pages() -> Iterator[URLPattern]:
    for pattern in get_resolver().url_patterns:
        if not isinstance(pattern, URLPattern) or str(pattern.pattern).startswith(("api/", "v1")):
            continue
        if pattern.name and pattern.name not in NOT_PAGES and not pattern.name.startswith("beside-"):
            yield pattern


def path_of(pattern: URLPattern, known: dict[str, str]) -> str:
    """Return the path; `known` has a value for each argument of a path."""
    arguments = pattern.pattern.converters
    missing = sorted(set(arguments) - set(known))
    assert not missing, f"give an example of {missing}, an argument of {pattern.name}"
    return reverse(str(pattern.name), kwargs={name: known[name] for name in arguments})


# The models whose change forms are opened, and the argument that identifies a row.
ROWS = {"endpoint": "endpoint_id", "requesthistory": "request_id", "apikey": "key_id"}


def admin_pages() -> Iterator[tuple[str, str]]:
    """Return the names of the index, lists, add forms and pages of a row, with the argument of the last."""
    yield "admin:index", ""
    for model, page in admin.site._registry.items():
        opts = model._meta
        name = str(opts.model_name)
        names = {pattern.name for pattern in page.get_urls() if pattern.name}
        base = f"{opts.app_label}_{name}"
        yield f"admin:{base}_changelist", ""
        written = name != "requesthistory"
        if f"{base}_add" in names and written:
            yield f"admin:{base}_add", ""
        if name in ROWS:
            for kind in ("change", "history", *(("delete",) if written else ())):
                yield f"admin:{base}_{kind}", ROWS[name]


def admin_path(name: str, argument: str, known: dict[str, str]) -> str:
    return reverse(name, args=[known[argument]] if argument else [])
