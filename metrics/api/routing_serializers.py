"""Parameters of the routing preview."""

from rest_framework import serializers

from gateway.base.request_kinds import CHAT, KINDS, OLLAMA_KINDS
from gateway.prices.counts import MAX_TOKENS
from metrics.api.common import QuerySerializer
from metrics.queries.requests.conversations import KEY_PATTERN
from metrics.queries.routing.adaptive_preview import ASSUMED_PROMPT

ROUTED = tuple(dict.fromkeys(kind.name for kind in (*KINDS, *OLLAMA_KINDS)))  # kinds of requests that name a model


class RouteQuerySerializer(QuerySerializer):
    model = serializers.CharField(trim_whitespace=False, help_text="Name, canonical name or alias of the model.")
    kind = serializers.ChoiceField(
        ROUTED,
        default=CHAT,
        error_messages={"invalid_choice": f'There is no kind "{{input}}"; choose one of {", ".join(ROUTED)}.'},
    )
    prompt_tokens = serializers.IntegerField(
        required=False,
        min_value=1,
        max_value=MAX_TOKENS,
        help_text=f"Adaptive routing: expected tokens of the prompt, {ASSUMED_PROMPT} by default.",
    )
    output_tokens = serializers.IntegerField(
        required=False,
        min_value=0,
        max_value=MAX_TOKENS,
        help_text="Adaptive routing: expected output tokens; by default the mean of the model's requests.",
    )


class RouteGetSerializer(RouteQuerySerializer):
    conversation = serializers.RegexField(
        KEY_PATTERN,
        required=False,
        help_text="Adaptive routing: the request is the next one of this conversation, see `/api/conversations`.",
    )


class RouteBodySerializer(QuerySerializer):
    """Parameters beside a body."""

    kind = RouteQuerySerializer().fields["kind"]
    api_key_id = serializers.UUIDField(
        required=False, help_text="API key that would send the request; with an API key, it is this one."
    )
