"""What a replay needs to know of this installation: its endpoints and what its history has."""

from datetime import datetime

from django.conf import settings

from endpoints import model_aliases
from endpoints.models import OperatorState
from endpoints.registry import Entry, registry
from metrics.learning.fleet import group_of
from metrics.replay.ask import OfferedEndpoint, ReplayScope


def offered_endpoints() -> list[OfferedEndpoint]:
    """Return all endpoints of the registry."""
    return [
        OfferedEndpoint(
            entry.id,
            entry.name,
            entry.kind,
            entry.slots,
            entry.operator_state == OperatorState.ENABLED,
            _models(entry),
            entry.tier or 1,
            1.0 if entry.cost_weight is None else entry.cost_weight,
        )
        for entry in registry.all()
    ]


def _models(entry: Entry) -> dict[str, str]:
    exact, folded = model_aliases.by_name(entry.models)
    by_name = {name.casefold(): model for name, model in exact.items()} | folded
    return {name: group_of(model, "")[0] for name, model in by_name.items()}


def replay_scope(since: datetime, until: datetime) -> ReplayScope:
    config = settings.ROUTERDASH
    return ReplayScope(since, until, config.history == "all", config.queue_max, config.spill_after_secs)
