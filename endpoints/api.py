"""Views of /api/endpoints: reads use the registry, writes the table."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypedDict, cast

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter
from rest_framework import status
from rest_framework.exceptions import APIException, NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints import causes, discovery, edit_log, edit_versions, operations, proposed_names
from endpoints.checks.model_lists import SyncFailed
from endpoints.clouds import environment
from endpoints.detection import KeyRequired, Unsupported
from endpoints.filters import Selection
from endpoints.lists import offset_pages
from endpoints.models import Endpoint, OperatorState, deadline
from endpoints.openapi.descriptions import extend_schema
from endpoints.probe import Unreachable
from endpoints.registry import Entry, models_of, registry
from endpoints.serializers import (
    DetectSerializer,
    DiscoverySerializer,
    DrainSerializer,
    EndpointDetailSerializer,
    EndpointListSerializer,
    EndpointModelsSerializer,
    EndpointSerializer,
    EndpointWriteSerializer,
    ModelInfoSerializer,
    OfferedCloudSerializer,
    ServerInfoSerializer,
    SyncResultSerializer,
    TestResultSerializer,
)
from gateway.upstream.connection_settings import PLAIN, ConnectionSettings


class ErrorResponse(APIException):
    """An error response with its own HTTP status: `ErrorResponse(502, "…")`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.status_code = code


def entry_or_404(endpoint_id: uuid.UUID) -> Entry:
    entry = registry.get(str(endpoint_id))
    if entry is None:
        raise NotFound(_("Endpoint not found"))
    return entry


def _endpoint_response(endpoint_id: uuid.UUID) -> Response:
    """Return the response with the endpoint, and its version as ETag."""
    entry = entry_or_404(endpoint_id)
    return Response(EndpointDetailSerializer(entry).data, headers={"ETag": f'"{edit_versions.of_entry(entry)}"'})


def row_or_404(endpoint_id: uuid.UUID, *, lock: bool = False) -> Endpoint:
    rows = Endpoint.objects.select_for_update() if lock else Endpoint.objects.select_related("options")
    row = rows.filter(pk=endpoint_id).first()
    if row is None:
        raise NotFound(_("Endpoint not found"))
    return row


class EndpointList(APIView):
    @extend_schema(
        operation_id="endpoints_list",
        parameters=[
            OpenApiParameter(
                "q", description="Search words; each must occur in the name, address, notes, tags or models."
            ),
            OpenApiParameter(
                "status", description="Status; `draining` and `disabled` hide the result of health checks."
            ),
            OpenApiParameter("type"),
            OpenApiParameter("model", description="Name or canonical name of an offered model."),
            OpenApiParameter("tag"),
            *offset_pages.PARAMETERS,
        ],
        responses=EndpointListSerializer,
    )
    def get(self, request: Request) -> Response:
        """List endpoints, newest first. A filter value that no endpoint has returns an empty list."""
        query = request.query_params
        selection = Selection(*(query.get(name) for name in ("q", "status", "type", "model", "tag")))
        selected = selection.of(reversed(registry.all()))
        entries, headers = offset_pages.part_of(request, selected)
        data = EndpointSerializer(cast(Any, entries), many=True).data
        return Response({"endpoints": data, "total": len(selected)}, headers=headers)

    @extend_schema(request=EndpointWriteSerializer, responses={201: EndpointSerializer})
    def post(self, request: Request) -> Response:
        endpoint = create(request, request.data)
        return Response(EndpointSerializer(entry_or_404(endpoint.pk)).data, status=status.HTTP_201_CREATED)


class EndpointDetect(APIView):
    @extend_schema(request=DetectSerializer, responses=ServerInfoSerializer)
    def post(self, request: Request) -> Response:
        """Return type, latency and models of the server at an address. Nothing is stored. Only the API key in this
        request is sent to the server, never a stored one.
        """
        return Response(ServerInfoSerializer(inspect_server(request.data)).data)


class EndpointDiscover(APIView):
    @extend_schema(request=None, responses=DiscoverySerializer)
    def post(self, request: Request) -> Response:
        """Search for servers at the usual ports of the machine that RouterDash runs on, and for API keys of clouds in
        its environment. Nothing is stored, and nothing is sent to a cloud.
        """
        discovered = {"places": discovery.discover(), "clouds": environment.offers(settings.ROUTERDASH)}
        return Response(DiscoverySerializer(discovered).data)


