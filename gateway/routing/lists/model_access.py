"""Which models a client may see in lists, by the rules of its API key."""

from collections.abc import Iterable
from typing import NamedTuple

from gateway.registry import schema
from gateway.registry.key_rules import AllowedUse
from gateway.routing.routes import Routes, may_use


class ModelAccess(NamedTuple):
    """Which models a client may see, by its API key."""

    use: AllowedUse | None = None  # None: no restrictions
    external: bool = False  # models of external endpoints, too
    endpoints: bool = False  # ENDPOINT_FIELDS, too

    def name_of(self, model: schema.Model, facts: schema.EndpointFacts) -> str | None:
        """Return the first name by which the client may ask for a model and gets it from this endpoint."""
        if facts.external and not self.external:
            return None
        use = self.use
        if use is None:
            return model.canonical or model.id
        if not may_use(use, model, facts, through_name=False):
            return None
        return next(filter(use.allows_name, (model.canonical or model.id, model.id, *model.aliases)), None)

    def allows_name(self, name: str) -> bool:
        return self.use is None or self.use.allows_name(name)

    def routes(self, routes: Routes, *, through_name: bool) -> Routes:
        """Return the routes that the client may use. `through_name`: a model name leads to them."""
        return routes.permitted(self.use, external=self.external, through_name=through_name)

    def kinds(self, apis: Iterable[str]) -> list[str]:
        """Return those kinds of requests that the client may send."""
        return [api for api in apis if self.use is None or self.use.allows_kind(api)]


EVERYTHING = ModelAccess(None, external=True, endpoints=True)
