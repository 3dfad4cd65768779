"""Parameters of replays."""

from datetime import timedelta
from typing import Any

from django.utils import timezone
from rest_framework import serializers

from gateway.base.config import ADAPTIVE
from metrics.queries.stored import flushed
from metrics.replay.ask import ReplayQuestion
from metrics.replay.headroom import FIRST_TOKEN_SECONDS
from metrics.replay.jobs import Replay, replays
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
        slower = tuple((endpoint["endpoint_name"], endpoint["factor"]) for endpoint in values["slower"])
        change = Question(values["policy"], tuple(values["removed"]), tuple(values["added"]), slower)
        flushed()
        return replays.start(ReplayQuestion(change, values["first_token_ms"] / 1000), values["since"], values["until"])
