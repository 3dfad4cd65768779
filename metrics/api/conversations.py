"""/api/conversations: conversations of the request history."""

from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.openapi.descriptions import extend_schema
from metrics.api.common import NO_CONVERSATION, BadRequest, QuerySerializer, checked
from metrics.api.request_serializers import MomentField
from metrics.queries.requests.conversations import TURNS
from metrics.queries.requests.filters import BadCursor, RequestFilter
from metrics.queries.requests.lookups import conversation, conversation_page, conversation_page_payload
from metrics.queries.stored import flushed


class ServingEndpointSerializer(serializers.Serializer[Any]):
    """An endpoint that has served requests of the conversation."""

    endpoint_id = serializers.UUIDField()
    endpoint_name = serializers.CharField(allow_null=True)
    turns = serializers.IntegerField(help_text="Requests that it served.")


class ConversationSerializer(serializers.Serializer[Any]):
    """Requests of one API key and model whose prompts begin alike, or that have the same session."""

    conversation = serializers.CharField(help_text="16 hexadecimal digits. They reveal nothing of the content.")
    api_key_id = serializers.UUIDField(allow_null=True)
    api_key_name = serializers.CharField(allow_null=True)
    model = serializers.CharField()
    turns = serializers.IntegerField(help_text=f"Requests, at most {TURNS}: all figures are of the latest ones.")
    is_cut = serializers.BooleanField(help_text=f"Whether there are more than {TURNS} requests.")
    first_at = serializers.DateTimeField(allow_null=True, help_text="Completion of the first of these requests.")
    last_at = serializers.DateTimeField(allow_null=True)
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField(
        allow_null=True, help_text="Input tokens from prefix caches; null if no endpoint reported them."
    )
    cached_share = serializers.FloatField(
        allow_null=True, help_text="Cached tokens ÷ input tokens of the requests whose endpoint reported them."
    )
    endpoints = ServingEndpointSerializer(many=True, help_text="The one with the most requests first.")
    moves = serializers.IntegerField(help_text="How often a request went to another endpoint than the one before.")


class TurnSerializer(serializers.Serializer[Any]):
    """One request of a conversation."""

    id = serializers.UUIDField()
    completed_at = serializers.DateTimeField(allow_null=True)
    endpoint_id = serializers.UUIDField(allow_null=True)
    endpoint_name = serializers.CharField(allow_null=True)
    moved = serializers.BooleanField(help_text="It went to another endpoint than the request before.")
    outcome = serializers.CharField()
    duration_ms = serializers.FloatField(allow_null=True)
    first_token_ms = serializers.FloatField(allow_null=True)
    input_tokens = serializers.IntegerField(allow_null=True)
    output_tokens = serializers.IntegerField(allow_null=True)
    cached_tokens = serializers.IntegerField(allow_null=True)
    reason = serializers.CharField(
        allow_null=True, help_text="Why its endpoint was chosen, as in the attempts of a request."
    )
    failed_over = serializers.BooleanField(help_text="It moved because the endpoint of the request before failed it.")


class ConversationDetailSerializer(ConversationSerializer):
    requests = TurnSerializer(many=True, help_text=f"The latest {TURNS}, the oldest first.")


class ConversationQuerySerializer(QuerySerializer):
    """Conditions on the last request of a conversation."""

    since = MomentField(
        required=False,
        help_text="Last request at this time or later; an age such as `-15m`, `-24h` or `-7d` is allowed.",
    )
    until = MomentField(required=False, help_text="Last request before this time.")
    endpoint_id = serializers.UUIDField(required=False, help_text="Endpoint of the last request.")
    model = serializers.CharField(required=False)
    api_key_id = serializers.UUIDField(required=False)

    @property
    def request_filter(self) -> RequestFilter:
        values = self.validated_data
        endpoint_id, key = values.get("endpoint_id"), values.get("api_key_id")
        return RequestFilter(
            since=values.get("since"),
            until=values.get("until"),
            endpoint_id=endpoint_id and str(endpoint_id),
            model=values.get("model"),
            api_key_id=key and str(key),
        )


class ConversationPageQuerySerializer(ConversationQuerySerializer):
    cursor = serializers.CharField(required=False, help_text="`next` of the previous page.")
    limit = serializers.IntegerField(default=25, min_value=1, max_value=50)


class ConversationPageSerializer(serializers.Serializer[Any]):
    conversations = ConversationSerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="`cursor` of the next page; null if there is none.")
    previous = serializers.CharField(allow_null=True, help_text="`cursor` of the page with later requests.")
    looked_back_to = serializers.DateTimeField(
        allow_null=True, help_text="Requests before this time are not scanned yet; null if all are."
    )


class Conversations(APIView):
    @extend_schema(parameters=[ConversationPageQuerySerializer], responses=ConversationPageSerializer)
    def get(self, request: Request) -> Response:
        """List conversations, the one with the latest request first. At most 10,000 requests are scanned per page: such
        a page may have few conversations or none, and still a `next`.
        """
        query = checked(ConversationPageQuerySerializer, request)
        values = query.validated_data
        flushed()
        try:
            found = conversation_page(query.request_filter, values.get("cursor"), values["limit"])
        except BadCursor:
            raise BadRequest(
                "cursor: this is not a value of `next`; leave it out to begin with the latest conversation"
            ) from None
        return Response(conversation_page_payload(found))


class ConversationDetail(APIView):
    @extend_schema(operation_id="conversation_retrieve", responses=ConversationDetailSerializer)
    def get(self, request: Request, key: str) -> Response:
        """Return one conversation with its latest requests."""
        flushed()
        found = conversation(key)
        if found is None:
            raise NotFound(NO_CONVERSATION)
        return Response({**found.payload, "requests": found.turns})


URLS: list[tuple[str, Any, str]] = [
    ("api/conversations", Conversations, "api-conversations"),
    ("api/conversations/<str:key>", ConversationDetail, "api-conversation"),
]
