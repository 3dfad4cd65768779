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
from metrics.queries.requests.conversations import ConversationDetailPayload
from metrics.queries.requests.filters import BadCursor, RequestFilter
from metrics.queries.requests.lookups import (
    ConversationPagePayload,
    conversation,
    conversation_page,
    conversation_page_payload,
)
from metrics.queries.stored import flushed


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


class Conversations(APIView):
    @extend_schema(parameters=[ConversationPageQuerySerializer], responses=ConversationPagePayload)
    def get(self, request: Request) -> Response:
        """List conversations, the one with the latest request first. At most 10,000 requests are scanned per page: such
        a page may have few conversations or none, and still a `next`.
        """
        query = checked(ConversationPageQuerySerializer, request)
        values = query.validated_data
        flushed()
        try:
            page = conversation_page(query.request_filter, values.get("cursor"), values["limit"])
        except BadCursor:
            raise BadRequest(
                "cursor: this is not a value of `next`; leave it out to begin with the latest conversation"
            ) from None
        return Response(conversation_page_payload(page))


class ConversationDetail(APIView):
    @extend_schema(operation_id="conversation_retrieve", responses=ConversationDetailPayload)
    def get(self, request: Request, key: str) -> Response:
        """Return one conversation with its latest requests."""
        flushed()
        stored_conversation = conversation(key)
        if stored_conversation is None:
            raise NotFound(NO_CONVERSATION)
        payload: ConversationDetailPayload = {**stored_conversation.payload, "requests": stored_conversation.turns}
        return Response(payload)


URLS: list[tuple[str, Any, str]] = [
    ("api/conversations", Conversations, "api-conversations"),
    ("api/conversations/<str:key>", ConversationDetail, "api-conversation"),
]
