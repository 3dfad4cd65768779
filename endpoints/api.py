"""/api/endpoints: reading from the registry, writing to the table."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.exceptions import APIException, NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints import discovery, edits, naming, operations, sync, versions
from endpoints.detection import Locked, Unsupported
from endpoints.models import Endpoint, OperatorState, deadline
from endpoints.probe import Unreachable
from endpoints.registry import Entry, models_of, registry
from endpoints.selection import Selection
from endpoints.serializers import (
    DetectSerializer,
    DiscoverySerializer,
    DrainSerializer,
    EndpointDetailSerializer,
    EndpointListSerializer,
    EndpointModelsSerializer,
    EndpointSerializer,
    EndpointWriteSerializer,
    LookSerializer,
    ModelInfoSerializer,
    SyncResultSerializer,
    TestResultSerializer,
)


class Failed(APIException):
    """An answer of ours with its own status: `Failed(502, "…")`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.status_code = code


def entry_or_404(endpoint_id: uuid.UUID) -> Entry:
    entry = registry.get(str(endpoint_id))
    if entry is None:
        raise NotFound("Endpoint not found")
    return entry


def _told(endpoint_id: uuid.UUID) -> Response:
    """The endpoint, with its version."""
    entry = entry_or_404(endpoint_id)
    return Response(EndpointDetailSerializer(entry).data, headers={"ETag": f'"{versions.of_entry(entry)}"'})


def row_or_404(endpoint_id: uuid.UUID, *, lock: bool = False) -> Endpoint:
    rows = Endpoint.objects.select_for_update() if lock else Endpoint.objects.select_related("options")
    row = rows.filter(pk=endpoint_id).first()
    if row is None:
        raise NotFound("Endpoint not found")
    return row


class EndpointList(APIView):
    @extend_schema(
        operation_id="endpoints_list",
        parameters=[
            OpenApiParameter("q", description="Words in name, address, notes, tags or models; all must be there."),
            OpenApiParameter("status", description="As shown: `draining` and `disabled` go before what checks say."),
            OpenApiParameter("type"),
            OpenApiParameter("model", description="Offered by this name or canonical name."),
            OpenApiParameter("tag"),
        ],
        responses=EndpointListSerializer,
    )
    def get(self, request: Request) -> Response:
        """The newest first. A value that no endpoint has finds none."""
        asked = request.query_params
        selection = Selection(*(asked.get(name) for name in ("q", "status", "type", "model", "tag")))
        found: Any = selection.of(reversed(registry.all()))
        return Response({"endpoints": EndpointSerializer(found, many=True).data, "total": len(found)})

    @extend_schema(request=EndpointWriteSerializer, responses={201: EndpointSerializer})
    def post(self, request: Request) -> Response:
        endpoint = create(request, request.data)
        return Response(EndpointSerializer(entry_or_404(endpoint.pk)).data, status=status.HTTP_201_CREATED)


class EndpointDetect(APIView):
    @extend_schema(request=DetectSerializer, responses=LookSerializer)
    def post(self, request: Request) -> Response:
        """Ask what is at an address, how fast it answers and which models it has. Nothing is stored, and no stored key
        is sent: only the one that is given here.
        """
        return Response(LookSerializer(look(request.data)).data)


class EndpointDiscover(APIView):
    @extend_schema(request=None, responses=DiscoverySerializer)
    def post(self, request: Request) -> Response:
        """Look for servers at the usual ports of the machine that RouterDash runs on. Nothing is stored."""
        return Response(DiscoverySerializer({"places": discovery.discover()}).data)


IF_MATCH = OpenApiParameter(
    "If-Match", str, OpenApiParameter.HEADER, description="The `ETag` that was read: 412 if staff has changed it since."
)


