"""JSON API of a user's own API keys (/api/me/api-keys). It requires a session."""

import uuid
from datetime import timedelta
from typing import Any, cast

from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from rest_framework import status
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from access.bootstrap import BOOTSTRAP_ID
from access.keys.bound import check_key_bound
from access.keys.use import uses_of
from access.models import ApiKey, User
from access.permissions import SESSION
from access.serializers import (
    ApiKeyChangeSerializer,
    ApiKeyCreateSerializer,
    ApiKeyListSerializer,
    ApiKeySerializer,
    NewApiKeySerializer,
    RotationSerializer,
)
from endpoints.lists import offset_pages
from endpoints.openapi.descriptions import extend_schema

LOGIN: Any = [{"session": []}]  # security requirement in the schema: an API key is not accepted


class OwnKeys(APIView):
    permission_needed = SESSION

    @extend_schema(auth=LOGIN, parameters=offset_pages.PARAMETERS, responses=ApiKeyListSerializer)
    def get(self, request: Request) -> Response:
        keys, headers = offset_pages.part_of(request, own_keys(_user(request)))
        context = {"uses": uses_of([row.pk for row in keys])}
        serializer = ApiKeySerializer(cast(Any, keys), many=True, context=context)
        return Response({"api_keys": serializer.data}, headers=headers)

    @extend_schema(auth=LOGIN, request=ApiKeyCreateSerializer, responses={201: NewApiKeySerializer})
    def post(self, request: Request) -> Response:
        row, key = make(_user(request), request.data)
        return Response({**ApiKeySerializer(row).data, "key": key}, status=status.HTTP_201_CREATED)


class OwnKey(APIView):
    permission_needed = SESSION

    @extend_schema(auth=LOGIN, request=ApiKeyChangeSerializer, responses=ApiKeySerializer)
    def put(self, request: Request, key_id: uuid.UUID) -> Response:
        row = self._own(request, key_id)
        serializer = ApiKeyChangeSerializer(row, data=request.data, context={"owner": request.user})
        serializer.is_valid(raise_exception=True)
        columns = dict(serializer.columns())
        changed = set(columns)
        if (enabled := columns.pop("enabled", None)) is not None:
            changed.update(row.set_enabled(_user(request), enabled=enabled))
        for name, value in columns.items():
            setattr(row, name, value)
        try:
            with transaction.atomic():
                row.save(update_fields=changed)
        except IntegrityError:
            raise _duplicate(row.name) from None
        return Response(ApiKeySerializer(row).data)

    @extend_schema(auth=LOGIN, responses={204: None})
    def delete(self, request: Request, key_id: uuid.UUID) -> Response:
        self._own(request, key_id).delete()
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _own(self, request: Request, key_id: uuid.UUID) -> ApiKey:
        return own_key(_user(request), key_id)


class OwnKeyRotation(APIView):
    permission_needed = SESSION

    @extend_schema(auth=LOGIN, request=RotationSerializer, responses=NewApiKeySerializer)
    def post(self, request: Request, key_id: uuid.UUID) -> Response:
        """Replace the key by a new one, which is shown in this response only. The old one expires after the overlap."""
        row = own_key(_user(request), key_id)
        serializer = RotationSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        key = rotate(row, timedelta(seconds=serializer.validated_data["overlap_secs"]))
        return Response({**ApiKeySerializer(row).data, "key": key})


def rotate(row: ApiKey, overlap: timedelta) -> str:
    """Rotate a key; return the new one. Raises ValidationError for the key of the settings."""
    if row.pk == BOOTSTRAP_ID:
        text = _("This key is that of ROUTERDASH_BOOTSTRAP_API_KEY: change the setting.")
        raise ValidationError({"non_field_errors": [text]})
    with transaction.atomic():
        return row.rotate(overlap)


def own_key(owner: User, key_id: uuid.UUID) -> ApiKey:
    """Return an API key of the user. Raises NotFound."""
    row = own_keys(owner).filter(pk=key_id).first()
    if row is None:
        raise NotFound("API key not found")
    return row


def own_keys(owner: User) -> QuerySet[ApiKey]:
    """Return the API keys of the user, the newest first."""
    return ApiKey.objects.filter(created_by=owner.pk).order_by("-created_at", "pk")


def make(owner: User, data: Any) -> tuple[ApiKey, str]:
    """Create an API key for the user; return its row and the key itself. Raises ValidationError."""
    serializer = ApiKeyCreateSerializer(data=data, context={"owner": owner})
    serializer.is_valid(raise_exception=True)
    values = {"external": False, **serializer.columns()}
    try:
        with transaction.atomic():
            check_key_bound(owner)
            return ApiKey.issue(owner, **values)
    except IntegrityError:
        raise _duplicate(values["name"]) from None
    except DjangoValidationError as error:
        raise ValidationError({"non_field_errors": error.messages}) from None


def _user(request: Request) -> User:
    assert isinstance(request.user, User)  # the permission check guarantees it
    return request.user


def _duplicate(name: str) -> ValidationError:
    return ValidationError({"name": _("An API key with this name already exists: '%(name)s'") % {"name": name}})


URLS: list[tuple[str, Any, str]] = [
    ("api/me/api-keys", OwnKeys, "api-own-keys"),
    ("api/me/api-keys/<uuid:key_id>", OwnKey, "api-own-key"),
    ("api/me/api-keys/<uuid:key_id>/rotate", OwnKeyRotation, "api-own-key-rotation"),
]
