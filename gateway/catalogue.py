"""GET /v1/models and /v1/models/{id}: what can be asked for now, from the roster."""

from collections.abc import Sequence
from typing import Any

from gateway import snapshot
from gateway.balancer import EXCLUDED
from gateway.errors import MODEL_NOT_FOUND, Refusal
from gateway.kinds import CAPABILITIES, KINDS
from gateway.roster import Roster, Route

_APIS = {word: {kind.name for kind in KINDS if kind.capability == word} for word in CAPABILITIES}
_ALL_APIS = {kind.name for kind in KINDS}


def list_models(roster: Roster) -> dict[str, Any]:
    """Every model that some enabled endpoint can serve, one entry a canonical name, sorted by it."""
    listed = roster.models()
    entries = [_entry(name, routes) for name in sorted(listed) if (routes := _serving(listed[name]))]
    return {"object": "list", "data": entries}


def get_model(roster: Roster, name: str) -> dict[str, Any]:
    """One model, by any of its names, also while nothing that has it is online. Raises Refusal (404)."""
    routes = roster.routes(name)
    if not routes:
        raise Refusal(404, MODEL_NOT_FOUND, f"The model {name!r} does not exist.", param="model")
    return _entry(name, routes) | {"id": name}


def _serving(routes: Sequence[Route]) -> list[Route]:
    return [route for route in routes if route.endpoint.rank < EXCLUDED]


def _entry(name: str, routes: Sequence[Route]) -> dict[str, Any]:
    models = [route.model for route in routes]
    capabilities = {word for model in models for word in model.capabilities}
    names = {alias for model in models for alias in (model.id, *model.aliases)}
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "routerdash",
        "lifecycle_status": "registered",
        "download_progress": None,
        "ready": any(route.endpoint.facts.status == snapshot.ONLINE for route in _serving(routes)),
        "capabilities": sorted(capabilities),
        "supported_apis": sorted({api for model in models for api in _apis(model)}),
        "max_tokens": max((model.max_tokens for model in models if model.max_tokens), default=None),
        "endpoint_ids": sorted({route.endpoint.id for route in routes}),
        "canonical_name": next((model.canonical for model in models if model.canonical), None),
        "aliases": sorted(names - {name}),
    }


def _apis(model: snapshot.Model) -> set[str]:
    """The kinds of requests that go to it: all, while its capabilities are unknown."""
    if not model.capabilities:
        return _ALL_APIS
    return {api for word in model.capabilities for api in _APIS.get(word, ())}
