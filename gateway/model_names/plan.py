"""Model names of the installation: which of them a request means, and the stages at which it tries targets in order.

A name means its steps. A target of a step may be another name, which means its own steps; a name that leads to itself
means the model of that id instead, so that a cycle in the store is harmless. Pure: no I/O.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from gateway.registry.schema import ModelName, Step, Target, model_name_key

MAX_DEPTH = 5  # names that lead to each other
MAX_TARGETS = 100  # of one name, with those of the names that it leads to; names beyond mean models
MAX_CACHED = 2_000  # requested names
# Fields of a body that decide about the request itself, so that no model name may change them.
PROTECTED = frozenset(("model", "models", "stream", "stream_options"))

Draw = Callable[[], float]


@dataclass(frozen=True, slots=True)
class NameParameters:
    """What a model name changes in the body of a request. Values are JSON."""

    dropped: tuple[str, ...]
    overrides: Mapping[str, msgspec.Raw]
    defaults: Mapping[str, msgspec.Raw]

    def apply(self, fields: dict[str, msgspec.Raw]) -> None:
        """Change the fields of a body: drop some, set some, and add those that are missing."""
        for name in self.dropped:
            fields.pop(name, None)
        fields.update(self.overrides)
        for name, value in self.defaults.items():
            fields.setdefault(name, value)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A model that a request may be sent to, and the names by which it is reached, the requested one first."""

    model: str
    endpoint_id: str | None
    tag: str | None
    names: tuple[str, ...]
    external: bool  # all of these names allow external endpoints
    parameters: tuple[NameParameters, ...] = ()  # of these names


