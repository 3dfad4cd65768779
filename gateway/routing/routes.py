"""Routes of a model: its endpoints, and what each request needs to find one of them."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from gateway.registry.key_rules import AllowedUse
from gateway.registry.schema import EndpointFacts, EngineState, Model
from gateway.routing.adaptive import Counts
from gateway.routing.balancer import OPEN
from gateway.routing.endpoint import Endpoint
from gateway.routing.expected_time import C, Row

MAX_SUBSETS = 500  # that are kept of the routes of a model


@dataclass(frozen=True, slots=True)
class Route:
    """A model at an endpoint, with the name that the endpoint uses for it."""

    endpoint: Endpoint
    model: Model

    @property
    def name(self) -> str:
        """The name that the model has at all endpoints: its canonical name, else its id."""
        return self.model.canonical or self.model.id


@dataclass(frozen=True, slots=True)
class LearnedRoutes:
    """What was learned about the endpoints of routes, for one kind of request (gateway.routing.learned_routes)."""

    rows: list[Row[Endpoint]]
    by_id: dict[str, Row[Endpoint]]
    kept: dict[str, tuple[float, ...]]  # by id of the endpoint: Speeds.kept
    version: int  # of the roster's learned facts
    # By id of the endpoint, of those that report which models are in memory: also its own id of the model, and the
    # learned seconds of a load.
    engines: dict[str, tuple[EngineState, str, float]]
    has_loads: bool  # an endpoint would have to load the model, or is loading it
    slowest_read: float  # gateway.routing.adaptive.slowest_read


def has_free(rows: Iterable[Row[C]], counts: Counts[C] | None, tried: Collection[str] = ()) -> bool:
    """Return True if an endpoint with a closed circuit breaker has a free slot.

    After FULL, the request waits for a better endpoint then; others may want the free one.
    """
    for row in rows:
        candidate = row.candidate
        if candidate.rank < OPEN and row.id not in tried:
            in_flight = candidate.in_flight if counts is None else counts(candidate)[0]
            if in_flight < row.slots:
                return True
    return False


def may_use(use: AllowedUse, model: Model, facts: EndpointFacts, *, through_name: bool) -> bool:
    """Return True if an API key may use a model at an endpoint. `through_name`: a model name leads to it."""
    names = (model.id, *((model.canonical,) if model.canonical else ()), *model.aliases)
    return use.allows_endpoint(facts.id, facts.tags) and use.allows_model(names, through_name=through_name)


class Routes(list[Route]):
    """Routes of a model, with the lookups that each request needs."""

    __slots__ = ("_subsets", "by_id", "context", "endpoints", "has_external", "has_prints", "lacking", "learned")

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        super().__init__(routes)
        self.by_id = {route.endpoint.id: route for route in self}
        self.endpoints = [route.endpoint for route in self]
        self.has_prints = False  # gateway.routing.affinity knows its endpoints
        self.learned: dict[str, LearnedRoutes] = {}  # by kind of request
        self.has_external = any(endpoint.facts.external for endpoint in self.endpoints)
        # The least context of the models, in tokens; None: none is known.
        self.context = min((route.model.max_tokens for route in self if route.model.max_tokens), default=None)
        # What some of the models certainly cannot do, of gateway.base.request_kinds.TOOLS and VISION.
        self.lacking = frozenset(word for route in self for word in route.model.lacks)
        self._subsets: dict[object, Routes | None] = {}  # None: all of them belong to it

    def capable(self, capability: str) -> "Routes":
        """Return the routes whose models have a capability. Models of unknown capability match every one."""
        if capability in self._subsets:
            routes = self._subsets[capability]
            return self if routes is None else routes
        return self._subset(
            capability, lambda route: not route.model.capabilities or capability in route.model.capabilities
        )

    def having(self, needs: frozenset[str]) -> "Routes":
        """Return the routes whose models may do what a request needs."""
        if needs.isdisjoint(self.lacking):
            return self
        return self._subset(("needs", needs), lambda route: needs.isdisjoint(route.model.lacks))

    @property
    def internal(self) -> "Routes":
        """The routes to endpoints that are not external."""
        return self._subset("internal", lambda route: not route.endpoint.facts.external)

    def allowed(self, use: AllowedUse, *, through_name: bool) -> "Routes":
        """Return the routes that an API key may use. `through_name`: a model name leads to them."""
        if not use.restricts_routes:
            return self
        subset = use, through_name
        if subset in self._subsets:
            routes = self._subsets[subset]
            return self if routes is None else routes
        return self._subset(
            subset, lambda route: may_use(use, route.model, route.endpoint.facts, through_name=through_name)
        )

    def permitted(self, use: AllowedUse | None, *, external: bool, through_name: bool) -> "Routes":
        """Return the routes that a client may use. `use`: the restrictions of its API key. `external`: it may use
        external endpoints. `through_name`: a model name leads to them.
        """
        routes = self if external or not self.has_external else self.internal
        return routes if use is None else routes.allowed(use, through_name=through_name)

    def at(self, endpoint_id: str | None, tag: str | None) -> "Routes":
        """Return the routes to an endpoint, or to those with a tag; all if both are None."""
        if endpoint_id is None and tag is None:
            return self
        return self._subset(
            (endpoint_id, tag),
            lambda route: (
                (endpoint_id is None or route.endpoint.id == endpoint_id)
                and (tag is None or tag in route.endpoint.facts.tags)
            ),
        )

    def holding(self, tokens: float) -> "Routes":
        """Return the routes whose models have a context of at least so many tokens, or an unknown one."""
        if self.context is None or tokens <= self.context:
            return self
        return Routes(route for route in self if route.model.max_tokens is None or tokens <= route.model.max_tokens)

    def of_models(self, names: frozenset[str]) -> "Routes":
        """Return the routes to the models with these names (see `Route.name`)."""
        return self._subset(names, lambda route: route.name in names)

    def _subset(self, key: object, belongs: Callable[[Route], bool]) -> "Routes":
        """Return the routes that belong to a subset, which is kept."""
        if key not in self._subsets:
            if len(self._subsets) >= MAX_SUBSETS:
                self._subsets.clear()
            subset = Routes(route for route in self if belongs(route))
            # Without a cycle of references: the garbage collector rarely runs, and changes of endpoints are frequent.
            self._subsets[key] = None if len(subset) == len(self) else subset
        routes = self._subsets[key]
        return self if routes is None else routes