class EndpointDiscoverCloud(APIView):
    @extend_schema(request=OfferedCloudSerializer, responses={201: EndpointSerializer})
    def post(self, request: Request) -> Response:
        """Add a cloud with its API key of the environment. The endpoint follows the variable at each start."""
        serializer = OfferedCloudSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        endpoint = create_from_environment(request, serializer.validated_data["cloud_type"])
        return Response(EndpointSerializer(entry_or_404(endpoint.pk)).data, status=status.HTTP_201_CREATED)


IF_MATCH = OpenApiParameter(
    "If-Match",
    str,
    OpenApiParameter.HEADER,
    description="The `ETag` from reading the endpoint. The status is 412 if an administrator has changed it since.",
)


class EndpointDetail(APIView):
    @extend_schema(responses=EndpointDetailSerializer)
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Return an endpoint. Its `ETag` changes with fields that administrators edit, not with checks and figures."""
        return _endpoint_response(endpoint_id)

    @extend_schema(parameters=[IF_MATCH], request=EndpointWriteSerializer, responses=EndpointDetailSerializer)
    def put(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Change an endpoint like PATCH: fields left out stay as they are."""
        return self.patch(request, endpoint_id)

    @extend_schema(parameters=[IF_MATCH], request=EndpointWriteSerializer, responses=EndpointDetailSerializer)
    def patch(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Change only the fields sent."""
        endpoint = row_or_404(endpoint_id)
        serializer = EndpointWriteSerializer(endpoint, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        url = serializer.validated_data.get("base_url", endpoint.base_url)
        if url != endpoint.base_url:
            _refuse_taken(url, endpoint)
        cloud_before = endpoint.options_or_default.cloud_type
        cloud = serializer.validated_data.get("cloud_type", cloud_before)
        if not cloud and (url != endpoint.base_url or cloud_before):
            serializer.validated_data["endpoint_type"] = _detect(
                url, _key_for(url, endpoint, serializer), _connection_for(url, endpoint, serializer)
            )
        _store(request, serializer, endpoint, request.headers.get("If-Match", "*"))
        return _endpoint_response(endpoint_id)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        endpoint = row_or_404(endpoint_id)
        with transaction.atomic():
            edit_log.note_deleted(request, endpoint)
            endpoint.delete()
        return Response(status=status.HTTP_204_NO_CONTENT)


class EndpointModelList(APIView):
    @extend_schema(responses=EndpointModelsSerializer)
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        entry = entry_or_404(endpoint_id)
        return Response(EndpointModelsSerializer({"endpoint_id": entry.id, "models": entry.models}).data)


class EndpointModelInfo(APIView):
    @extend_schema(responses=ModelInfoSerializer)
    def get(self, request: Request, endpoint_id: uuid.UUID, model: str) -> Response:
        """Return one model of an endpoint by the endpoint's own name for it."""
        entry = entry_or_404(endpoint_id)
        entry_model = next((entry_model for entry_model in entry.models if entry_model.id == model), None)
        if entry_model is None:
            raise NotFound(_("Model not found"))
        info = {
            "model_id": entry_model.id,
            "endpoint_id": entry.id,
            "max_tokens": entry_model.max_tokens,
            "last_checked": entry_model.last_checked,
        }
        return Response(ModelInfoSerializer(info).data)


class EndpointTest(APIView):
    @extend_schema(request=None, responses=TestResultSerializer)
    def post(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Probe the endpoint now. The status is always 200; `success` has the result."""
        result = asdict(operations.test(row_or_404(endpoint_id)))
        if result["models_found"] is not None:
            result["endpoint_info"] = {"model_count": len(result["models_found"])}
        return Response(TestResultSerializer(result).data)


class EndpointSync(APIView):
    @extend_schema(request=None, responses=SyncResultSerializer)
    def post(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Update the endpoint's list of models now."""
        try:
            result = operations.sync_models(row_or_404(endpoint_id))
        except Unreachable as error:
            raise ErrorResponse(
                503, _("The endpoint cannot be reached: %(why)s") % {"why": causes.shown(error)}
            ) from None
        except SyncFailed as error:
            raise ErrorResponse(
                502, _("The endpoint could not be synced: %(why)s") % {"why": causes.shown(error)}
            ) from None
        data = {**asdict(result), "synced_models": models_of(str(endpoint_id))}
        return Response(SyncResultSerializer(data).data)


class EndpointOperation(APIView):
    """A change of the administrative state. The response is the endpoint, with its running requests."""

    def set_state(
        self, request: Request, endpoint_id: uuid.UUID, state: OperatorState, drain_until: datetime | None = None
    ) -> Response:
        with transaction.atomic():
            endpoint = row_or_404(endpoint_id, lock=True)
            before = edit_log.values(endpoint)
            endpoint.set_operator_state(state, drain_until)
            edit_log.note_changed(request, endpoint, before)
        return Response(EndpointDetailSerializer(entry_or_404(endpoint_id)).data)


class EndpointDrain(EndpointOperation):
    @extend_schema(request=DrainSerializer, responses=EndpointDetailSerializer)
    def post(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Drain the endpoint: it gets no new requests; running ones may finish, within the deadline if there is one."""
        serializer = DrainSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return self.set_state(
            request, endpoint_id, OperatorState.DRAINING, deadline(serializer.validated_data["deadline_secs"])
        )


class EndpointDisable(EndpointOperation):
    @extend_schema(request=None, responses=EndpointDetailSerializer)
    def post(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Disable the endpoint: it gets no new requests; running ones may finish."""
        return self.set_state(request, endpoint_id, OperatorState.DISABLED)


class EndpointEnable(EndpointOperation):
    @extend_schema(request=None, responses=EndpointDetailSerializer)
    def post(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Enable the endpoint: it gets requests again."""
        return self.set_state(request, endpoint_id, OperatorState.ENABLED)


class EndpointResetBreaker(APIView):
    @extend_schema(request=None, responses=EndpointDetailSerializer)
    def post(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Reset the circuit breaker: it closes at once in all gateways, which clear their failure counts. If the
        endpoint still fails, the circuit breaker opens again as usual. The response is the endpoint.
        """
        endpoint = row_or_404(endpoint_id)
        edit_log.note_reset(request, endpoint)
        registry.reset_breaker(str(endpoint.pk))
        return Response(EndpointDetailSerializer(entry_or_404(endpoint_id)).data)


def create(request: edit_log.AnyRequest, data: Any) -> Endpoint:
    """Add an endpoint after its type has been detected. Raises ErrorResponse or ValidationError."""
    serializer = EndpointWriteSerializer(data=data)
    serializer.is_valid(raise_exception=True)
    url = serializer.validated_data["base_url"]
    _refuse_taken(url)
    if serializer.validated_data.get("cloud_type"):
        return _store(request, serializer, Endpoint())
    values = serializer.validated_data
    kind = _detect(url, values.get("api_key") or None, values.get("connection", PLAIN))
    return _store(request, serializer, Endpoint(endpoint_type=kind))


def create_from_environment(request: edit_log.AnyRequest, cloud_type: str) -> Endpoint:
    """Add the endpoint of a cloud whose API key is in the environment. Raises ErrorResponse."""
    config = settings.ROUTERDASH
    offer = next((offer for offer in environment.offers(config) if offer.found.provider.kind == cloud_type), None)
    if offer is None:
        raise ErrorResponse(404, _("The environment of RouterDash has no API key of this cloud."))
    if offer.problem is not None:
        raise ErrorResponse(400, offer.problem)
    _refuse_taken(offer.base_url)
    try:
        with transaction.atomic():
            endpoint = environment.make(offer.found, config)
            edit_log.note_added(request, endpoint)
            return endpoint
    except IntegrityError:
        raise ErrorResponse(409, _("Another endpoint with this name or base URL was saved at the same time.")) from None


class ServerInfoPayload(TypedDict):
    """Data of ServerInfoSerializer."""

    base_url: str
    server: operations.ServerInfo
    name: str
    registered: Entry | None


def inspect_server(data: Any) -> ServerInfoPayload:
    """Return the data that a server reports, for ServerInfoSerializer. Raises ErrorResponse or ValidationError."""
    serializer = DetectSerializer(data=data)
    serializer.is_valid(raise_exception=True)
    values = serializer.validated_data
    url = values["base_url"]
    with _refusals():
        server = operations.inspect_server(
            url,
            values["api_key"] or None,
            values.get("cloud_type"),
            values.get("api_version"),
            values.get("connection", PLAIN),
        )
    registered = next((entry for entry in registry.all() if entry.base_url == url), None)
    return {
        "base_url": url,
        "server": server,
        "name": proposed_names.propose(url, server.kind),
        "registered": registered,
    }


def _detect(url: str, api_key: str | None, connection: ConnectionSettings) -> str:
    with _refusals():
        return operations.detect(url, api_key, connection)


@contextmanager
def _refusals() -> Iterator[None]:
    """Convert errors of a server to error responses. Raises ErrorResponse."""
    try:
        yield
    except Unreachable as error:
        raise ErrorResponse(502, _("The endpoint cannot be reached: %(why)s") % {"why": causes.shown(error)}) from None
    except KeyRequired as error:
        raise ErrorResponse(
            400, _("The server responded, but it cannot be used: %(why)s") % {"why": causes.shown(error)}
        ) from None
    except Unsupported as error:
        text = _("This inference server is not supported: %(why)s")
        raise ErrorResponse(400, text % {"why": causes.shown(error)}) from None


def _key_for(url: str, endpoint: Endpoint, serializer: EndpointWriteSerializer) -> str | None:
    """Return the API key for detection at a new address. The stored key is sent only to its own server."""
    if "api_key" in serializer.validated_data:
        return serializer.validated_data["api_key"] or None
    if endpoint.moves_to(url):
        return None
    try:
        return operations.secret(endpoint)
    except Unreachable as error:
        raise ErrorResponse(502, _("The endpoint cannot be queried: %(why)s") % {"why": causes.shown(error)}) from None


def _connection_for(url: str, endpoint: Endpoint, serializer: EndpointWriteSerializer) -> ConnectionSettings:
    """Return the connection settings for detection at a new address. Stored ones are used for their own server only."""
    if "connection" in serializer.validated_data:
        settings: ConnectionSettings = serializer.validated_data["connection"]
        return settings
    if endpoint.moves_to(url):
        return PLAIN
    try:
        return operations.connection(endpoint)
    except Unreachable as error:
        raise ErrorResponse(502, _("The endpoint cannot be queried: %(why)s") % {"why": causes.shown(error)}) from None


def _refuse_taken(url: str, endpoint: Endpoint | None = None) -> None:
    others = Endpoint.objects.filter(base_url=url)
    if endpoint is not None:
        others = others.exclude(pk=endpoint.pk)
    if others.exists():
        raise ErrorResponse(409, _("An endpoint with this base URL already exists."))


def _store(
    request: edit_log.AnyRequest, serializer: EndpointWriteSerializer, endpoint: Endpoint, if_match: str = "*"
) -> Endpoint:
    try:
        with transaction.atomic():
            if not endpoint._state.adding:
                stored = row_or_404(endpoint.pk, lock=True)  # it may have been deleted while its server was queried
                if stored.base_url != endpoint.base_url:
                    raise ErrorResponse(
                        409, _("Another base URL was saved at the same time.")
                    )  # its secret may not match
                if not edit_versions.matches(if_match, edit_versions.of(stored)):
                    raise ErrorResponse(412, _("The endpoint has been changed since it was read; read it again."))
                before = edit_log.values(stored)
                edit_log.note_changed(request, serializer.write(endpoint), before)
            else:
                edit_log.note_added(request, serializer.write(endpoint))
            return endpoint
    except IntegrityError:
        raise ErrorResponse(409, _("Another endpoint with this name or base URL was saved at the same time.")) from None


URLS: list[tuple[str, Any, str]] = [
    ("api/endpoints", EndpointList, "api-endpoints"),
    ("api/endpoints/detect", EndpointDetect, "api-endpoint-detect"),
    ("api/endpoints/discover", EndpointDiscover, "api-endpoint-discover"),
    ("api/endpoints/discover/cloud", EndpointDiscoverCloud, "api-endpoint-discover-cloud"),
    ("api/endpoints/<uuid:endpoint_id>", EndpointDetail, "api-endpoint"),
    ("api/endpoints/<uuid:endpoint_id>/models", EndpointModelList, "api-endpoint-models"),
    ("api/endpoints/<uuid:endpoint_id>/models/<path:model>/info", EndpointModelInfo, "api-endpoint-model-info"),
    ("api/endpoints/<uuid:endpoint_id>/test", EndpointTest, "api-endpoint-test"),
    ("api/endpoints/<uuid:endpoint_id>/sync", EndpointSync, "api-endpoint-sync"),
    ("api/endpoints/<uuid:endpoint_id>/drain", EndpointDrain, "api-endpoint-drain"),
    ("api/endpoints/<uuid:endpoint_id>/disable", EndpointDisable, "api-endpoint-disable"),
    ("api/endpoints/<uuid:endpoint_id>/enable", EndpointEnable, "api-endpoint-enable"),
    ("api/endpoints/<uuid:endpoint_id>/reset-breaker", EndpointResetBreaker, "api-endpoint-reset-breaker"),
]
