"""GET /v1/models and /v1/models/{id}: the models and model names that clients can request now, from the roster."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Required, TypeVar

import msgspec

from gateway.base.errors import MODEL_NOT_FOUND, Refusal
from gateway.base.request_kinds import CAPABILITIES, KINDS
from gateway.loop.time_slices import Slices
from gateway.model_names.plan import Leaf, NamePlan
from gateway.registry import schema
from gateway.routing.balancer import EXCLUDED
from gateway.routing.lists.built_lists import BuiltList
from gateway.routing.lists.model_access import EVERYTHING, ModelAccess
from gateway.routing.lists.model_facts import FactFields, ModelFacts, fact_fields, facts_of
from gateway.routing.roster import Roster, plan_of
from gateway.routing.routes import Route

T = TypeVar("T")

_APIS = {word: {kind.name for kind in KINDS if kind.capability == word} for word in CAPABILITIES}
_ALL_APIS = {kind.name for kind in KINDS}
SLICE_ROUTES = 500  # of some 10 µs each


# Fields of llmlb's list alone, which describe the endpoints rather than the model.
ENDPOINT_FIELDS = ("endpoint_ids", "lifecycle_status", "download_progress", "ready")


class ModelFields(FactFields, total=False):
    """A model in the list; for clients that may read endpoints it is a ModelPayload."""

    id: Required[str]
    object: Required[str]
    created: int  # seconds since 1970; absent if unknown
    owned_by: Required[str]
    capabilities: Required[list[str]]
    supported_apis: Required[list[str]]
    max_tokens: Required[int | None]  # llmlb's field: the largest context
    canonical_name: Required[str | None]
    aliases: Required[list[str]]


class ModelPayload(ModelFields):
    """A model with ENDPOINT_FIELDS. The dashboard's list has the same fields, and more."""

    endpoint_ids: list[str]
    lifecycle_status: str
    download_progress: float | None
    ready: bool


class ModelList(BuiltList[bytes]):
    """The response of GET /v1/models."""

    def build(self, roster: Roster, access: ModelAccess) -> Slices[bytes]:
        return listing(roster, access)

    def size(self, built: bytes) -> int:
        return len(built)


def listing(roster: Roster, access: ModelAccess = EVERYTHING) -> Slices[bytes]:
    """Encode the list of models that a client may use."""

    def encode(entry: ModelFields, serving: Sequence[Route]) -> bytes | None:
        return msgspec.json.encode(entry) if may_request(entry, access) else None

    entries = yield from entries_of(roster, encode, access)
    return b'{"object":"list","data":[%b]}' % b",".join(entries)


def entries_of(
    roster: Roster, encode: Callable[[ModelFields, Sequence[Route]], T | None], access: ModelAccess
) -> Slices[list[T]]:
    """Encode every model that an enabled endpoint can serve, one entry per canonical name, sorted by it.

    `encode` receives an entry, and where the model is; it returns None to leave the model out.

    A model name is listed if an enabled endpoint can serve one of its targets. A pattern is not, because its names are
    unknown. A name wins over a model of this id, so the model is left out. A model whose canonical name a client may
    not use is listed under the first name that it may use.
    """
    listed: dict[str, list[Route]] = {}
    routes = 0
    for endpoint in list(roster.endpoints.values()):
        models = roster.models(endpoint)
        for model in models:
            if (own_name := access.name_of(model, endpoint.facts)) is not None:
                listed.setdefault(own_name, []).append(Route(endpoint, model))
        routes += len(models) + 1
        if routes > SLICE_ROUTES:
            routes = 0
            yield
    entries: list[T] = []
    exact = {} if roster.names is None else roster.names.exact
    for name in sorted(listed.keys() | exact.keys()):
        named = exact.get(name)
        plan = None if named is None else plan_of(roster, name)
        named_routes = listed[name] if named is None else _routes_of(roster, plan, name, access)
        if serving := _serving(named_routes):
            entry = _entry(name, serving, access) if plan is None else _name_entry(roster, name, plan, serving, access)
            if (encoded := encode(entry, serving)) is not None:
                entries.append(encoded)
            routes += len(serving) + 1
        if routes > SLICE_ROUTES:
            routes = 0
            yield
    return entries


def get_model(roster: Roster, name: str, access: ModelAccess = EVERYTHING) -> ModelFields:
    """Return a model or model name, also while no endpoint with it is online. Raises Refusal (404).

    One that the client may not use does not exist for it.
    """
    entry = find_model(roster, name, access)[0]
    if not may_request(entry, access):
        raise _no_such_model(name)
    return entry


def may_request(entry: ModelFields, access: ModelAccess) -> bool:
    """Return True unless the client may send none of the kinds of requests that a model takes."""
    return access.use is None or bool(entry["supported_apis"])


