"""The playground: chats from a page of the dashboard, by the session alone.

A chat goes to POST /api/playground/chat. The gateway asks control by the request's head whether the session may, and
takes it from there (gateway.playground): no chat goes through this process, and no key through a browser. Each user
has a row in api_keys under which these requests count; the key that its hash belongs to was thrown away when it was
made, so nobody can send it.
"""

import uuid
from typing import Any

from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.cache import never_cache
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from access.api import LOGIN
from access.authentication import SessionAuthentication
from access.directory import access
from access.models import INFERENCE, ApiKey, User, hash_key, new_key
from access.permissions import SESSION
from endpoints.registry import registry
from gateway.handler import MAX_FORWARDED_BODY
from gateway.kinds import CAN_CHAT
from metrics.catalogue import Catalogue, Offered

ENDPOINT = "X-RouterDash-Endpoint"
MAX_IMAGE_BYTES = MAX_FORWARDED_BODY // 2  # of all pictures of a conversation, which grow by a third on their way


def key_of(user: User) -> str:
    """The id of the key that this user's chats count under; made at the first."""
    key_id = uuid.uuid5(user.pk, "playground")
    if not any(key.id == str(key_id) for key in access.directory().keys.values()):
        _make_key(user, key_id)
    return str(key_id)


def _make_key(user: User, key_id: uuid.UUID) -> None:
    name = f"playground ({user.username})"
    taken = ApiKey.objects.filter(created_by=user.pk, name=name).exclude(pk=key_id).exists()
    with transaction.atomic():
        ApiKey.objects.get_or_create(
            pk=key_id,
            defaults={
                "name": f"{name} {key_id}" if taken else name,
                "key_hash": hash_key(new_key()),
                "created_by_id": user.pk,
                "permissions": [INFERENCE],
            },
        )


class TargetSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField(required=False, error_messages={"invalid": f"{ENDPOINT} must be an id."})

    def validate_endpoint_id(self, value: uuid.UUID) -> str:
        if registry.get(str(value)) is None:
            raise serializers.ValidationError(f"{ENDPOINT}: there is no such endpoint.")
        return str(value)


class Chat(APIView):
    permission_needed = SESSION
    authentication_classes = (SessionAuthentication,)  # who has a key asks /v1

    @extend_schema(
        auth=LOGIN,
        request=OpenApiTypes.OBJECT,
        parameters=[
            OpenApiParameter(ENDPOINT, OpenApiTypes.UUID, OpenApiParameter.HEADER, description="To this one alone.")
        ],
        responses={200: OpenApiTypes.OBJECT},
    )
    def post(self, request: Request) -> Response:
        """A chat completion for a page of the dashboard: body and answer as those of POST /v1/chat/completions. It
        counts under the user's own playground key.
        """
        asked = request.headers.get(ENDPOINT)
        target = TargetSerializer(data={} if asked is None else {"endpoint_id": asked})
        target.is_valid(raise_exception=True)
        user = request.user
        assert isinstance(user, User)  # the permission has seen to it
        return Response({"api_key_id": key_of(user), "endpoint_id": target.validated_data.get("endpoint_id")})


@never_cache
@login_required
def playground(request: HttpRequest) -> HttpResponse:
    entries = sorted(registry.all(), key=lambda entry: (entry.shown_status != "online", entry.name))
    places = {entry.id: at for at, entry in enumerate(entries)}
    offered = sorted(Catalogue(entries).all.values(), key=lambda it: it.name.casefold())
    context = {
        "endpoints": [{"id": it.id, "name": it.name, "online": it.shown_status == "online"} for it in entries],
        "models": [_model(it, places) for it in offered if not it.known or CAN_CHAT in it.capabilities],
        "max_image_bytes": MAX_IMAGE_BYTES,
    }
    return render(request, "playground.html", context)


def _model(offered: Offered, places: dict[str, int]) -> dict[str, Any]:
    """What a page needs to offer it; endpoints by their places among all."""
    return {
        "name": offered.name,
        "aliases": sorted(offered.aliases - {offered.name}),
        "endpoints": sorted({places[entry.id] for entry, _ in offered.offers}),
    }


PAGES = [path("playground", playground, name="playground")]
URLS: list[tuple[str, Any, str]] = [("api/playground/chat", Chat, "api-playground-chat")]
