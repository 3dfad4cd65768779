"""Context of every page."""

from functools import cache

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone

from endpoints.registry import registry
from routerdash import __version__
from routerdash.web import navigation


def site(request: HttpRequest) -> dict[str, object]:
    groups = cache(lambda: navigation.links(request))  # on first use in a template: an error page needs no database
    return {
        "nav": groups,
        "nav_small": lambda: navigation.small(groups())[0],
        "nav_rest": lambda: navigation.small(groups())[1],
        "no_endpoints": lambda: registry.loaded and not registry.all(),
        "version": __version__,
        "theme": _theme(request),
        "time_zone": timezone.get_current_timezone_name(),
        "public_url": settings.ROUTERDASH.public_url or f"{request.scheme}://{request.get_host()}",
    }


def _theme(request: HttpRequest) -> str:
    chosen = request.COOKIES.get("routerdash_theme", "")
    return chosen if chosen in ("light", "dark") else "system"