class EndpointDetail(APIView):
    @extend_schema(responses=EndpointDetailSerializer)
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Its `ETag` changes with what staff may edit, not with checks and figures."""
        return _told(endpoint_id)

    @extend_schema(parameters=[IF_MATCH], request=EndpointWriteSerializer, responses=EndpointDetailSerializer)
    def put(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """As PATCH: what is left out stays as it is."""
        return self.patch(request, endpoint_id)

    @extend_schema(parameters=[IF_MATCH], request=EndpointWriteSerializer, responses=EndpointDetailSerializer)
    def patch(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Only what is sent is changed."""
        endpoint = row_or_404(endpoint_id)
        given = EndpointWriteSerializer(endpoint, data=request.data, partial=True)
        given.is_valid(raise_exception=True)
        url = given.validated_data.get("base_url", endpoint.base_url)
        if url != endpoint.base_url:
            _refuse_taken(url, endpoint)
            given.validated_data["endpoint_type"] = _detect(url, _key_for(url, endpoint, given))
        _store(request, given, endpoint, request.headers.get("If-Match", "*"))
        return _told(endpoint_id)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        endpoint = row_or_404(endpoint_id)
        with transaction.atomic():
            edits.note_deleted(request, endpoint)
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
        """One model of an endpoint, by the endpoint's own name for it."""
        entry = entry_or_404(endpoint_id)
        found = next((it for it in entry.models if it.id == model), None)
        if found is None:
            raise NotFound("Model not found")
        told = {
            "model_id": found.id,
            "endpoint_id": entry.id,
            "max_tokens": found.max_tokens,
            "last_checked": found.last_checked,
        }
        return Response(ModelInfoSerializer(told).data)


