"""Views of /api/model-names: one document for each name, with its steps and targets."""

import uuid
from typing import Any, cast

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter
from rest_framework import status
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints import edit_versions
from endpoints.api import ErrorResponse
from endpoints.lists import offset_pages
from endpoints.model_names import storing
from endpoints.model_names.name_cache import NameEntry, model_names, read_names
from endpoints.model_names.serializers import ModelNameListSerializer, ModelNameSerializer, draft
from endpoints.model_names.tables import NamedModel
from endpoints.openapi.descriptions import extend_schema
from endpoints.problems import texts_by_place

IF_MATCH = OpenApiParameter(
    "If-Match",
    str,
    OpenApiParameter.HEADER,
    description="The `ETag` from reading the model name. The status is 412 if it has been changed since.",
)


class ModelNameList(APIView):
    @extend_schema(
        operation_id="model_names_list",
        parameters=[
            OpenApiParameter("q", description="Search words; each must occur in the name, note or a target."),
            *offset_pages.PARAMETERS,
        ],
        responses=ModelNameListSerializer,
    )
    def get(self, request: Request) -> Response:
        """List model names, sorted by name."""
        words = request.query_params.get("q", "").casefold().split()
        selected = [entry for entry in model_names.all() if all(word in _searched(entry) for word in words)]
        entries, headers = offset_pages.part_of(request, selected)
        data = ModelNameSerializer(cast(Any, entries), many=True).data
        return Response({"model_names": data, "total": len(selected)}, headers=headers)

    @extend_schema(request=ModelNameSerializer, responses={201: ModelNameSerializer})
    def post(self, request: Request) -> Response:
        """Add a model name. It is in effect in every gateway when the response arrives."""
        entry = draft(_validated(request), None)
        _store(request, entry)
        return _response(entry.id, status.HTTP_201_CREATED)


class ModelNameDetail(APIView):
    @extend_schema(responses=ModelNameSerializer)
    def get(self, request: Request, name_id: uuid.UUID) -> Response:
        """Return a model name. Its `ETag` changes with each edit."""
        return _response(str(name_id))

    @extend_schema(parameters=[IF_MATCH], request=ModelNameSerializer, responses=ModelNameSerializer)
    def put(self, request: Request, name_id: uuid.UUID) -> Response:
        """Change a model name like PATCH: fields left out stay as they are."""
        return self.patch(request, name_id)

    @extend_schema(parameters=[IF_MATCH], request=ModelNameSerializer, responses=ModelNameSerializer)
    def patch(self, request: Request, name_id: uuid.UUID) -> Response:
        """Change only the fields sent. `steps` replaces all steps."""
        with transaction.atomic():
            storing.lock()
            before = _stored_or_404(name_id)
            _refuse_outdated(before, request.headers.get("If-Match", "*"))
            _store(request, draft(_validated(request, before), before))
        return _response(str(name_id))

    @extend_schema(parameters=[IF_MATCH], responses={204: None})
    def delete(self, request: Request, name_id: uuid.UUID) -> Response:
        """Delete a model name. Requests for it then go to the model of this id, if there is one."""
        with transaction.atomic():
            storing.lock()
            _refuse_outdated(_stored_or_404(name_id), request.headers.get("If-Match", "*"))
            storing.delete(request, NamedModel.objects.get(pk=name_id))
        return Response(status=status.HTTP_204_NO_CONTENT)


def _response(name_id: str, code: int = status.HTTP_200_OK) -> Response:
    entry = model_names.get(name_id)
    if entry is None:
        raise NotFound(_("Model name not found"))
    return Response(ModelNameSerializer(entry).data, status=code, headers={"ETag": f'"{storing.version(entry)}"'})


def _stored_or_404(name_id: uuid.UUID) -> NameEntry:
    entry = read_names([str(name_id)]).get(str(name_id))
    if entry is None:
        raise NotFound(_("Model name not found"))
    return entry


def _validated(request: Request, before: NameEntry | None = None) -> Any:
    """Return the validated document. Fields that were not sent are those of the stored name. Raises ValidationError."""
    sent = request.data
    if before is not None and isinstance(sent, dict):
        sent = {**ModelNameSerializer(before).data, **sent}
    serializer = ModelNameSerializer(data=sent)
    if not serializer.is_valid():
        raise ValidationError(texts_by_place(serializer.errors))
    return serializer.validated_data


def _store(request: Request, entry: NameEntry) -> None:
    try:
        with transaction.atomic():
            storing.lock()
            storing.store(request, entry)
    except storing.Invalid as error:
        fields: dict[str, list[str]] = {}
        for problem in error.problems:
            fields.setdefault(problem.place, []).append(problem.text)
        raise ValidationError(fields) from None
    except IntegrityError:
        raise ErrorResponse(409, _("Another model name was saved at the same time.")) from None


def _refuse_outdated(stored: NameEntry, if_match: str) -> None:
    if not edit_versions.matches(if_match, storing.version(stored)):
        raise ErrorResponse(412, _("The model name has been changed since it was read; read it again."))


def _searched(entry: NameEntry) -> str:
    targets = (target.model for step in entry.steps for target in step.targets)
    return "\n".join((entry.name, entry.note, *targets)).casefold()


URLS: list[tuple[str, Any, str]] = [
    ("api/model-names", ModelNameList, "api-model-names"),
    ("api/model-names/<uuid:name_id>", ModelNameDetail, "api-model-name"),
]
