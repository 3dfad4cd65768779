"""What model names lead to now: their steps and targets, and which of these an endpoint offers and can serve."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from endpoints import model_aliases
from endpoints.model_names.registry import NameEntry, model_names
from endpoints.model_names.rules import MAX_DEPTH, next_name
from endpoints.models import OperatorState, Status
from endpoints.registry import Entry, ModelEntry, registry
from gateway.registry.schema import Step, Target
from metrics.queries import breakers
from metrics.queries.figures import Moment
from metrics.queries.model_catalogue import Catalogue

AVAILABLE, UNAVAILABLE, NOT_OFFERED, NO_ENDPOINT, EXTERNAL = (
    "available", "unavailable", "not_offered", "endpoint_deleted", "external",
)  # fmt: skip
TARGET_STATES = (AVAILABLE, UNAVAILABLE, NOT_OFFERED, NO_ENDPOINT, EXTERNAL)


class NameTargetPayload(TypedDict):
    """A target, and what serves it now."""

    model: str
    leads_to: str | None  # id of another model name
    endpoint_id: str | None
    endpoint_name: str | None
    tag: str | None
    weight: int
    share: float  # of the requests of the step
    state: str  # one of TARGET_STATES
    endpoints: int  # that offer it
    endpoints_available: int  # without external ones, if the names on the way to it do not allow them


class NameStepPayload(TypedDict):
    """A step. `serves`: it is the first one with a target that is available."""

    number: int
    if_unavailable: bool
    if_full_secs: float | None
    if_failed: bool
    if_too_long: bool
    serves: bool
    targets: list[NameTargetPayload]


class NameStatePayload(TypedDict):
    """A model name with the state of its steps."""

    id: str
    name: str
    enabled: bool
    external: bool
    serving_step: int | None
    hidden_model: str | None  # a model of this id, which only the steps of the name can lead to
    steps: list[NameStepPayload]


@dataclass(frozen=True, slots=True)
class NameLeaf:
    """A target that leads to a model."""

    target: Target
    external: bool  # all names on the way to it allow external endpoints


@dataclass(frozen=True, slots=True)
class NameView:
    """Endpoints and model names at one moment."""

    catalogue: Catalogue
    names: Mapping[str, NameEntry]  # enabled ones without `*`, by name
    closed: frozenset[str]  # endpoints that are not paused, and whose circuit breaker is not open

    @classmethod
    def of(cls, moment: Moment) -> "NameView":
        at = moment.figures.at
        is_open = {it for it, due in moment.trials.items() if breakers.state(due, at) == breakers.OPEN}
        is_open.update(it for it, note in moment.aside.items() if note.paused_until)
        return cls.of_entries(moment.entries, is_open)

    @classmethod
    def of_entries(cls, entries: tuple[Entry, ...], is_open: Iterable[str]) -> "NameView":
        ids = {entry.id for entry in entries}
        names = {it.name: it for it in model_names.all() if it.enabled and "*" not in it.name}
        return cls(Catalogue(entries), names, frozenset(ids) - frozenset(is_open))

    def state(self, name: NameEntry) -> NameStatePayload:
        steps = [self._step(name, step, number) for number, step in enumerate(name.steps, 1)]
        serving = next((step for step in steps if any(it["state"] == AVAILABLE for it in step["targets"])), None)
        if serving is not None:
            serving["serves"] = True
        return {
            "id": name.id,
            "name": name.name,
            "enabled": name.enabled,
            "external": name.external,
            "serving_step": None if serving is None else serving["number"],
            "hidden_model": self.catalogue.find(name.name),
            "steps": steps,
        }

    def _step(self, name: NameEntry, step: Step, number: int) -> NameStepPayload:
        weights = sum(target.weight for target in step.targets)
        return {
            "number": number,
            "if_unavailable": step.if_unavailable,
            "if_full_secs": step.if_full_secs,
            "if_failed": step.if_failed,
            "if_too_long": step.if_too_long,
            "serves": False,
            "targets": [self._target(name, target, target.weight / weights) for target in step.targets],
        }

    def _target(self, name: NameEntry, target: Target, share: float) -> NameTargetPayload:
        following = next_name(name, target, self.names)
        offers = [(leaf, entry) for leaf in self.leaves(name, target) for entry, _ in self._offers(leaf.target)]
        allowed = [entry for leaf, entry in offers if leaf.external or not entry.is_external]
        available = [entry for entry in allowed if self._is_available(entry)]
        endpoint = None if target.endpoint_id is None else registry.get(target.endpoint_id)
        if target.endpoint_id is not None and endpoint is None:
            state = NO_ENDPOINT
        elif target.model == name.name and "*" in name.name:
            state = AVAILABLE  # whatever was requested: nothing can be checked
        elif not offers:
            state = NOT_OFFERED
        elif not allowed:
            state = EXTERNAL
        else:
            state = AVAILABLE if available else UNAVAILABLE
        return {
            "model": target.model,
            "leads_to": None if following is None else following.id,
            "endpoint_id": target.endpoint_id,
            "endpoint_name": None if target.endpoint_id is None else registry.name(target.endpoint_id),
            "tag": target.tag,
            "weight": target.weight,
            "share": share,
            "state": state,
            "endpoints": len({entry.id for _, entry in offers}),
            "endpoints_available": len({entry.id for entry in available}),
        }

    def leaves(self, name: NameEntry, target: Target, depth: int = 1, *, external: bool = True) -> list[NameLeaf]:
        """Return the models that a target leads to, through other names. `external`: the names before allow it."""
        external = external and name.external
        following = next_name(name, target, self.names) if depth < MAX_DEPTH else None
        if following is None:
            return [NameLeaf(target, external)]
        inner = (it for step in following.steps for it in step.targets)
        return [leaf for it in inner for leaf in self.leaves(following, it, depth + 1, external=external)]

    def _offers(self, target: Target) -> list[tuple[Entry, ModelEntry]]:
        row = self.catalogue.find(target.model)
        if row is None:
            return []
        offers = self.catalogue.offers(self.catalogue.all[row])
        exact = [offer for offer in offers if target.model in _names(offer[1])]
        return [
            (entry, model)
            for entry, model in exact or offers
            if target.endpoint_id in (None, entry.id) and (target.tag is None or target.tag in entry.tags)
        ]

    def _is_available(self, entry: Entry) -> bool:
        enabled = entry.operator_state == OperatorState.ENABLED
        return enabled and entry.status == Status.ONLINE and entry.id in self.closed


def _names(model: ModelEntry) -> set[str]:
    canonical = (model.canonical_name,) if model.canonical_name else ()
    return {model.id, *canonical, *model_aliases.aliases(model.id, model.canonical_name)}


def states(moment: Moment) -> list[NameStatePayload]:
    """Return all model names, sorted by name."""
    view = NameView.of(moment)
    return [view.state(name) for name in model_names.all()]


def name_of(requested: str) -> NameEntry | None:
    """Return the model name that a request for this name means: an equal one, else the pattern with most literals."""
    enabled = [it for it in model_names.all() if it.enabled and it.steps]
    patterns = []
    for it in enabled:
        if it.name == requested:
            return it
        head, star, tail = it.name.partition("*")
        fits = requested.startswith(head) and requested.endswith(tail) and len(requested) >= len(head) + len(tail)
        if star and fits:
            patterns.append(it)
    return min(patterns, key=lambda it: (-len(it.name), it.name), default=None)