def find_model(roster: Roster, name: str, access: ModelAccess) -> tuple[ModelFields, Sequence[Route]]:
    """Return the same as `get_model`, and where the model is."""
    if not access.allows_name(name):
        raise _no_such_model(name)
    if (plan := plan_of(roster, name)) is not None:
        named_routes: Sequence[Route] = _routes_of(roster, plan, name, access)
        return _name_entry(roster, name, plan, named_routes, access), named_routes
    routes = access.routes(roster.routes(name), through_name=False)
    if not routes:
        raise _no_such_model(name)
    return _entry(name, routes, access, of=_serving(routes) or routes), routes


def _no_such_model(name: str) -> Refusal:
    return Refusal(404, MODEL_NOT_FOUND, f"The model {name!r} does not exist.", param="model")


def _routes_of(roster: Roster, plan: NamePlan | None, name: str, access: ModelAccess) -> list[Route]:
    """Return the routes of all targets of a model name, those of the first step first."""
    if plan is None or not access.allows_name(name):
        return []
    return _routes_of_leaves(roster, plan.leaves, access)


def _routes_of_leaves(roster: Roster, leaves: Iterable[Leaf], access: ModelAccess) -> list[Route]:
    return list(dict.fromkeys(route for leaf in leaves for route in _routes_of_leaf(roster, leaf, access)))


def _routes_of_leaf(roster: Roster, leaf: Leaf, access: ModelAccess) -> list[Route]:
    if access.use is not None and not access.use.allows_path(leaf.names):
        return []
    routes = access.routes(roster.routes(leaf.model), through_name=True)
    return [route for route in routes if _may_take(route.endpoint.facts, leaf)]


def _may_take(facts: schema.EndpointFacts, leaf: Leaf) -> bool:
    return (
        leaf.endpoint_id in (None, facts.id)
        and (leaf.tag is None or leaf.tag in facts.tags)
        and (leaf.external or not facts.external)
    )


def _name_entry(
    roster: Roster, requested: str, plan: NamePlan, routes: Sequence[Route], access: ModelAccess
) -> ModelFields:
    """Return the entry of a model name, with the facts of its first step.

    Other names of the models that it leads to are none of its own.
    """
    first = _routes_of_leaves(roster, plan.first_leaves, access)
    entry = _entry(requested, routes, access, of=_serving(first) or first)
    entry["canonical_name"], entry["aliases"] = None, []
    if plan.name is not None:
        entry["created"] = int(plan.name.created)
    return entry


def _serving(routes: Sequence[Route]) -> list[Route]:
    return [route for route in routes if route.endpoint.rank < EXCLUDED]


def _entry(
    name: str, routes: Sequence[Route], access: ModelAccess, *, of: Sequence[Route] | None = None
) -> ModelFields:
    """Return the entry of a model or a name. `of`: routes whose models have its facts; None: the same."""
    models = [route.model for route in routes]
    of = routes if of is None else of
    capabilities = {word for model in models for word in model.capabilities}
    apis = supported_apis(capabilities, known=all(model.capabilities for model in models))
    entry = model_payload(
        name,
        [
            ModelOffer(route.endpoint.id, route.model.max_tokens, route.model.canonical, route.model.created)
            for route in routes
        ],
        ready=any(route.endpoint.facts.status == schema.ONLINE for route in _serving(routes)),
        capabilities=sorted(capabilities),
        apis=access.kinds(apis),
        names=filter(access.allows_name, (alias for model in models for alias in (model.id, *model.aliases))),
        facts=facts_of(route.model for route in of),
    )
    if not access.endpoints:
        for field in ENDPOINT_FIELDS:
            del entry[field]  # type: ignore[misc]
    return entry


class ModelOffer(NamedTuple):
    """Facts of a model at one endpoint."""

    endpoint_id: str
    max_tokens: int | None
    canonical_name: str | None
    created: int  # seconds since 1970; 0: unknown


def model_payload(
    name: str,
    offers: Sequence[ModelOffer],
    *,
    ready: bool,
    capabilities: list[str],
    apis: list[str],
    names: Iterable[str],
    facts: ModelFacts,
) -> ModelPayload:
    """Return the entry of a model. `names` has all its names; the first canonical name of `offers` counts."""
    entry: ModelPayload = {
        "id": name,
        "object": "model",
        "owned_by": "routerdash",
        "capabilities": capabilities,
        "supported_apis": apis,
        "max_tokens": max((offer.max_tokens for offer in offers if offer.max_tokens), default=None),
        "canonical_name": next((offer.canonical_name for offer in offers if offer.canonical_name), None),
        "aliases": sorted(set(names) - {name}),
        "endpoint_ids": sorted({offer.endpoint_id for offer in offers}),
        "lifecycle_status": "registered",
        "download_progress": None,
        "ready": ready,
    }
    if created := min((offer.created for offer in offers if offer.created), default=0):
        entry["created"] = created
    return {**entry, **fact_fields(facts, capabilities)}


def supported_apis(capabilities: Iterable[str], *, known: bool) -> list[str]:
    """Return the kinds of requests that a model takes: all, while its capabilities at an endpoint are not `known`."""
    if not known:
        return sorted(_ALL_APIS)
    return sorted({api for word in capabilities for api in _APIS.get(word, ())})
