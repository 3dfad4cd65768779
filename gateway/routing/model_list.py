"""GET /v1/models and /v1/models/{id}: the models and model names that clients can request now, from the roster."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypedDict, TypeVar

import msgspec

from gateway.base.errors import MODEL_NOT_FOUND, Refusal
from gateway.base.request_kinds import CAPABILITIES, KINDS
from gateway.loop.time_slices import Slices, TimeSlices
from gateway.registry import schema
from gateway.registry.key_rules import AllowedUse
from gateway.registry.schema import ModelName
from gateway.routing.balancer import EXCLUDED
from gateway.routing.model_names import Leaf, ModelNames, NamePlan
from gateway.routing.roster import Roster
from gateway.routing.routes import Route, Routes, may_use

T = TypeVar("T")

_APIS = {word: {kind.name for kind in KINDS if kind.capability == word} for word in CAPABILITIES}
_ALL_APIS = {kind.name for kind in KINDS}
SLICE_ROUTES = 500  # of some 10 µs each
MAX_LISTS = 16  # in memory, for API keys with different restrictions


class ModelPayload(TypedDict):
    """A model in the list. The dashboard's list has the same fields, and more."""

    id: str
    object: str
    created: int
    owned_by: str
    lifecycle_status: str
    download_progress: float | None
    ready: bool
    capabilities: list[str]
    supported_apis: list[str]
    max_tokens: int | None
    endpoint_ids: list[str]
    canonical_name: str | None
    aliases: list[str]


class BuiltList(ABC, Generic[T]):
    """Lists of models, each built once for a version of the registry and restrictions of API keys, in time slices."""

    def __init__(self, roster: Roster, time_slices: TimeSlices) -> None:
        self._roster = roster
        self._time_slices = time_slices
        self._is_building = False
        self._built: dict[AllowedUse | None, tuple[int, T]] = {}  # with the version; the last used ones at the end

    @abstractmethod
    def build(self, roster: Roster, use: AllowedUse | None) -> Slices[T]:
        """Build the list in time slices."""

    async def current(self, use: AllowedUse | None = None) -> T:
        """Return the list of the models that an API key may use, of the version at the time of the call or a later one.

        Requests share one build at a time, however often the version changes. Raises Refusal (503).
        """
        wanted = self._roster.version
        while True:
            built = self._built.pop(use, None)
            if built is not None and built[0] >= wanted:
                self._built[use] = built
                return built[1]
            if self._is_building:
                await self._time_slices.next()
                continue
            self._is_building = True
            building = self._roster.version
            try:
                found = await self._time_slices.start_now(self.build(self._roster, use))
            finally:
                self._is_building = False
            self._built[use] = building, found
            while len(self._built) > MAX_LISTS:
                del self._built[next(iter(self._built))]


class ModelList(BuiltList[bytes]):
    """The response of GET /v1/models."""

    def build(self, roster: Roster, use: AllowedUse | None) -> Slices[bytes]:
        return listing(roster, use)


def listing(roster: Roster, use: AllowedUse | None = None) -> Slices[bytes]:
    """Encode the list of models that an API key may use."""
    entries = yield from entries_of(roster, lambda entry, serving: msgspec.json.encode(entry), use)
    return b'{"object":"list","data":[%b]}' % b",".join(entries)


def entries_of(
    roster: Roster, encode: Callable[[ModelPayload, Sequence[Route]], T], use: AllowedUse | None = None
) -> Slices[list[T]]:
    """Encode every model that an enabled endpoint can serve, one entry per canonical name, sorted by it.

    `encode` receives an entry, and where the model is.

    A model name is listed if an enabled endpoint can serve one of its targets. A pattern is not, because its names are
    unknown. A name wins over a model of this id, so the model is left out. `use`: restrictions of the API key.
    """
    listed: dict[str, list[Route]] = {}
    routes = 0
    for endpoint in list(roster.endpoints.values()):
        models = roster.models(endpoint)
        for model in models:
            if use is None or may_ask(use, model, endpoint.facts):
                listed.setdefault(model.canonical or model.id, []).append(Route(endpoint, model))
        routes += len(models) + 1
        if routes > SLICE_ROUTES:
            routes = 0
            yield
    entries: list[T] = []
    names = roster.names
    exact = {} if names is None else names.exact
    for name in sorted(listed.keys() | exact.keys()):
        if names is None or name not in exact:
            found = listed[name]
        else:
            found = [] if use is not None and not use.allows_name(name) else _routes_of(roster, names.plan(name), use)
        if serving := _serving(found):
            named = exact.get(name)
            entry = _entry(name, serving) if named is None else _name_entry(name, named, serving)
            entries.append(encode(entry, serving))
            routes += len(serving) + 1
        if routes > SLICE_ROUTES:
            routes = 0
            yield
    return entries


