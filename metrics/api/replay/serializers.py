"""Schemas of replays."""

from datetime import timedelta
from typing import Any

from django.utils import timezone
from rest_framework import serializers

from gateway.base.config import ADAPTIVE
from metrics.queries.stored import flushed
from metrics.replay.ask import ReplayQuestion
from metrics.replay.backtest import REFUSALS
from metrics.replay.headroom import FIRST_TOKEN_SECONDS, LIMITS
from metrics.replay.history import MOST_REQUESTS
from metrics.replay.jobs import REPLAY_STATES, Replay, replays
from metrics.replay.prediction import Question
from metrics.replay.run import POLICIES

DAY_HOURS = 24
MOST_HOURS = 24 * 366
MOST_CHANGES = 10


class SlowerSerializer(serializers.Serializer[Any]):
    endpoint_name = serializers.CharField(max_length=200)
    factor = serializers.FloatField(min_value=0.01, max_value=100, help_text="On all its times; below 1 is faster.")


def _names(help_text: str) -> Any:
    return serializers.ListField(
        child=serializers.CharField(max_length=200), max_length=MOST_CHANGES, default=list, help_text=help_text
    )


class ReplayQuestionSerializer(serializers.Serializer[Any]):
    """A change, and the recorded time that it is tried on."""

    policy = serializers.ChoiceField(POLICIES, default=ADAPTIVE, help_text="The balancer to try.")
    since = serializers.DateTimeField(
        required=False, help_text=f"Requests that ended from this moment on; {DAY_HOURS} hours ago by default."
    )
    until = serializers.DateTimeField(required=False, help_text="And before this one; now by default.")
    removed = _names("Names of endpoints that the fleet would not have.")
    added = _names("Names of endpoints of which it would have one more each.")
    slower: Any = SlowerSerializer(many=True, default=list)
    first_token_ms = serializers.FloatField(
        default=1000 * FIRST_TOKEN_SECONDS,
        min_value=1,
        max_value=3_600_000,
        help_text="95th percentile of the time to first token that must hold with more users.",
    )

    def validate(self, attrs: Any) -> Any:
        now = timezone.now()
        attrs["until"] = attrs.get("until", now)
        attrs["since"] = attrs.get("since", attrs["until"] - timedelta(hours=DAY_HOURS))
        if not timedelta() < attrs["until"] - attrs["since"] <= timedelta(hours=MOST_HOURS):
            raise serializers.ValidationError({"since": ["This must be before `until`, by at most a year."]})
        return attrs

    def start(self) -> Replay:
        """Start the replay. Raises TooManyReplays and OSError."""
        values = self.validated_data
        slower = tuple((it["endpoint_name"], it["factor"]) for it in values["slower"])
        change = Question(values["policy"], tuple(values["removed"]), tuple(values["added"]), slower)
        flushed()
        return replays.start(ReplayQuestion(change, values["first_token_ms"] / 1000), values["since"], values["until"])


class QuantilesSerializer(serializers.Serializer[Any]):
    p50_ms = serializers.FloatField()
    p95_ms = serializers.FloatField()
    p99_ms = serializers.FloatField()


class KeyTimesSerializer(serializers.Serializer[Any]):
    api_key_id = serializers.CharField(allow_null=True)
    per_token = QuantilesSerializer()


class ShareSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.CharField(help_text="With `+1` and so on for one that was added.")
    endpoint_name = serializers.CharField()
    share = serializers.FloatField(help_text="Of the requests.")


class ReplayRunSerializer(serializers.Serializer[Any]):
    requests = serializers.IntegerField()
    per_token = QuantilesSerializer(allow_null=True, help_text="Time of a request per output token.")
    first_token = QuantilesSerializer(allow_null=True, help_text="Time to first token, of streams.")
    queue = QuantilesSerializer(help_text="Wait in the queue.")
    keys: Any = KeyTimesSerializer(many=True)
    endpoints: Any = ShareSerializer(many=True)


class GainSerializer(serializers.Serializer[Any]):
    """How many times shorter the 95th percentile would be: the interval, and its middle. Below 1 it would be longer."""

    low = serializers.FloatField()
    middle = serializers.FloatField()
    high = serializers.FloatField()


class HeadroomSerializer(serializers.Serializer[Any]):
    """How many times the users of today the changed fleet would carry."""

    low = serializers.FloatField()
    high = serializers.FloatField()
    first_token_ms = serializers.FloatField(help_text="95th percentile of the time to first token that must hold.")
    limit = serializers.ChoiceField(
        LIMITS, allow_null=True, help_text="What fails first; null if even 16 times the users fit."
    )
    endpoint_id = serializers.CharField(allow_null=True, help_text="Where most requests wait then.")
    endpoint_name = serializers.CharField(allow_null=True)


class ReplayRefusalSerializer(serializers.Serializer[Any]):
    code = serializers.ChoiceField(REFUSALS)
    values = serializers.DictField(help_text="Numbers and names of the sentence.")


class ReplayAnswerSerializer(serializers.Serializer[Any]):
    """What a change would do. Without a prediction there is a `refusal`."""

    sentences = serializers.ListField(child=serializers.CharField(), help_text="The result in English.")
    recorded_policy = serializers.ChoiceField(POLICIES)
    requests = serializers.IntegerField(help_text=f"That were replayed: at most the latest {MOST_REQUESTS:,}.")
    sessions = serializers.IntegerField()
    is_cut = serializers.BooleanField(help_text="There were more requests.")
    conversations_guessed = serializers.BooleanField(
        help_text="No conversation is recorded in this time, so they were guessed by key and length of the prompt."
    )
    failed_requests = serializers.IntegerField(help_text="These are left out.")
    refusal = ReplayRefusalSerializer(allow_null=True)
    error = serializers.FloatField(
        allow_null=True, help_text="Of the replayed 95th percentile per token: 0.1 is 10 % more than what happened."
    )
    speed_factor = serializers.FloatField(
        allow_null=True, help_text="On all times, so that the replay agrees in the middle with what happened."
    )
    happened = ReplayRunSerializer(allow_null=True)
    replayed = ReplayRunSerializer(allow_null=True, help_text="The recorded balancer and fleet.")
    predicted = ReplayRunSerializer(allow_null=True, help_text="The change.")
    per_token_gain = GainSerializer(allow_null=True)
    first_token_gain = GainSerializer(allow_null=True)
    headroom = HeadroomSerializer(allow_null=True)


class ReplaySerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    state = serializers.ChoiceField(REPLAY_STATES)
    progress = serializers.FloatField(help_text="Share of the work that is done.")
    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    unknown_endpoint = serializers.CharField(
        allow_null=True, help_text="A name in the question that no endpoint with requests in this time has."
    )
    answer = ReplayAnswerSerializer(allow_null=True)
