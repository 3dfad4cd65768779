"""/api/live and /api/route: requests that run now, and where a request would go now."""

import uuid
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from django.db import Error
from drf_spectacular.types import OpenApiTypes
from rest_framework.exceptions import APIException, NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.openapi.descriptions import extend_schema
from endpoints.openapi.payload_fields import Help, UuidText
from gateway.base.errors import Refusal
from gateway.base.queue_class import BULK, INTERACTIVE, read_class
from metrics.api.common import NO_CONVERSATION, BadRequest, checked
from metrics.api.routing_serializers import (
    RouteBodySerializer,
    RouteGetSerializer,
)
from metrics.memory.runtime import runtime
from metrics.queries import running_requests
from metrics.queries.api_keys import stored_keys
from metrics.queries.requests.lookups import conversation
from metrics.queries.routing.current_route import RouteQuestion, current_route, expected_tokens
from metrics.queries.routing.routing_preview import RoutePayload
from metrics.queries.routing.sample_request import read_sample
from metrics.queries.running_requests import LivePayload
from metrics.queries.stored import flushed
from metrics.spending.admission import AdmissionPayload, LimitsOf, admission_now, admission_payload


class RouteAndLimitsPayload(RoutePayload):
    limits: Annotated[AdmissionPayload | None, Help("Null while the database cannot be read.")]


class CancelledPayload(TypedDict):
    id: UuidText
    cancelled: Annotated[
        bool,
        Help(
            "True if the cancel was sent to the workers. The worker with the request ends it in a moment. While "
            "a list of requests is cut, the request may not exist."
        ),
    ]


class NotReady(APIException):
    status_code = 503
    default_detail = "No endpoints have been published to the gateways yet."


class RoutePreview(APIView):
    permission_needed = "endpoints.read"  # also to send a body

    @extend_schema(parameters=[RouteGetSerializer], responses=RouteAndLimitsPayload)
    def get(self, request: Request, limits_of: LimitsOf) -> Response:
        """Return where a request for this model would go now, and why, with all endpoints that have the model.

        `limits` says whether those of the API key would admit it; with a session, those of everyone.
        """
        values = checked(RouteGetSerializer, request).validated_data
        stored_conversation, key = None, values.pop("conversation", None)
        if key is not None:
            flushed()
            stored_conversation = conversation(key)
            if stored_conversation is None:
                raise NotFound(NO_CONVERSATION)
            if stored_conversation.payload["model"] != values["model"]:
                raise BadRequest(
                    f"conversation: its requests are for the model {stored_conversation.payload['model']!r}."
                )
        own = getattr(request.auth, "id", None)
        return _answer(
            RouteQuestion(**values, conversation=stored_conversation, may_use_external=_may_use_external(own)),
            own,
            limits_of,
        )

    @extend_schema(
        operation_id="route_of_body",
        parameters=[RouteBodySerializer],
        request={"application/json": OpenApiTypes.OBJECT},
        responses=RouteAndLimitsPayload,
    )
    def post(self, request: Request, limits_of: LimitsOf) -> Response:
        """Return where this request would go now: the body is that of an inference request, and a session may be named
        in a header. Nothing is sent, stored or taken from limits. With a session of the dashboard, for administrators.
        """
        values = checked(RouteBodySerializer, request).validated_data
        key_id = values.get("api_key_id")
        if isinstance(own := getattr(request.auth, "id", None), str):
            if key_id is not None and str(key_id) != own:
                raise PermissionDenied("An API key sees where its own requests would go: leave out api_key_id.")
            key_id = own
        headers = {name.lower().encode(): value.encode() for name, value in request.headers.items()}
        try:
            sample = read_sample(request.body, headers, key_id and str(key_id))
        except Refusal as refusal:
            raise BadRequest(refusal.message) from None
        question = RouteQuestion(
            sample.parsed.model, values["kind"], sample=sample, may_use_external=_may_use_external(sample.key_id)
        )
        return _answer(question, sample.key_id, limits_of, headers)


def _may_use_external(key_id: object) -> bool:
    """Return True if an API key may use external endpoints; also without one: administrators ask for any."""
    if not isinstance(key_id, str):
        return True
    return bool(stored_keys().filter(pk=key_id).values_list("external", flat=True).first())


def _answer(
    question: RouteQuestion, key_id: object, limits_of: LimitsOf, headers: Mapping[bytes, bytes] | None = None
) -> Response:
    """Return the response. `headers`: those of an inference request, with names in lower case."""
    if not runtime.installation.is_serving():
        raise NotReady
    preview = current_route(question)
    if preview is None:
        raise NotFound(f"The model {question.model!r} does not exist; GET /v1/models lists the models.")
    key = key_id if isinstance(key_id, str) else None
    has_bulk_only = key is not None and bool(stored_keys().filter(pk=key).values_list("bulk", flat=True).first())
    is_flex = question.sample is not None and question.sample.parsed.is_flex
    try:
        of_class = read_class(headers or {}, is_flex=is_flex, default=BULK if has_bulk_only else INTERACTIVE)
    except Refusal as refusal:
        raise BadRequest(refusal.message) from None
    try:
        limits = admission_payload(
            admission_now(
                key,
                question.kind,
                expected_tokens(question, key),
                limits_of,
                is_bulk=of_class == BULK,
                has_bulk_only=has_bulk_only,
            )
        )
    except Error:
        limits = None
    payload: RouteAndLimitsPayload = {**preview, "limits": limits}
    return Response(payload)


class RunningRequests(APIView):
    @extend_schema(responses=LivePayload)
    def get(self, request: Request) -> Response:
        """List queued and running requests, oldest first: at most 200 of each per worker, with their totals. The first
        response takes up to a second. Further ones within ten seconds are at most half a second old.
        """
        return Response(running_requests.read_running())


class RequestCancel(APIView):
    @extend_schema(request=None, responses={202: CancelledPayload})
    def post(self, request: Request, request_id: uuid.UUID) -> Response:
        """Cancel a queued or running request. Its client gets an error (499 `request_cancelled`), or an event at the
        end of its stream. A second call within a minute changes nothing.
        """
        if not running_requests.cancel(str(request_id)):
            raise NotFound("No queued or running request has this id.")
        payload: CancelledPayload = {"id": str(request_id), "cancelled": True}
        return Response(payload, status=202)


URLS: list[tuple[str, Any, str]] = [
    ("api/live", RunningRequests, "api-live"),
    ("api/live/<uuid:request_id>/cancel", RequestCancel, "api-live-cancel"),
]
