"""JSON API of a user's own API keys (/api/me/api-keys). It requires a session."""

import uuid
from typing import Any, cast

from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from access.key_limit import check_key_limit
from access.models import ApiKey, User
from access.permissions import SESSION
from access.serializers import (
    ApiKeyChangeSerializer,
    ApiKeyCreateSerializer,
    ApiKeyListSerializer,
    ApiKeySerializer,
    NewApiKeySerializer,
)
from endpoints.lists import offset_pages

LOGIN: Any = [{"session": []}]  # security requirement in the schema: an API key is not accepted


class OwnKeys(APIView):
    permission_needed = SESSION

    @extend_schema(auth=LOGIN, parameters=offset_pages.PARAMETERS, responses=ApiKeyListSerializer)
    def get(self, request: Request) -> Response:
        keys, headers = offset_pages.part_of(request, own_keys(_user(request)))
        return Response({"api_keys": ApiKeySerializer(cast(Any, keys), many=True).data}, headers=headers)

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
        row.name = serializer.validated_data["name"]
        row.expires_at = serializer.validated_data.get("expires_at", row.expires_at)
        row.external = serializer.validated_data.get("external", row.external)
        try:
            with transaction.atomic():
                row.save(update_fields=["name", "expires_at", "external"])
        except IntegrityError:
            raise _duplicate(row.name) from None
        return Response(ApiKeySerializer(row).data)

    @extend_schema(auth=LOGIN, responses={204: None})
    def delete(self, request: Request, key_id: uuid.UUID) -> Response:
        self._own(request, key_id).delete()
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _own(self, request: Request, key_id: uuid.UUID) -> ApiKey:
        row = own_keys(_user(request)).filter(pk=key_id).first()
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
    values = serializer.validated_data
    try:
        with transaction.atomic():
            check_key_limit(owner)
            return ApiKey.issue(
                owner,
                values["name"],
                values["permissions"],
                values.get("expires_at"),
                external=values.get("external", False),
            )
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
]
