"""GET /v1/models and /v1/models/{id}: the models that clients can request now, from the roster."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypedDict

import msgspec

from gateway.base.errors import MODEL_NOT_FOUND, Refusal
from gateway.base.request_kinds import CAPABILITIES, KINDS
from gateway.loop.time_slices import Slices, TimeSlices
from gateway.registry import schema
from gateway.routing.balancer import EXCLUDED
from gateway.routing.roster import Roster
from gateway.routing.routes import Route

_APIS = {word: {kind.name for kind in KINDS if kind.capability == word} for word in CAPABILITIES}
_ALL_APIS = {kind.name for kind in KINDS}
SLICE_ROUTES = 500  # of some 10 µs each


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


class ModelList:
    """The response of GET /v1/models, built once for each version of the registry, in time slices."""

    def __init__(self, roster: Roster, time_slices: TimeSlices) -> None:
        self._roster = roster
        self._time_slices = time_slices
        self._version = -1  # of the response
        self._is_building = False
        self._response = b""

    async def response(self) -> bytes:
        """Return the encoded list, of the version at the time of the call or a later one.

        Requests share one build at a time, however often the version changes. Raises Refusal (503).
        """
        wanted = self._roster.version
        while self._version < wanted:
            if self._is_building:
                await self._time_slices.next()
                continue
            self._is_building = True
            building = self._roster.version
            try:
                self._response = await self._time_slices.start_now(listing(self._roster))
                self._version = building
            finally:
                self._is_building = False
        return self._response


def listing(roster: Roster) -> Slices[bytes]:
    """Encode every model that an enabled endpoint can serve, one entry per canonical name, sorted by it."""
    listed: dict[str, list[Route]] = {}
    routes = 0
    for endpoint in list(roster.endpoints.values()):
        models = roster.models(endpoint)
        for model in models:
            listed.setdefault(model.canonical or model.id, []).append(Route(endpoint, model))
        routes += len(models) + 1
        if routes > SLICE_ROUTES:
            routes = 0
            yield
    entries = []
    for name in sorted(listed):
        if serving := _serving(listed[name]):
            entries.append(msgspec.json.encode(_entry(name, serving)))
            routes += len(serving) + 1
        if routes > SLICE_ROUTES:
            routes = 0
            yield
    return b'{"object":"list","data":[%b]}' % b",".join(entries)


def get_model(roster: Roster, name: str) -> ModelPayload:
    """Return a model by any of its names, also while no endpoint with it is online. Raises Refusal (404)."""
    routes = roster.routes(name)
    if not routes:
        raise Refusal(404, MODEL_NOT_FOUND, f"The model {name!r} does not exist.", param="model")
    return {**_entry(name, routes), "id": name}


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
