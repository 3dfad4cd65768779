"""Model names that need attention: targets that nothing serves, and first steps that requests no longer use."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from endpoints.model_names.name_cache import model_names
from endpoints.registry import Entry
from metrics.model_names.states import NO_ENDPOINT, NOT_OFFERED, NameView
from metrics.model_names.used_steps import name_steps

NAME_STEP, NAME_TARGET, NAME_ENDPOINT = "name_step", "name_target", "name_endpoint"


class NameFault(NamedTuple):
    """Fault of one name. `cause` is the model of a target, or the number of the step that serves instead."""

    kind: str
    name: str  # of a NAME_STEP: the requested one
    cause: str
    targets: int | None = None  # with this fault
    since: datetime | None = None


def name_faults(entries: tuple[Entry, ...], now: float) -> Iterator[NameFault]:
    """Yield at most one fault of each kind per enabled name. `now` is in seconds since 1970."""
    names = [name for name in model_names.all() if name.enabled]
    if not names:
        return
    view = NameView.of_entries(entries, ())
    for name in names:
        targets = [target for step in view.state(name)["steps"] for target in step["targets"]]
        for kind, state in ((NAME_ENDPOINT, NO_ENDPOINT), (NAME_TARGET, NOT_OFFERED)):
            if models := [target["model"] for target in targets if target["state"] == state]:
                yield NameFault(kind, name.name, models[0], targets=len(models))
    for requested, use in name_steps.left(now).items():
        since = datetime.fromtimestamp(round(use.later_since), UTC)
        yield NameFault(NAME_STEP, requested, str(use.step), since=since)
