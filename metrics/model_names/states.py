"""The state of model names now: their steps and targets, and which of these an endpoint offers and can serve."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, TypedDict

from endpoints import model_aliases
from endpoints.model_names.name_cache import NameEntry, model_names
from endpoints.models import OperatorState, Status
from endpoints.openapi.payload_fields import Choices, Help, UuidText
from endpoints.registry import Entry, ModelEntry, registry
from gateway.model_names.plan import Leaf, ModelNames, NamePlan, PlannedStep, leaves_of
from gateway.registry.schema import Target
from metrics.queries import breakers
from metrics.queries.figures import Moment
from metrics.queries.model_catalogue import Catalogue

AVAILABLE, UNAVAILABLE, NOT_OFFERED, NO_ENDPOINT, EXTERNAL = (
    "available", "unavailable", "not_offered", "endpoint_deleted", "external",
)  # fmt: skip
TARGET_STATES = (AVAILABLE, UNAVAILABLE, NOT_OFFERED, NO_ENDPOINT, EXTERNAL)


# A target, and what serves it now.
class NameTargetPayload(TypedDict):
    model: str
    leads_to: Annotated[UuidText | None, Help("Another model name.")]
    endpoint_id: UuidText | None
    endpoint_name: str | None
    tag: str | None
    weight: int
    share: Annotated[float, Help("Share of the requests of the step.")]
    state: Annotated[str, Choices(TARGET_STATES)]
    endpoints: Annotated[int, Help("Endpoints that offer it.")]
    endpoints_available: Annotated[int, Help("Those that can serve requests of the name now.")]


# A step. `serves`: it is the first one with a target that is available.
class NameStepPayload(TypedDict):
    number: int
    if_unavailable: bool
    if_full_secs: float | None
    if_failed: bool
    if_too_long: bool
    serves: Annotated[bool, Help("True for the first step with an available target.")]
    targets: list[NameTargetPayload]


# A model name with the state of its steps.
class NameStatePayload(TypedDict):
    id: UuidText
    name: str
    enabled: bool
    external: bool
    serving_step: int | None
    hidden_model: Annotated[str | None, Help("A model of this id: the name wins over it.")]
    steps: list[NameStepPayload]


@dataclass(frozen=True, slots=True)
class NameView:
    """Endpoints and model names at one moment."""

    catalogue: Catalogue
    names: ModelNames  # as gateways have them
    closed: frozenset[str]  # endpoints that are not paused, and whose circuit breaker is not open

    @classmethod
    def of(cls, moment: Moment) -> "NameView":
        now = moment.figures.at
        is_open = {
            endpoint_id for endpoint_id, due in moment.trials.items() if breakers.state(due, now) == breakers.OPEN
        }
        is_open.update(endpoint_id for endpoint_id, note in moment.aside.items() if note.paused_until)
        return cls.of_entries(moment.entries, is_open)

    @classmethod
    def of_entries(cls, entries: tuple[Entry, ...], is_open: Iterable[str]) -> "NameView":
        ids = {entry.id for entry in entries}
        return cls(Catalogue(entries), model_names.of_gateways(), frozenset(ids) - frozenset(is_open))

    def plan(self, name: NameEntry) -> NamePlan:
        """Return the plan of a name, as if it were enabled. A pattern stands for itself."""
        known = self.names.plan(name.name) if model_names.get(name.id) is name and "*" not in name.name else None
        if known is not None and known.name is not None and known.name.id == name.id:  # the usual case: kept there
            return known
        return self.names.plan_of(name.facts_if_enabled(), name.name)

    def state(self, name: NameEntry) -> NameStatePayload:
        steps = [self._step(name, planned, number) for number, planned in enumerate(self.plan(name).steps, 1)]
        serving = next((step for step in steps if any(of["state"] == AVAILABLE for of in step["targets"])), None)
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

    def _step(self, name: NameEntry, planned: PlannedStep, number: int) -> NameStepPayload:
        step = planned.step
        weights = sum(target.weight for target in step.targets)
        pairs = zip(step.targets, planned.targets, strict=True)
        return {
            "number": number,
            "if_unavailable": step.if_unavailable,
            "if_full_secs": step.if_full_secs,
            "if_failed": step.if_failed,
            "if_too_long": step.if_too_long,
            "serves": False,
            "targets": [self._target(name, target, means, target.weight / weights) for target, (_, means) in pairs],
        }

    def _target(self, name: NameEntry, target: Target, means: Leaf | NamePlan, share: float) -> NameTargetPayload:
        following = None if isinstance(means, Leaf) else means.name
        offers = [(leaf, entry) for leaf in leaves_of(means) for entry, _ in self._offers(leaf)]
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

    def _offers(self, leaf: Leaf) -> list[tuple[Entry, ModelEntry]]:
        row = self.catalogue.find(leaf.model)
        if row is None:
            return []
        offers = self.catalogue.offers(self.catalogue.all[row])
        exact = [offer for offer in offers if leaf.model in _names(offer[1])]
        return [
            (entry, model)
            for entry, model in exact or offers
            if leaf.endpoint_id in (None, entry.id) and (leaf.tag is None or leaf.tag in entry.tags)
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


def winning_name(model: str) -> NameEntry | None:
    """Return the model name that wins over a model of this id: requests for it follow the steps of the name."""
    plan = model_names.of_gateways().plan(model)
    return None if plan is None or plan.name is None or plan.yields else model_names.get(plan.name.id)
