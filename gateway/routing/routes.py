"""Routes of a model name: its endpoints, and what each request needs to find one of them."""

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.registry.schema import Model
from gateway.routing.adaptive import Row
from gateway.routing.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Route:
    """A model at an endpoint, with the name that the endpoint uses for it."""

    endpoint: Endpoint
    model: Model


@dataclass(frozen=True, slots=True)
class LearnedRoutes:
    """What was learned about the endpoints of routes, for one kind of request (gateway.routing.learned_routes)."""

    rows: list[Row[Endpoint]]
    by_id: dict[str, Row[Endpoint]]
    kept: dict[str, tuple[float, ...]]  # by id of the endpoint: Speeds.kept
    version: int  # of the roster's learned facts


class Routes(list[Route]):
    """Routes of a model name, with the lookups that each request needs."""

    __slots__ = ("by_id", "capable", "endpoints", "has_prints", "learned")

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        super().__init__(routes)
        self.by_id = {route.endpoint.id: route for route in self}
        self.endpoints = [route.endpoint for route in self]
        self.capable = _Capable(self)
        self.has_prints = False  # gateway.routing.affinity knows its endpoints
        self.learned: dict[str, LearnedRoutes] = {}  # by kind of request


class _Capable(dict[str, Routes]):
    """Routes by capability, computed on demand. Models of unknown capability match every capability."""

    def __init__(self, routes: Routes) -> None:
        super().__init__()
        self._routes = routes

    def __missing__(self, capability: str) -> Routes:
        capable = [
            route for route in self._routes if not route.model.capabilities or capability in route.model.capabilities
        ]
        routes = self[capability] = self._routes if len(capable) == len(self._routes) else Routes(capable)
        return routes
