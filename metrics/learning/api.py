"""Learned speeds and slow-downs of one endpoint, below /api/endpoints/{id}."""

import time
import uuid
from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints import edit_log
from endpoints.api import entry_or_404
from endpoints.openapi.descriptions import extend_schema
from metrics.learning import current_slowdowns
from metrics.learning.current_slowdowns import SlowdownPayload
from metrics.learning.learned_models import LearnedPayload, learned_models
from metrics.queries import stored, uptime

SLOWDOWN_DAYS = 9  # local days in which a slow-down may have begun, and the hours before it


class LearnedSpeeds(APIView):
    @extend_schema(responses=list[LearnedPayload])
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """List what adaptive routing has learned about an endpoint, by model and kind, busiest first."""
        entry = entry_or_404(endpoint_id)
        stored.flushed()
        return Response([learned.payload for learned in learned_models(entry)])


class EndpointSlowdowns(APIView):
    @extend_schema(responses=list[SlowdownPayload])
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """List the models of an endpoint that have become slower than before, the slowest first."""
        entry = entry_or_404(endpoint_id)
        edits = edit_log.latest(entry.id)
        spans = uptime.timeline(entry, SLOWDOWN_DAYS, edits).spans
        return Response([slowdown.payload for slowdown in current_slowdowns.shown(entry.id, time.time(), edits, spans)])


URLS: list[tuple[str, Any, str]] = [
    ("api/endpoints/<uuid:endpoint_id>/learned", LearnedSpeeds, "api-endpoint-learned"),
    ("api/endpoints/<uuid:endpoint_id>/slowdowns", EndpointSlowdowns, "api-endpoint-slowdowns"),
]
