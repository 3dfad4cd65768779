"""Schemas of the routing preview and of running requests."""

from typing import Any

from rest_framework import serializers

from endpoints.models import OperatorState, Status
from gateway.base.queue_class import CLASSES
from gateway.base.request_kinds import CHAT, KINDS, OLLAMA_KINDS
from gateway.base.step_reasons import SKIPPED
from gateway.prices.amounts import text_of
from gateway.prices.counts import MAX_TOKENS
from gateway.registry.limits import LEVELS, MONEY, PERIODS
from metrics.api.common import QuerySerializer
from metrics.queries.breakers import STATES
from metrics.queries.requests.conversations import KEY_PATTERN
from metrics.queries.routing.adaptive_preview import ASSUMED_PROMPT
from metrics.queries.routing.routing_preview import EXCLUDED, REASONS
from metrics.queries.running_requests import PHASES
from metrics.spending.admission import DECISIONS, EXCEEDED, AdmissionPayload

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


class RouteDecisionSerializer(serializers.Serializer[Any]):
    endpoint_ids = serializers.ListField(
        child=serializers.UUIDField(), help_text="Endpoints that may get the request, each with the same probability."
    )
    reason = serializers.ChoiceField(REASONS, help_text="Reason for the choice; `wait` if every endpoint is full.")


class RouteDemandSerializer(serializers.Serializer[Any]):
    """What the request is expected to need."""

    prompt_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()


class CostPartsSerializer(serializers.Serializer[Any]):
    """Parts of a cost: their sum times `factor` and `weight` is the cost."""

    own_ms = serializers.FloatField(help_text="Expected duration of the request.")
    harm_ms = serializers.FloatField(help_text="Time by which it would delay the requests that run there.")
    cold_ms = serializers.FloatField(help_text="Time for loading the model; 0 if it is loaded.")
    wait_ms = serializers.FloatField(help_text="Wait for a slot, if all are taken.")
    factor = serializers.FloatField(help_text="More than 1 if it has few responses yet and requests already.")
    weight = serializers.FloatField(help_text="The cost weight that staff has set for the endpoint.")


class RouteEndpointSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField()
    name = serializers.CharField()
    model = serializers.CharField(help_text="The name of the model at the endpoint.")
    status = serializers.ChoiceField(choices=Status.choices)
    operator_state = serializers.ChoiceField(choices=OperatorState.choices)
    breaker = serializers.ChoiceField(STATES)
    trial_due = serializers.DateTimeField(allow_null=True)
    in_flight = serializers.IntegerField()
    max_concurrency = serializers.IntegerField(allow_null=True, help_text="Requests at a time; null means no limit.")
    tier = serializers.IntegerField(help_text="The tier that staff has set; 1 is the first.")
    capable = serializers.BooleanField(
        help_text="Whether the model supports this kind of request; true if its capabilities are unknown."
    )
    excluded = serializers.ChoiceField(
        EXCLUDED, allow_null=True, help_text="Reason why the endpoint is not a candidate now."
    )
    cost_ms = serializers.FloatField(
        required=False, help_text="Cost of the request there. Only with adaptive routing, if it can be computed."
    )
    cost_parts = CostPartsSerializer(required=False, help_text="As `cost_ms`.")
    kept_tokens = serializers.IntegerField(
        required=False, help_text="As `cost_ms`: prompt tokens that are expected in its prefix cache."
    )
    is_measured = serializers.BooleanField(
        required=False, help_text="Whether the cost is computed from its own responses; else it is assumed."
    )


class RouteTargetSerializer(serializers.Serializer[Any]):
    """A target of a step."""

    model = serializers.CharField()
    endpoint_id = serializers.CharField(allow_null=True, help_text="The only endpoint that may serve it.")
    tag = serializers.CharField(allow_null=True, help_text="Tag of the endpoints that may serve it.")
    skipped = serializers.ChoiceField(SKIPPED, allow_null=True, help_text="Why it cannot get this request.")
    share = serializers.FloatField(help_text="Share of the requests that would go to it now, by the weights: 0 to 1.")
    endpoint_ids = serializers.ListField(
        child=serializers.UUIDField(), help_text="Endpoints that would get the request; none if all are full."
    )


class RouteStepSerializer(serializers.Serializer[Any]):
    """A step of a model name; several with one number if a target is a name with several steps."""

    step = serializers.IntegerField(help_text="From 1.")
    serves = serializers.BooleanField(help_text="Whether requests would go there.")
    left = serializers.ChoiceField(SKIPPED, allow_null=True, help_text="Why the request would not stay there.")
    targets = RouteTargetSerializer(many=True, help_text="In their order; requests draw one by weight.")


