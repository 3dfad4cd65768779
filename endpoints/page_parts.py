"""Requests for a part of a page, which static/js/parts.js puts into the open page."""

from django.http import HttpRequest

HEADER = "X-RouterDash-Part"
REFUSED = 422  # status of a part that shows why a form was refused


def wants_part(request: HttpRequest) -> bool:
    """Return True if the response is a part of a page instead of all of it."""
    return HEADER in request.headers
