"""The pages there are, found by their paths: a new one is taken in by itself."""

from collections.abc import Iterator

from django.contrib import admin
from django.urls import URLPattern, get_resolver, reverse

# Not pages: for machines, or they only lead on.
NOT_PAGES = {"logout", "metrics", "health", "ready", "endpoints-act", "clients-threshold", "requests-export", "theme"}
# Shown to whoever has not logged in.
BEFORE_LOGIN = {"login"}


def own_pages() -> Iterator[URLPattern]:
    for pattern in get_resolver().url_patterns:
        if not isinstance(pattern, URLPattern) or str(pattern.pattern).startswith(("api/", "v1")):
            continue
        if pattern.name and pattern.name not in NOT_PAGES and not pattern.name.startswith("beside-"):
            yield pattern


def path_of(pattern: URLPattern, known: dict[str, str]) -> str:
    """`known`: a value for each argument that a path may take."""
    arguments = pattern.pattern.converters
    missing = sorted(set(arguments) - set(known))
    assert not missing, f"tell an example of {missing}, which {pattern.name} takes"
    return reverse(str(pattern.name), kwargs={name: known[name] for name in arguments})


# Of whose rows the admin's forms are opened, and the argument that names one.
ROWS = {"endpoint": "endpoint_id", "requesthistory": "request_id", "apikey": "key_id"}


def admin_pages() -> Iterator[tuple[str, str]]:
    """The index, each list, each form that adds, and those about a row: their names, and the argument of the last."""
    yield "admin:index", ""
    for model, page in admin.site._registry.items():
        opts = model._meta
        name = str(opts.model_name)
        names = {it.name for it in page.get_urls() if it.name}
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
