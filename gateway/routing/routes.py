"""Routes of a model: its endpoints, and what each request needs to find one of them."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from gateway.registry.key_rules import AllowedUse
from gateway.registry.schema import EndpointFacts, EngineState, Model
from gateway.routing.adaptive import C, Counts, Row
from gateway.routing.balancer import OPEN, Decision
from gateway.routing.endpoint import Endpoint
from gateway.routing.pairs import Pair

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
    only: Decision | None  # if there is just one endpoint; without costs, which nothing is compared with
    slowest_read: float  # seconds a prompt token, times the weight
    # By API key: the output tokens that its requests of this kind are expected to have, and the bytes of a body for
    # each prompt token. Filled by gateway.inference.limiting.budgeting.
    lengths: dict[str | None, tuple[float, float]]
    at_once: bool  # all may be compared, and none reports which models are in memory
    pair: Pair | None  # if there are just two endpoints, which need no care


def has_free(rows: Iterable[Row[C]], counts: Counts[C] | None, tried: Collection[str] = ()) -> bool:
    """Return True if an endpoint with a closed circuit breaker has a free slot.

    After FULL, the request waits for a better endpoint then; others may want the free one.
    """
    for it in rows:
        candidate = it.candidate
        if candidate.rank < OPEN and it.id not in tried:
            in_flight = candidate.in_flight if counts is None else counts(candidate)[0]
            if in_flight < it.slots:
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
        self.context = min((it.model.max_tokens for it in self if it.model.max_tokens), default=None)
        # What some of the models certainly cannot do, of gateway.base.request_kinds.TOOLS and VISION.
        self.lacking = frozenset(word for it in self for word in it.model.lacks)
        self._subsets: dict[object, Routes | None] = {}  # None: all of them belong to it

    def capable(self, capability: str) -> "Routes":
        """Return the routes whose models have a capability. Models of unknown capability match every one."""
        if capability in self._subsets:
            found = self._subsets[capability]
            return self if found is None else found
        return self._subset(capability, lambda it: not it.model.capabilities or capability in it.model.capabilities)

    def having(self, needs: frozenset[str]) -> "Routes":
        """Return the routes whose models may do what a request needs."""
        if needs.isdisjoint(self.lacking):
            return self
        return self._subset(("needs", needs), lambda it: needs.isdisjoint(it.model.lacks))

    @property
    def internal(self) -> "Routes":
        """The routes to endpoints that are not external."""
        return self._subset("internal", lambda it: not it.endpoint.facts.external)

    def allowed(self, use: AllowedUse, *, through_name: bool) -> "Routes":
        """Return the routes that an API key may use. `through_name`: a model name leads to them."""
        if not use.restricts_routes:
            return self
        subset = use, through_name
        if subset in self._subsets:
            found = self._subsets[subset]
            return self if found is None else found
        return self._subset(subset, lambda it: may_use(use, it.model, it.endpoint.facts, through_name=through_name))

    def at(self, endpoint_id: str | None, tag: str | None) -> "Routes":
        """Return the routes to an endpoint, or to those with a tag; all if both are None."""
        if endpoint_id is None and tag is None:
            return self
        return self._subset(
            (endpoint_id, tag),
            lambda it: (
                (endpoint_id is None or it.endpoint.id == endpoint_id)
                and (tag is None or tag in it.endpoint.facts.tags)
            ),
        )

    def holding(self, tokens: float) -> "Routes":
        """Return the routes whose models have a context of at least so many tokens, or an unknown one."""
        if self.context is None or tokens <= self.context:
            return self
        return Routes(it for it in self if it.model.max_tokens is None or tokens <= it.model.max_tokens)

    def of_models(self, names: frozenset[str]) -> "Routes":
        """Return the routes to the models with these names (see `Route.name`)."""
        return self._subset(names, lambda it: it.name in names)

    def _subset(self, key: object, belongs: Callable[[Route], bool]) -> "Routes":
        """Return the routes that belong to a subset, which is kept."""
        if key not in self._subsets:
            if len(self._subsets) >= MAX_SUBSETS:
                self._subsets.clear()
            subset = Routes(it for it in self if belongs(it))
            # Without a cycle of references: the garbage collector rarely runs, and changes of endpoints are frequent.
            self._subsets[key] = None if len(subset) == len(self) else subset
        found = self._subsets[key]
        return self if found is None else found
