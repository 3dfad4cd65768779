"""The OpenAPI schema as a file."""

from functools import cache
from typing import Any, cast

from django.conf import settings
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils.translation import get_language, override
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request


class SchemaFile(SpectacularAPIView):
    """Schema as a file. It is the same for all users, and cached by language and format until the process ends."""

    def _get_schema_response(self, request: Request) -> HttpResponseBase:
        """Return the cached schema.

        `version` is ignored: only one exists, and drf-spectacular would copy the parameter unchecked into a header.
        """
        renderer: Any = request.accepted_renderer
        language = get_language()
        cached: Any = _rendered
        content: bytes = cached(type(renderer), language if language in dict(settings.LANGUAGES) else "en")
        media = request.accepted_media_type
        kind = f"{media}; charset={renderer.charset}" if renderer.charset else media
        name = cast("Any", super())._get_filename(request, None)
        return HttpResponse(content, kind, headers={"Content-Disposition": f'inline; filename="{name}"'})


@cache
def _rendered(renderer: Any, language: str) -> bytes:
    """Render the schema without a request, so that it contains no data of the first user."""
    with override(language):
        generator: Any = SchemaGenerator
        content = renderer().render(generator().get_schema(request=None, public=True), renderer.media_type, {})
    return content if isinstance(content, bytes) else bytes(content, "utf-8")
