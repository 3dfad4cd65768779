"""The targets of a model name's steps that a request may be sent to, and why it may not be sent to others."""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.base import errors
from gateway.base.errors import Refusal
from gateway.base.request_kinds import Kind
from gateway.base.step_reasons import (
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
from gateway.dialects.needs import Needs
from gateway.dialects.openai_requests import Request
from gateway.http.exchange import Exchange
from gateway.inference.services import Services
from gateway.registry.key_rules import AllowedUse
from gateway.routing.balancer import Decision
from gateway.routing.model_names import Leaf, NamePlan, Stage
from gateway.routing.roster import Roster
from gateway.routing.routes import Routes

NO_ROUTES = Routes()
UNKNOWN = "unknown"  # no endpoint has the model
_new = tuple.__new__  # Open(…) would call a function in between


class Open(NamedTuple):
    """A target that may be asked, with its routes in any state."""

    leaf: Leaf
    routes: Routes


def may_use_external(exchange: Exchange) -> bool:
    """Return True if the API key of a request may use external endpoints. Without a key, no request may."""
    key = exchange.api_key
    return key is not None and key.external


def external_refusal(exchange: Exchange, model: str) -> Refusal:
    """Return the refusal of a request whose only candidates are external."""
    whose = "the model name" if may_use_external(exchange) else "this API key"
    if exchange.api_key is None:
        whose = "a request without an API key"
    message = f"The model {model!r} is only at external endpoints, which {whose} may not use."
    return Refusal(403, errors.EXTERNAL_NOT_ALLOWED, message, param="model")


def lacking_reason(routes: Routes, needs: Needs) -> str:
    """Return why none of the models can serve a request that needs this."""
    missing = (LACKING[need] for need in sorted(needs) if not routes.having(frozenset((need,))))
    return next(missing, NOT_CAPABLE)


def lacking_refusal(model: str, reason: str) -> Refusal:
    """Return the refusal of a request for which no model can do what it needs."""
    cannot = {NO_TOOLS: "call tools", NO_VISION: "read images"}.get(reason, "call tools and read images")
    message = f"The model {model!r} cannot {cannot}, which the request needs, at any endpoint."
    return Refusal(400, errors.MODEL_NOT_CAPABLE, message, param="model")


def use_of(exchange: Exchange) -> AllowedUse | None:
    """Return the restrictions of a request's API key; None: there are none."""
    key = exchange.api_key
    return None if key is None else key.allowed


def permits_of(exchange: Exchange) -> str:
    """Return a text that is equal for requests whose API keys may use the same endpoints."""
    key = exchange.api_key
    if key is None:
        return ""
    if key.allowed is None:
        return "external" if key.external else ""
    return key.allowed.permits[key.external]


def model_refusal(model: str) -> Refusal:
    """Return the refusal of a request for a model that its API key may not use."""
    message = f"This API key may not use the model {model!r}; GET /v1/models lists the models that it may use."
    return Refusal(403, errors.MODEL_NOT_ALLOWED, message, param="model")


class StepTargets:
    """The targets of one request: the part of a Chain that finds them."""

    __slots__ = ("_exchange", "_kind", "_services", "_vectors", "parsed", "plan", "preferred", "requested")

    _services: Services
    _exchange: Exchange
    _kind: Kind
    _vectors: frozenset[str] | None  # see vectors_of
    parsed: Request  # as the client sent it
    plan: NamePlan
    preferred: Decision | None  # see InferenceRequest
    requested: str

    def open_targets(self, stages: Sequence[Stage], place: int) -> tuple[list[Open], str]:
        """Return the targets of a stage that may be asked, and why the first of the others may not."""
        stage = stages[place]
        if len(stage.leaves) == 1:  # the usual case
            routes, why = self._routes(stage.leaves[0])
            if why is None or (why == TOO_LONG and not self._may_skip_long(stages, place)):
                return [_new(Open, (stage.leaves[0], routes))], why or ""
            return [], why
        found = [(leaf, *self._routes(leaf)) for leaf in stage.leaves]
        usable = [Open(leaf, routes) for leaf, routes, why in found if why is None]
        long = [Open(leaf, routes) for leaf, routes, why in found if why == TOO_LONG]
        if not usable and long and not self._may_skip_long(stages, place):
            return long, ""
        return usable, next((why for _, _, why in found if why is not None and why != UNKNOWN), UNKNOWN)

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
        routes = self._services.roster.routes(leaf.model)
        if not routes:
            return routes, UNKNOWN
        if not (routes := routes.capable(self._kind.capability)):
            return routes, NOT_CAPABLE
        if (leaf.endpoint_id or leaf.tag) and not (routes := routes.at(leaf.endpoint_id, leaf.tag)):
            return routes, UNKNOWN
        if routes.has_external and not (leaf.external and may_use_external(self._exchange)):
            routes = routes.internal
        if not routes:
            return routes, EXTERNAL
        if use is not None and not (routes := routes.allowed(use, through_name=bool(leaf.names))):
            return routes, NOT_ALLOWED
        return routes, None

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
        size = self._exchange.length or self._exchange.body_bytes
        if size <= context or self._kind.multipart:
            return 0.0
        key = self._exchange.api_key
        learned = self._services.learned
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