@dataclass(frozen=True, slots=True)
class Stage:
    """Targets among which a request does not wait for one, in the order in which they were drawn.

    It belongs to a step of the requested name, and has the conditions by which it is left. A step has several stages
    only if one of its targets is a name with several steps.
    """

    number: int  # of the step, from 1
    leaves: tuple[Leaf, ...]
    if_unavailable: bool
    if_full_secs: float | None
    if_failed: bool
    if_too_long: bool


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step, with what its targets lead to."""

    step: Step
    targets: tuple["tuple[int, Leaf | NamePlan]", ...]  # with their weights


class RoutesOfModel(Sized, Protocol):
    """The routes of one model: gateway.routing.routes.Routes."""

    lacking: frozenset[str]


class KnownModels(Protocol):
    """The models of all endpoints, at one version."""

    @property
    def version(self) -> int: ...
    def routes(self, model: str) -> Sized: ...


class Endpoints(KnownModels, Protocol):
    """The endpoints of models, at one version: gateway.routing.roster.Roster."""

    def routes(self, model: str) -> RoutesOfModel: ...


class NamePlan:
    """The steps of a requested name, with all that its targets lead to."""

    __slots__ = ("_fixed", "_models", "_targets", "changes_all", "leaves", "name", "steps", "yields")

    def __init__(self, name: ModelName | None, steps: tuple[PlannedStep, ...]) -> None:
        """`name`: None for the list of models of one request."""
        self.name = name
        # All attempts need another body: one with the served model's name, or without the list of models.
        self.changes_all = name is None or name.echo_served
        self.steps = steps
        self.leaves = tuple(leaf for step in steps for _, target in step.targets for leaf in leaves_of(target))
        # A pattern leaves a model that exists alone, unless it leads to the requested model itself.
        self.yields = name is not None and "*" in name.name and name.name not in _models_of(name)
        # Version of the endpoints; whether there is a choice then, and whether a model lacks something.
        self._targets = (-1, False, False)
        self._models = (-1, False)  # version of the endpoints, and whether a model has the requested name
        self._fixed: tuple[Stage, ...] | None = None
        if not any(_is_drawn(step) for step in steps):
            self._fixed = self._stages(random.random)

    @property
    def first_leaves(self) -> tuple[Leaf, ...]:
        """The leaves of the first step, of names among its targets those of their first steps."""
        targets = [target for _, target in self.steps[0].targets] if self.steps else []
        return tuple(leaf for each in targets for leaf in ((each,) if isinstance(each, Leaf) else each.first_leaves))

    def yields_to(self, requested: str, known: "KnownModels | None") -> bool:
        """Return True if the requested name, which this pattern matches, is one of a model, which wins."""
        if known is None or not self.yields:
            return False
        if self._models[0] != known.version:
            self._models = known.version, len(known.routes(requested)) > 0
        return self._models[1]

    @property
    def is_fixed(self) -> bool:
        """True if nothing is drawn by chance."""
        return self._fixed is not None

    def stages(self, draw: Draw = random.random) -> tuple[Stage, ...]:
        """Return the stages of one request. `draw` returns numbers from 0 to 1, to draw targets by their weights."""
        return self._stages(draw) if self._fixed is None else self._fixed

    def has_choice(self, endpoints: "Endpoints") -> bool:
        """Return True if a model of any step is at several endpoints."""
        known = self._targets
        return known[1] if known[0] == endpoints.version else self._look(endpoints)[1]

    def has_lacking(self, endpoints: "Endpoints") -> bool:
        """Return True if a model of any step lacks something that requests may need."""
        known = self._targets
        return known[2] if known[0] == endpoints.version else self._look(endpoints)[2]

    def _look(self, endpoints: "Endpoints") -> tuple[int, bool, bool]:
        """Look up the models of all steps, for a new version of the endpoints: an unknown model is not cached."""
        routes = [endpoints.routes(leaf.model) for leaf in self.leaves]
        has_choice, has_lacking = (
            any(len(of_model) > 1 for of_model in routes),
            any(of_model.lacking for of_model in routes),
        )
        self._targets = endpoints.version, has_choice, has_lacking
        return self._targets

    def _stages(self, draw: Draw) -> tuple[Stage, ...]:
        return tuple(
            stage for number, step in enumerate(self.steps, start=1) for stage in _stages_of(number, step, draw)
        )


def _models_of(name: ModelName) -> set[str]:
    """Return the models and names of all targets of a name."""
    return {target.model for step in name.steps for target in step.targets}


def _is_drawn(step: PlannedStep) -> bool:
    return len(step.targets) > 1 or any(
        isinstance(target, NamePlan) and not target.is_fixed for _, target in step.targets
    )


def leaves_of(target: Leaf | NamePlan) -> Sequence[Leaf]:
    """Return all that a target leads to."""
    return (target,) if isinstance(target, Leaf) else target.leaves


def _stages_of(number: int, planned: PlannedStep, draw: Draw) -> list[Stage]:
    stages: list[Stage] = []
    leaves: list[Leaf] = []  # of the next stage
    for target in _drawn(planned.targets, draw):
        inner = () if isinstance(target, Leaf) else target.stages(draw)
        if isinstance(target, Leaf):
            leaves.append(target)
        elif len(inner) == 1:
            leaves += inner[0].leaves
        elif inner:
            if leaves:
                stages.append(_free(number, leaves))
            stages += (replace(stage, number=number) for stage in inner[:-1])
            stages.append(_free(number, inner[-1].leaves))
            leaves = []
    if leaves:
        stages.append(_free(number, leaves))
    if stages:
        stages[-1] = _with_conditions(stages[-1], planned.step)
    return stages


def _free(number: int, leaves: Iterable[Leaf]) -> Stage:
    """Return a stage that a request leaves for the next target of the same step, whatever the reason."""
    return Stage(number, tuple(leaves), True, 0.0, True, True)


def _with_conditions(stage: Stage, step: Step) -> Stage:
    return Stage(stage.number, stage.leaves, step.if_unavailable, step.if_full_secs, step.if_failed, step.if_too_long)


def _drawn(targets: Sequence["tuple[int, Leaf | NamePlan]"], draw: Draw) -> "list[Leaf | NamePlan]":
    """Return the targets in an order drawn by their weights. Without any weight they stay in their order."""
    left = list(targets)
    order = []
    while len(left) > 1 and any(weight for weight, _ in left):
        order.append(left.pop(_index(left, draw))[1])
    return order + [target for _, target in left]


def _index(targets: Sequence["tuple[int, Leaf | NamePlan]"], draw: Draw) -> int:
    left = draw() * sum(weight for weight, _ in targets)
    for index, (weight, _) in enumerate(targets):
        left -= weight
        if left < 0.0:
            return index
    return len(targets) - 1


class ModelNames:
    """All model names of the installation, at one version."""

    def __init__(self, names: Iterable[ModelName]) -> None:
        names = self.all = list(names)
        self.exact: Mapping[str, ModelName] = {name.name: name for name in names if "*" not in name.name}
        patterns: list[tuple[str, str, ModelName]] = []
        for name in names:
            head, star, tail = name.name.partition("*")
            if star:
                patterns.append((head, tail, name))
        self.has_patterns = bool(patterns)
        # The longest literal first; of equal ones, always the same.
        self._patterns = sorted(patterns, key=lambda pattern: (-len(pattern[0]) - len(pattern[1]), pattern[2].name))
        self._plans: dict[str, NamePlan] = {}

    def find(self, requested: str) -> ModelName | None:
        """Return the name that a request means: one that is written so, else the pattern with the longest literal."""
        exact = self.exact.get(requested)
        if exact is not None:
            return exact
        for head, tail, name in self._patterns:
            if _fits(requested, head, tail):
                return name
        return None

    def plan(self, requested: str, known: KnownModels | None = None) -> NamePlan | None:
        """Return the plan of a requested name.

        None if it is none of the installation's, if it has no targets, or if it is a known model, which wins over a
        pattern.
        """
        plan = self._plans.get(requested)
        if plan is None and (name := self.find(requested)) is not None:
            made = self.plan_of(name, requested)
            if not made.leaves:
                return None
            if len(self._plans) >= MAX_CACHED:
                self._plans.clear()
            plan = self._plans[requested] = made
        return None if plan is None or plan.yields_to(requested, known) else plan

    def plan_of(self, name: ModelName, requested: str) -> NamePlan:
        """Return the plan of a name, which need not be among these. `requested`: the name that a pattern stands for."""
        return _Planner(self.exact).plan(name, requested, ())

    def plan_of_list(self, models: Sequence[str]) -> NamePlan:
        """Return the plan of a request that names several models: each is a step, and may be a name."""
        return plan_of_list(models, self)


def may_mean_name(target: Target, name: str) -> bool:
    """Return True if a target of a name means another model name, should there be one that is written so.

    With an endpoint or a tag, or as the name itself, it means a model.
    """
    return target.endpoint_id is None and target.tag is None and target.model != name


def matches_pattern(name: str, requested: str) -> bool:
    """Return True if a model name is a pattern that matches a requested one. Case matters."""
    head, star, tail = name.partition("*")
    return bool(star) and _fits(requested, head, tail)


def _fits(requested: str, head: str, tail: str) -> bool:
    return len(requested) >= len(head) + len(tail) and requested.startswith(head) and requested.endswith(tail)


def updated(names: ModelNames | None, changes: Mapping[bytes, ModelName | None]) -> ModelNames | None:
    """Return the model names after changes, by key of their rows; None if there are none. None means deleted."""
    rows = {} if names is None else {model_name_key(name.name): name for name in names.all}
    left = [name for name in (rows | dict(changes)).values() if name is not None]
    return ModelNames(left) if left else None


def plan_of_list(models: Sequence[str], names: ModelNames | None, known: KnownModels | None = None) -> NamePlan:
    """Return the plan of a request that names several models, in their order. `names`: None if there are none."""
    steps = []
    for model in models:
        named = None if names is None else names.plan(model, known)
        target = Leaf(model, None, None, (), True) if named is None else named
        steps.append(PlannedStep(Step((Target(model),)), ((1, target),)))
    return NamePlan(None, tuple(steps))


class _Planner:
    """Follows the targets of one requested name."""

    def __init__(self, exact: Mapping[str, ModelName]) -> None:
        self._exact = exact
        self._targets = 0

    def plan(self, name: ModelName, requested: str, path: tuple[ModelName, ...]) -> NamePlan:
        """`requested`: what a pattern stands for, if the name is one."""
        path = (*path, name)
        steps = []
        for step in name.steps:
            targets = [(target.weight, self._target(name, target, requested, path)) for target in step.targets]
            steps.append(PlannedStep(step, tuple(targets)))
        return NamePlan(name, tuple(steps))

    def _target(self, name: ModelName, target: Target, requested: str, path: tuple[ModelName, ...]) -> Leaf | NamePlan:
        self._targets += 1
        model = requested if target.model == name.name else target.model
        next_name = self._exact.get(target.model)
        if (
            next_name is not None
            and all(before.id != next_name.id for before in path)
            and len(path) < MAX_DEPTH
            and self._targets < MAX_TARGETS
            and may_mean_name(target, name.name)
        ):
            return self.plan(next_name, next_name.name, path)
        return Leaf(
            model,
            target.endpoint_id,
            target.tag,
            tuple(each.name for each in path),
            all(each.external for each in path),
            tuple(parameters_of(each) for each in path if each.dropped or each.overrides or each.defaults),
        )


def parameters_of(name: ModelName) -> NameParameters:
    """Return the parameters of a name, without those that no name may change."""
    return NameParameters(
        tuple(field for field in name.dropped if field not in PROTECTED),
        {field: _as_json(value) for field, value in name.overrides.items() if field not in PROTECTED},
        {field: _as_json(value) for field, value in name.defaults.items() if field not in PROTECTED},
    )


def _as_json(packed: msgspec.Raw) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(msgspec.msgpack.decode(packed)))