class ExceededSerializer(serializers.Serializer[Any]):
    """A limit or budget that the request would exceed."""

    level = serializers.ChoiceField(LEVELS)
    limit = serializers.ChoiceField(EXCEEDED, help_text="With a `period`, it is a budget.")
    period = serializers.ChoiceField(PERIODS, allow_null=True, help_text="Period of the budget.")
    amount = serializers.CharField(help_text="The most that is allowed; money in the currency of ROUTERDASH_CURRENCY.")
    used = serializers.CharField(help_text="The present use, with reservations.")
    requested = serializers.CharField(
        help_text="The part that the request would take; of money, 0: its cost is not computed."
    )
    waits = serializers.BooleanField(help_text="Whether the request would wait for it; otherwise it is refused.")


class AdmissionSerializer(serializers.Serializer[Any]):
    """Whether the limits of the API key, its user and everyone would admit the request."""

    decision = serializers.ChoiceField(DECISIONS, help_text="By the first limit that is exceeded.")
    exceeded = ExceededSerializer(many=True)
    instead = serializers.CharField(
        allow_null=True, help_text="Model that the request would use instead, because a budget is spent."
    )


def admission_document(admission: AdmissionPayload) -> dict[str, object]:
    """Return the document of AdmissionSerializer."""
    exceeded = []
    for row in admission["exceeded"]:
        amounts = {name: row[name] for name in ("amount", "used", "requested")}
        texts = {name: text_of(it) if row["limit"] == MONEY else str(it) for name, it in amounts.items()}
        exceeded.append({**row, **texts})
    return {**admission, "exceeded": exceeded}


class RouteSerializer(serializers.Serializer[Any]):
    model = serializers.CharField()
    kind = serializers.CharField()
    decision = RouteDecisionSerializer(allow_null=True, help_text="Null if no endpoint is available.")
    demand = RouteDemandSerializer(required=False, help_text="Only with adaptive routing.")
    endpoints = RouteEndpointSerializer(many=True, help_text="Those of the target with the largest share.")
    steps = RouteStepSerializer(many=True, required=False, help_text="Of a model name, or of several models.")


class RouteAndLimitsSerializer(RouteSerializer):
    limits = AdmissionSerializer(allow_null=True, help_text="Null while the database cannot be read.")


class RequestNowSerializer(serializers.Serializer[Any]):
    """A queued or running request."""

    id = serializers.CharField()
    worker = serializers.IntegerField()
    model = serializers.CharField()
    kind = serializers.CharField()
    api_key_id = serializers.UUIDField(allow_null=True)
    api_key_name = serializers.CharField(allow_null=True)
    client_ip = serializers.CharField(allow_null=True)
    since = serializers.DateTimeField(help_text="Time of the request's arrival.")
    age_ms = serializers.FloatField()
    phase = serializers.ChoiceField(
        PHASES,
        help_text="`queue`: waits for a slot; `first_token`: a stream before its first token; `stream`: after it; "
        "`answer`: a response that is not streamed.",
    )
    queue_class = serializers.ChoiceField(CLASSES, help_text="`bulk`: it gives way to interactive requests.")


class WaitingSerializer(RequestNowSerializer):
    position = serializers.IntegerField(help_text="Position in the queue of the worker; 1 is the next.")


class RunningSerializer(RequestNowSerializer):
    endpoint_id = serializers.UUIDField(allow_null=True)
    endpoint_name = serializers.CharField(allow_null=True)
    streamed = serializers.BooleanField()
    deltas = serializers.IntegerField(help_text="Stream events that were sent to the client.")
    first_token_ms = serializers.FloatField(
        allow_null=True, help_text="Time to first token; null if no token has arrived yet."
    )


class CancelledSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    cancelled = serializers.BooleanField(
        help_text="True if the cancel was sent to the workers. The worker with the request ends it in a moment. While "
        "a list of requests is cut, the request may not exist."
    )


class LiveSerializer(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    workers = serializers.IntegerField()
    workers_told = serializers.IntegerField(help_text="Workers that reported their requests within three seconds.")
    waiting_total = serializers.IntegerField()
    running_total = serializers.IntegerField()
    waiting_is_cut = serializers.BooleanField(help_text="True if `waiting` is incomplete; `waiting_total` counts all.")
    running_is_cut = serializers.BooleanField(help_text="True if `running` is incomplete; `running_total` counts all.")
    waiting = WaitingSerializer(many=True)
    running = RunningSerializer(many=True)
