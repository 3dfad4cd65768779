"""Preview of a model name: which step a request would go to now, and why the others are left or skipped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.base import request_kinds
from gateway.dialects.needs import NO_NEEDS, Needs
from gateway.model_names.plan import Leaf, NamePlan, Stage
from gateway.model_names.step_reasons import (
    EXTERNAL,
    FULL,
    LACKING,
    NOT_CAPABLE,
    OTHER_VECTORS,
    TOO_LONG,
    UNAVAILABLE,
)
from gateway.registry.schema import EndpointFacts, Model
from gateway.routing.balancer import TRIAL
from metrics.model_names.step_shares import step_shares
from metrics.queries.routing.routing_preview import WAIT, RoutePayload, RouteTargetPayload

RouteList = Sequence[tuple[EndpointFacts, Model]]


@dataclass(frozen=True, slots=True)
class StepsQuestion:
    """What decides about the steps besides the endpoints."""

    kind: str
    may_use_external: bool
    prompt_tokens: Callable[[str], float | None]  # of the prompt for a model; None: unknown
    needs: Needs = NO_NEEDS


@dataclass(frozen=True, slots=True)
class _Target:
    leaf: Leaf
    skipped: str | None
    route: RoutePayload | None

    @property
    def state(self) -> str | None:
        """Why it gets no request now; TRIAL or FULL if it may get one; None if it works."""
        decision = None if self.route is None else self.route["decision"]
        if self.skipped is not None or decision is None:
            return self.skipped or UNAVAILABLE
        if decision["reason"] == TRIAL:
            return TRIAL
        return FULL if decision["reason"] == WAIT else None


@dataclass(frozen=True, slots=True)
class _Step:
    stage: Stage
    targets: list[_Target]

    @property
    def state(self) -> str | None:
        """The best state of its targets: it works, is full, would get a trial, or why it gets nothing."""
        states = [target.state for target in self.targets]
        for state in (None, FULL, TRIAL):
            if state in states:
                return state
        return next((state for state in states if state != UNAVAILABLE), UNAVAILABLE)

    def holds(self) -> bool:
        return self.state != TOO_LONG and any(target.skipped is None for target in self.targets)


class StepsPreview:
    """Walks the steps of one name as gateways do (gateway.model_names.chains)."""

    def __init__(
        self,
        question: StepsQuestion,
        routes: Callable[[str], RouteList],
        route_of: Callable[[str, RouteList], RoutePayload],
    ) -> None:
        """`routes(model)`: the published endpoints that have it. `route_of(model, routes)`: where it would go."""
        self._question = question
        self._routes = routes
        self._route_of = route_of

    def payload(self, model: str, plan: NamePlan) -> RoutePayload | None:
        """Return the route with all steps, and the share of each target; None if no endpoint has any of the models.

        Decision and endpoints are those of the target with the largest share.
        """
        vectors = self._vectors(plan)
        steps = [_Step(stage, [self._target(leaf, vectors) for leaf in stage.leaves]) for stage in plan.stages(_first)]
        if not any(target.route for step in steps for target in step.targets):
            return None
        serving, left = _walk(steps)
        shares = {} if serving is None else _shares(plan, steps, steps[serving])
        targets = [target for step in steps for target in step.targets]
        chosen = max(targets, key=lambda target: shares.get(id(target), 0.0)) if shares else None
        shown = chosen or next(target for target in targets if target.route)
        assert shown.route is not None
        route: RoutePayload = {**shown.route, "model": model}
        if chosen is None:
            route["decision"] = None
        route["steps"] = [
            {
                "step": step.stage.number,
                "serves": any(id(target) in shares for target in step.targets),
                "left": left.get(number),
                "targets": [_target_payload(target, shares.get(id(target), 0.0)) for target in step.targets],
            }
            for number, step in enumerate(steps)
        ]
        return route

    def _vectors(self, plan: NamePlan) -> set[str] | None:
        if self._question.kind != request_kinds.EMBEDDINGS or not plan.leaves:
            return None
        if plan.name is not None and plan.name.same_vectors:
            return None
        first = plan.leaves[0].model
        return {_name(model) for _, model in self._routes(first)} or {first}

    def _target(self, leaf: Leaf, vectors: set[str] | None) -> _Target:
        routes = self._at(leaf)
        if not routes:
            return _Target(leaf, UNAVAILABLE, None)
        skipped: str | None = None
        capability = request_kinds.BY_NAME[self._question.kind].capability
        usable: RouteList = [
            route for route in routes if not route[1].capabilities or capability in route[1].capabilities
        ]
        if not usable:
            skipped = NOT_CAPABLE
        if usable and not (leaf.external and self._question.may_use_external):
            usable = [route for route in usable if not route[0].external]
            skipped = None if usable else EXTERNAL
        if usable and self._question.needs:
            usable, skipped = self._able(usable)
        if usable and vectors is not None:
            usable = [route for route in usable if _name(route[1]) in vectors]
            skipped = None if usable else OTHER_VECTORS
        if usable and (tokens := self._question.prompt_tokens(leaf.model)) is not None:
            usable = [route for route in usable if route[1].max_tokens is None or tokens <= route[1].max_tokens]
            skipped = None if usable else TOO_LONG
        return _Target(leaf, skipped, self._route_of(leaf.model, usable or routes))

    def _able(self, routes: RouteList) -> tuple[RouteList, str | None]:
        """Return the routes whose models may do what the request needs, and why there are none."""
        needs = self._question.needs
        able = [route for route in routes if needs.isdisjoint(route[1].lacks)]
        missing = (LACKING[need] for need in sorted(needs) if all(need in model.lacks for _, model in routes))
        return able, None if able else next(missing, NOT_CAPABLE)

    def _at(self, leaf: Leaf) -> RouteList:
        return [
            route
            for route in self._routes(leaf.model)
            if leaf.endpoint_id in (None, route[0].id) and (leaf.tag is None or leaf.tag in route[0].tags)
        ]


def _walk(steps: Sequence[_Step]) -> tuple[int | None, dict[int, str]]:
    """Return the step that gets the request, and why those before it are left or skipped, by their index."""
    left: dict[int, str] = {}
    for number, step in enumerate(steps):
        state, stage = step.state, step.stage
        later = steps[number + 1 :]
        others_work = any(step.state is None for step in later)
        if state is None:
            return number, left
        if state == FULL and (stage.if_full_secs is None or not others_work):
            return number, left
        if state == TRIAL and not (stage.if_unavailable and others_work):
            return number, left
        if state == TOO_LONG and not (stage.if_too_long and any(step.holds() for step in later)):
            return number, left
        if state == UNAVAILABLE and not stage.if_unavailable:
            return None, left
        left[number] = UNAVAILABLE if state == TRIAL else state
    return None, left


def _shares(plan: NamePlan, steps: Sequence[_Step], serving: _Step) -> dict[int, float]:
    """Return the shares of the targets of the step that gets the requests, by their id()."""
    number, best = serving.stage.number, serving.state
    targets = {id(target.leaf): target for step in steps if step.stage.number == number for target in step.targets}
    shares = step_shares(plan.steps[number - 1], lambda leaf: targets[id(leaf)].state == best)
    return {id(targets[leaf]): share for leaf, share in shares.items()}


def _target_payload(target: _Target, share: float) -> RouteTargetPayload:
    decision = None if target.route is None or target.skipped is not None else target.route["decision"]
    return {
        "model": target.leaf.model,
        "endpoint_id": target.leaf.endpoint_id,
        "tag": target.leaf.tag,
        "skipped": target.skipped,
        "share": share,
        "endpoint_ids": [] if decision is None else decision["endpoint_ids"],
    }


def _name(model: Model) -> str:
    return model.canonical or model.id


def _first() -> float:
    return 0.0