def get_model(roster: Roster, name: str, use: AllowedUse | None = None) -> ModelPayload:
    """Return a model or model name, also while no endpoint with it is online. Raises Refusal (404).

    One that the API key may not use does not exist for it.
    """
    return find_model(roster, name, use)[0]


def find_model(roster: Roster, name: str, use: AllowedUse | None) -> tuple[ModelPayload, Sequence[Route]]:
    """Return the same as `get_model`, and where the model is."""
    if use is not None and not use.allows_name(name):
        raise _no_such_model(name)
    names: ModelNames | None = roster.names
    if names is not None and (named := names.find(name)) is not None:
        found = _routes_of(roster, names.plan(name), use)
        return _name_entry(name, named, found), found
    routes = roster.routes(name)
    if use is not None:
        routes = routes.allowed(use, through_name=False)
    if not routes:
        raise _no_such_model(name)
    return {**_entry(name, routes), "id": name}, routes


def _no_such_model(name: str) -> Refusal:
    return Refusal(404, MODEL_NOT_FOUND, f"The model {name!r} does not exist.", param="model")


def may_ask(use: AllowedUse, model: schema.Model, facts: schema.EndpointFacts) -> bool:
    """Return True if an API key may ask for a model by any name, and gets it from this endpoint."""
    names = (model.canonical or model.id, model.id, *model.aliases)
    return may_use(use, model, facts, through_name=False) and any(map(use.allows_name, names))


def _routes_of(roster: Roster, plan: NamePlan | None, use: AllowedUse | None) -> list[Route]:
    """Return the routes of all targets of a model name, those of the first step first."""
    leaves = () if plan is None else plan.leaves
    return list(dict.fromkeys(route for leaf in leaves for route in _routes_of_leaf(roster, leaf, use)))


def _routes_of_leaf(roster: Roster, leaf: Leaf, use: AllowedUse | None) -> list[Route]:
    routes = roster.routes(leaf.model)
    if use is not None:
        routes = routes.allowed(use, through_name=True) if use.allows_path(leaf.names) else Routes()
    return [route for route in routes if _may_take(route.endpoint.facts, leaf)]


def _may_take(facts: schema.EndpointFacts, leaf: Leaf) -> bool:
    return (
        leaf.endpoint_id in (None, facts.id)
        and (leaf.tag is None or leaf.tag in facts.tags)
        and (leaf.external or not facts.external)
    )


def _name_entry(requested: str, name: ModelName, routes: Sequence[Route]) -> ModelPayload:
    """Return the entry of a model name: other names of the models that it leads to are none of its own."""
    entry = _entry(requested, routes)
    return {**entry, "created": int(name.created), "canonical_name": None, "aliases": []}


def _serving(routes: Sequence[Route]) -> list[Route]:
    return [route for route in routes if route.endpoint.rank < EXCLUDED]


def _entry(name: str, routes: Sequence[Route]) -> ModelPayload:
    models = [route.model for route in routes]
    capabilities = {word for model in models for word in model.capabilities}
    offers = [ModelOffer(route.endpoint.id, route.model.max_tokens, route.model.canonical) for route in routes]
    return model_payload(
        name,
        offers,
        ready=any(route.endpoint.facts.status == schema.ONLINE for route in _serving(routes)),
        capabilities=sorted(capabilities),
        apis=supported_apis(capabilities, known=all(model.capabilities for model in models)),
        names=(alias for model in models for alias in (model.id, *model.aliases)),
    )


class ModelOffer(NamedTuple):
    """Facts of a model at one endpoint."""

    endpoint_id: str
    max_tokens: int | None
    canonical_name: str | None


def model_payload(
    name: str,
    offers: Sequence[ModelOffer],
    *,
    ready: bool,
    capabilities: list[str],
    apis: list[str],
    names: Iterable[str],
) -> ModelPayload:
    """Return the entry of a model. `names` has all its names; the first canonical name of `offers` counts."""
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "routerdash",
        "lifecycle_status": "registered",
        "download_progress": None,
        "ready": ready,
        "capabilities": capabilities,
        "supported_apis": apis,
        "max_tokens": max((offer.max_tokens for offer in offers if offer.max_tokens), default=None),
        "endpoint_ids": sorted({offer.endpoint_id for offer in offers}),
        "canonical_name": next((offer.canonical_name for offer in offers if offer.canonical_name), None),
        "aliases": sorted(set(names) - {name}),
    }


def supported_apis(capabilities: Iterable[str], *, known: bool) -> list[str]:
    """Return the kinds of requests that a model takes: all, while its capabilities at an endpoint are not `known`."""
    if not known:
        return sorted(_ALL_APIS)
    return sorted({api for word in capabilities for api in _APIS.get(word, ())})
