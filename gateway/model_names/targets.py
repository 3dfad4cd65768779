"""The targets of a model name's steps that a request may be sent to, and why it may not be sent to others."""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.base import errors
from gateway.base.errors import Refusal
from gateway.base.request_kinds import Kind
from gateway.dialects.needs import Needs
from gateway.dialects.openai_requests import Request
from gateway.http.exchange import Exchange
from gateway.http.key_permissions import may_use_external, use_of
from gateway.model_names.plan import Leaf, NamePlan, Stage
from gateway.model_names.step_reasons import (
    EXTERNAL,
    LACKING,
    NO_TOOLS,
    NO_VISION,
    NOT_ALLOWED,
    NOT_CAPABLE,
    OTHER_VECTORS,
    PINNED,
    TOO_LONG,
)
from gateway.registry.key_rules import AllowedUse
from gateway.routing.balancer import Decision
from gateway.routing.learned_routes import LearnedFacts
from gateway.routing.roster import Roster
from gateway.routing.routes import Routes

NO_ROUTES = Routes()
UNKNOWN = "unknown"  # no endpoint has the model


class Open(NamedTuple):
    """A target that may be asked, with its routes in any state."""

    leaf: Leaf
    routes: Routes


def lacking_reason(routes: Routes, needs: Needs) -> str:
    """Return why none of the models can serve a request that needs this."""
    missing = (LACKING[need] for need in sorted(needs) if not routes.having(frozenset((need,))))
    return next(missing, NOT_CAPABLE)


def lacking_refusal(model: str, reason: str) -> Refusal:
    """Return the refusal of a request for which no model can do what it needs."""
    cannot = {NO_TOOLS: "call tools", NO_VISION: "read images"}.get(reason, "call tools and read images")
    message = f"The model {model!r} cannot {cannot}, which the request needs, at any endpoint."
    return Refusal(400, errors.MODEL_NOT_CAPABLE, message, param="model")


class StepTargets:
    """The targets of one request: the part of a Chain that finds them."""

    __slots__ = ("_exchange", "_learned", "_roster", "_vectors", "kind", "parsed", "plan", "preferred", "requested")

    _learned: LearnedFacts
    _roster: Roster
    _exchange: Exchange
    kind: Kind
    _vectors: frozenset[str] | None  # see vectors_of
    parsed: Request  # as the client sent it
    plan: NamePlan
    preferred: Decision | None  # see InferenceRequest
    requested: str

    def open_targets(self, stages: Sequence[Stage], place: int) -> tuple[list[Open], str]:
        """Return the targets of a stage that may be asked, and why the first of the others may not."""
        open_leaves = [(leaf, *self._routes(leaf)) for leaf in stages[place].leaves]
        usable = [Open(leaf, routes) for leaf, routes, why in open_leaves if why is None]
        long = [Open(leaf, routes) for leaf, routes, why in open_leaves if why == TOO_LONG]
        if not usable and long and not self._may_skip_long(stages, place):
            return long, ""
        return usable, next((why for _, _, why in open_leaves if why is not None and why != UNKNOWN), UNKNOWN)

    def _routes(self, leaf: Leaf) -> tuple[Routes, str | None]:
        """Return the routes of a target that the request may use, in any state; and why there are none."""
        use = use_of(self._exchange)
        if use is not None:
            requested = (leaf.names or (leaf.model,))[0] if self.plan.name is None else self.requested
            if not use.allows_path((requested, *leaf.names[1:])):
                return NO_ROUTES, NOT_ALLOWED
        routes, why = self._permitted_routes(leaf, use)
        if why is not None:
            return routes, why
        if self._vectors is not None and not (routes := routes.of_models(self._vectors)):
            return routes, OTHER_VECTORS
        preferred = self.preferred
        if preferred is not None and preferred.reason == PINNED and preferred.endpoint_id not in routes.by_id:
            return NO_ROUTES, PINNED
        return self._able(leaf, routes) if self.parsed.needs or routes.context is not None else (routes, None)

    def _permitted_routes(self, leaf: Leaf, use: AllowedUse | None) -> tuple[Routes, str | None]:
        """Return the routes of a target that have the capability and that the API key may use."""
        routes = self._roster.routes(leaf.model)
        if not routes:
            return routes, UNKNOWN
        if not (routes := routes.capable(self.kind.capability)):
            return routes, NOT_CAPABLE
        if (leaf.endpoint_id or leaf.tag) and not (routes := routes.at(leaf.endpoint_id, leaf.tag)):
            return routes, UNKNOWN
        external = leaf.external and may_use_external(self._exchange)
        permitted = routes.permitted(use, external=external, through_name=bool(leaf.names))
        if not permitted:
            return permitted, NOT_ALLOWED if external or routes.internal else EXTERNAL
        return permitted, None

    def _able(self, leaf: Leaf, routes: Routes) -> tuple[Routes, str | None]:
        """Return the routes whose models may do what the request needs, and seem to hold its prompt."""
        if not (able := routes.having(self.parsed.needs)):
            return able, lacking_reason(routes, self.parsed.needs)
        routes = able
        if routes.context is not None and (tokens := self._prompt_tokens(leaf, routes.context)) > routes.context:
            holding = routes.holding(tokens)
            return (holding, None) if holding else (routes, TOO_LONG)
        return routes, None

    def _prompt_tokens(self, leaf: Leaf, context: int) -> float:
        """Return the estimated tokens of the prompt; 0 if they are certainly fewer than the context, or unknown."""
        size = self._exchange.size
        if size <= context or self.kind.multipart:
            return 0.0
        key = self._exchange.api_key
        learned = self._learned
        _, bytes_per_token, _ = learned.lengths_through(self.requested, leaf.model, None if key is None else key.id)
        return size / bytes_per_token

    def _may_skip_long(self, stages: Sequence[Stage], place: int) -> bool:
        """Return True if a prompt that seems too long for a stage may go to a later one, which seems to hold it."""
        if not stages[place].if_too_long:
            return False
        later = (leaf for stage in stages[place + 1 :] for leaf in stage.leaves)
        return any(self._routes(leaf)[1] is None for leaf in later)


def vectors_of(roster: Roster, plan: NamePlan) -> frozenset[str] | None:
    """Return the names of the models that embeddings may use: those of the first target; None: all."""
    if plan.name is not None and plan.name.same_vectors:
        return None
    model = plan.leaves[0].model
    return frozenset(route.name for route in roster.routes(model)) or frozenset((model,))
