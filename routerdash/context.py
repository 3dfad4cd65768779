"""What every page knows."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest

from routerdash import __version__


def site(request: HttpRequest) -> dict[str, Any]:
    return {
        "version": __version__,
        "theme": _theme(request),
        "time_zone": settings.TIME_ZONE,
        "public_url": settings.ROUTERDASH.public_url or f"{request.scheme}://{request.get_host()}",
    }


def _theme(request: HttpRequest) -> str:
    chosen = request.COOKIES.get("routerdash_theme", "")
    return chosen if chosen in ("light", "dark") else "system"