class EndpointTest(APIView):
    @extend_schema(request=None, responses=TestResultSerializer)
    def post(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Probe the endpoint now. Always 200; `success` tells."""
        result = asdict(operations.test(row_or_404(endpoint_id)))
        if result["models_found"] is not None:
            result["endpoint_info"] = {"model_count": len(result["models_found"])}
        return Response(TestResultSerializer(result).data)


class EndpointSync(APIView):
    @extend_schema(request=None, responses=SyncResultSerializer)
    def post(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Bring the endpoint's list of models up to date now."""
        try:
            result = operations.sync_models(row_or_404(endpoint_id))
        except Unreachable as error:
            raise Failed(503, f"The endpoint cannot be reached: {error}.") from None
        except sync.SyncFailed as error:
            raise Failed(502, f"The endpoint could not be synced: {error}.") from None
        told = {**asdict(result), "synced_models": models_of(str(endpoint_id))}
        return Response(SyncResultSerializer(told).data)


class EndpointOperation(APIView):
    """What an operator says of an endpoint. The answer is the endpoint, with what still runs there."""

    def say(
        self, request: Request, endpoint_id: uuid.UUID, state: OperatorState, drain_until: datetime | None = None
    ) -> Response:
        with transaction.atomic():
            endpoint = row_or_404(endpoint_id, lock=True)
            before = edits.values(endpoint)
            endpoint.set_operator_state(state, drain_until)
            edits.note_changed(request, endpoint, before)
        return Response(EndpointDetailSerializer(entry_or_404(endpoint_id)).data)


class EndpointDrain(EndpointOperation):
    @extend_schema(request=DrainSerializer, responses=EndpointDetailSerializer)
    def post(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Nothing new goes there; what runs may finish, within the deadline if there is one."""
        given = DrainSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        return self.say(request, endpoint_id, OperatorState.DRAINING, deadline(given.validated_data["deadline_secs"]))


class EndpointDisable(EndpointOperation):
    @extend_schema(request=None, responses=EndpointDetailSerializer)
    def post(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Nothing new goes there; what runs may finish."""
        return self.say(request, endpoint_id, OperatorState.DISABLED)


class EndpointEnable(EndpointOperation):
    @extend_schema(request=None, responses=EndpointDetailSerializer)
    def post(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Requests go there again."""
        return self.say(request, endpoint_id, OperatorState.ENABLED)


class EndpointResetBreaker(APIView):
    @extend_schema(request=None, responses=EndpointDetailSerializer)
    def post(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Its circuit breaker closes at once in all gateways, which forget what they counted of failures. If it still
        fails, it opens again as any other. The answer is the endpoint.
        """
        endpoint = row_or_404(endpoint_id)
        edits.note_reset(request, endpoint)
        registry.reset_breaker(str(endpoint.pk))
        return Response(EndpointDetailSerializer(entry_or_404(endpoint_id)).data)


def create(request: edits.AnyRequest, data: Any) -> Endpoint:
    """Add an endpoint, once its server has said what it is. Raises Failed or ValidationError."""
    given = EndpointWriteSerializer(data=data)
    given.is_valid(raise_exception=True)
    url = given.validated_data["base_url"]
    _refuse_taken(url)
    kind = _detect(url, given.validated_data.get("api_key") or None)
    return _store(request, given, Endpoint(endpoint_type=kind))


def look(data: Any) -> dict[str, Any]:
    """What a server tells of itself; for LookSerializer. Raises Failed or ValidationError."""
    given = DetectSerializer(data=data)
    given.is_valid(raise_exception=True)
    url = given.validated_data["base_url"]
    with _refusals():
        found = operations.look(url, given.validated_data["api_key"] or None)
    known = next((entry for entry in registry.all() if entry.base_url == url), None)
    return {"base_url": url, "look": found, "name": naming.propose(url, found.kind), "registered": known}


def _detect(url: str, api_key: str | None) -> str:
    with _refusals():
        return operations.detect(url, api_key)


@contextmanager
def _refusals() -> Iterator[None]:
    """What a server does not do, as an answer of ours."""
    try:
        yield
    except Unreachable as error:
        raise Failed(502, _("The endpoint cannot be reached: %(why)s.") % {"why": error}) from None
    except Locked as error:
        raise Failed(400, _("A server is there, but %(why)s.") % {"why": error}) from None
    except Unsupported as error:
        text = _("This is no inference server that RouterDash knows: %(why)s.")
        raise Failed(400, text % {"why": error}) from None


def _key_for(url: str, endpoint: Endpoint, given: EndpointWriteSerializer) -> str | None:
    """What to ask at a new address with. The stored secret goes nowhere but to its own server."""
    if "api_key" in given.validated_data:
        return given.validated_data["api_key"] or None
    if endpoint.moves_to(url):
        return None
    try:
        return operations.secret(endpoint)
    except Unreachable as error:
        raise Failed(502, f"The endpoint cannot be asked: {error}.") from None


def _refuse_taken(url: str, endpoint: Endpoint | None = None) -> None:
    others = Endpoint.objects.filter(base_url=url)
    if endpoint is not None:
        others = others.exclude(pk=endpoint.pk)
    if others.exists():
        raise Failed(409, _("An endpoint with this base URL exists already."))


def _matches(if_match: str, stored: Endpoint) -> bool:
    """As RFC 9110 has it: any of several versions will do, and a star is any version at all."""
    wanted = [it.strip().removeprefix("W/").strip('"') for it in if_match.split(",")]
    return "*" in wanted or versions.of(stored) in wanted


def _store(
    request: edits.AnyRequest, given: EndpointWriteSerializer, endpoint: Endpoint, if_match: str = "*"
) -> Endpoint:
    try:
        with transaction.atomic():
            if not endpoint._state.adding:
                stored = row_or_404(endpoint.pk, lock=True)  # it may have been deleted while its server was asked
                if stored.base_url != endpoint.base_url:
                    raise Failed(409, "Another base URL was saved at the same moment.")  # whose is the secret then?
                if not _matches(if_match, stored):
                    raise Failed(412, "The endpoint has been changed since it was read; read it again.")
                before = edits.values(stored)
                edits.note_changed(request, given.write(endpoint), before)
            else:
                edits.note_added(request, given.write(endpoint))
            return endpoint
    except IntegrityError:
        raise Failed(409, _("Another endpoint with this name or base URL was saved at the same moment.")) from None


URLS: list[tuple[str, Any, str]] = [
    ("api/endpoints", EndpointList, "api-endpoints"),
    ("api/endpoints/detect", EndpointDetect, "api-endpoint-detect"),
    ("api/endpoints/discover", EndpointDiscover, "api-endpoint-discover"),
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
