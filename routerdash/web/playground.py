"""The playground: chats from a page of the dashboard, by the session alone.

A chat is sent to POST /api/playground/chat. The gateway sends the header block to control, which checks the session;
gateway.inference.playground relays the chat itself, so that no chat passes through this process and no key through a
browser. Each user has a row in api_keys under which these requests count. The key of its hash is discarded when the
row is created.
"""

import uuid
from heapq import nsmallest
from typing import Any, TypedDict

from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.cache import never_cache
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from access.api import LOGIN
from access.authentication import SessionAuthentication
from access.directory import access
from access.models import INFERENCE, ApiKey, User, hash_key, new_key
from access.permissions import SESSION
from endpoints.openapi.descriptions import extend_schema
from endpoints.registry import registry
from gateway.base.request_kinds import CAN_CHAT
from gateway.http.control_proxy import MAX_FORWARDED_BODY
from metrics.memory import last_hour
from metrics.memory.runtime import runtime
from metrics.queries.model_catalogue import Catalogue, CatalogueModel

ENDPOINT = "X-RouterDash-Endpoint"
MAX_MODELS = 500  # in the list of models; the page of any other one leads to its playground
MAX_IMAGE_BYTES = MAX_FORWARDED_BODY // 2  # of all pictures of a conversation; Base64 adds a third


_hashes: dict[str, str] = {}  # of playground keys, by id: while the database is away, they are still found


def key_of(user: User) -> tuple[str, str]:
    """Return id and hash of the API key under which this user's chats are counted. The first chat creates the key."""
    key_id = str(uuid.uuid5(user.pk, "playground"))
    hashed = _hashes.get(key_id)
    if hashed is None or access.key(hashed) is None:
        hashed = _hashes[key_id] = _stored_hash(user, key_id)
    return key_id, hashed


def _stored_hash(user: User, key_id: str) -> str:
    name = f"playground ({user.username})"
    taken = ApiKey.objects.filter(created_by=user.pk, name=name).exclude(pk=key_id).exists()
    with transaction.atomic():
        key, _created = ApiKey.objects.get_or_create(
            pk=key_id,
            defaults={
                "name": f"{name} {key_id}" if taken else name,
                "key_hash": hash_key(new_key()),
                "created_by_id": user.pk,
                "permissions": [INFERENCE],
            },
        )
    return str(key.key_hash)


class TargetSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField(required=False, error_messages={"invalid": f"{ENDPOINT} must be an id."})

    def validate_endpoint_id(self, value: uuid.UUID) -> str:
        if registry.get(str(value)) is None:
            raise serializers.ValidationError(f"{ENDPOINT}: there is no such endpoint.")
        return str(value)


class Chat(APIView):
    permission_needed = SESSION
    authentication_classes = (SessionAuthentication,)  # clients with an API key use /v1

    @extend_schema(
        auth=LOGIN,
        request=OpenApiTypes.OBJECT,
        parameters=[
            OpenApiParameter(
                ENDPOINT, OpenApiTypes.UUID, OpenApiParameter.HEADER, description="Endpoint that gets the request."
            )
        ],
        responses={200: OpenApiTypes.OBJECT},
    )
    def post(self, request: Request) -> Response:
        """Create a chat completion for a page of the dashboard. Body and response are those of POST
        /v1/chat/completions. The request is counted under the user's playground key.
        """
        endpoint_id = request.headers.get(ENDPOINT)
        target = TargetSerializer(data={} if endpoint_id is None else {"endpoint_id": endpoint_id})
        target.is_valid(raise_exception=True)
        user = request.user
        assert isinstance(user, User)  # the permission guarantees it
        key_id, hashed = key_of(user)
        return Response(
            {
                "api_key_id": key_id,
                "api_key_hash": hashed,
                "endpoint_id": target.validated_data.get("endpoint_id"),
                "external": user.is_admin,  # viewers send nothing out of the house
                "owner_id": str(user.pk),
            }
        )


@never_cache
@login_required
def playground(request: HttpRequest) -> HttpResponse:
    catalogue = Catalogue(registry.all())
    able = [one for one in catalogue.all.values() if not one.all_capabilities_known or CAN_CHAT in one.capabilities]
    offered = _offered(able, catalogue.find(request.GET.get("model", "")))
    by_id = {entry.id: entry for one in offered for entry, _ in catalogue.offers(one)}
    entries = sorted(by_id.values(), key=lambda entry: (entry.shown_status != "online", entry.name))
    places = {entry.id: place for place, entry in enumerate(entries)}
    context = {
        "endpoints": [{"id": one.id, "name": one.name, "online": one.shown_status == "online"} for one in entries],
        "models": [_model(one, places) for one in offered],
        "models_known": len(able),
        "max_image_bytes": MAX_IMAGE_BYTES,
    }
    return render(request, "playground.html", context)


def _offered(able: list[CatalogueModel], chosen: str | None) -> list[CatalogueModel]:
    """Return the models to choose from, by name: the chosen one, and of very many the busiest of the last hour."""
    if len(able) > MAX_MODELS:
        busy = dict(last_hour.ranked(runtime.follower.figures().hour, last_hour.MODEL, MAX_MODELS))
        able = nsmallest(MAX_MODELS, able, key=lambda one: (one.name != chosen, -busy.get(one.name, 0), one.name))
    return sorted(able, key=lambda one: one.name.casefold())


class PlaygroundModel(TypedDict):
    """A model of the page; endpoints are positions in the list of all endpoints."""

    name: str
    aliases: list[str]
    endpoints: list[int]


def _model(offered: CatalogueModel, places: dict[str, int]) -> PlaygroundModel:
    """Return the model for the page; endpoints are given by their positions in the list of all endpoints."""
    return {
        "name": offered.name,
        "aliases": sorted(offered.aliases - {offered.name}),
        "endpoints": sorted({places[endpoint_id] for endpoint_id, _ in offered.offers}),
    }


PAGES = [path("playground", playground, name="playground")]
URLS: list[tuple[str, Any, str]] = [("api/playground/chat", Chat, "api-playground-chat")]
