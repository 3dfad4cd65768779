"""What clients of Ollama's API read before they chat: the models, one model, those in memory, and the version."""

import hashlib
from collections.abc import Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.base import errors
from gateway.base.errors import Refusal
from gateway.base.request_kinds import CAN_CHAT, CAN_EMBED, OLLAMA_KINDS, THINKING, TOOLS, VISION
from gateway.dialects.ollama.requests import tagged
from gateway.dialects.openai_requests import MAX_MODEL_NAME
from gateway.http.exchange import JSON, Exchange, HttpRoute
from gateway.http.key_permissions import model_access
from gateway.http.ollama.paths import ROOT
from gateway.inference.ollama.showing import PRIVATE, ShownModels, show
from gateway.inference.request import Api
from gateway.inference.services import Services
from gateway.loop.time_slices import Slices
from gateway.registry import schema
from gateway.registry.patterns import names_of
from gateway.registry.schema import Model, ref
from gateway.routing.balancer import OPEN
from gateway.routing.lists.built_lists import BuiltList
from gateway.routing.lists.model_access import ModelAccess
from gateway.routing.model_list import ModelFields, entries_of, find_model
from gateway.routing.roster import Roster, plan_of
from gateway.routing.routes import Route

VERSION = "0.33.0"  # of Ollama, whose API this is
TEXT = (b"content-type", b"text/plain; charset=utf-8")
OLLAMA = "ollama"  # type of an endpoint
MAX_SHOW_BYTES = 64 << 10  # of the request
NEVER = "9999-12-31T23:59:59Z"
# Types of servers that load a model when it is needed. All others have theirs in memory while they are online.
_LOADING = frozenset((OLLAMA, "lm_studio"))
_ARCHITECTURE = "routerdash"  # stands for the unknown one of a model
_FORBIDDEN = (
    "Models are not pulled, created, copied, pushed or deleted through RouterDash. Do that on the server itself; "
    "RouterDash then finds the model at the next sync."
)
_MANAGED = (b"pull", b"push", b"create", b"copy", b"delete")


class _Shown(msgspec.Struct):
    """The body of /api/show."""

    model: str = ""
    name: str = ""  # the older name of the field


_decode_shown = msgspec.json.Decoder(_Shown).decode
_encode = msgspec.json.Encoder().encode


class OllamaLists:
    """Handlers of these paths."""

    def __init__(self, services: Services, api: Api) -> None:
        """`api`: that of the details of a model."""
        self._services = services
        self._api = api
        self._roster = services.roster
        self._time_slices = services.time_slices
        self._tags = _TagList(services.roster, services.time_slices)
        self._shown = ShownModels()

    def routes(self, permission: str) -> Mapping[bytes, HttpRoute]:
        """Return the routes by path. `permission`: that of the lists."""
        return {
            ROOT: HttpRoute(b"GET", "", self._running),
            ROOT + b"api/version": HttpRoute(b"GET", "", self._get_version),
            ROOT + b"api/tags": HttpRoute(b"GET", permission, self._list_tags),
            ROOT + b"api/ps": HttpRoute(b"GET", permission, self._list_loaded),
            ROOT + b"api/show": HttpRoute(b"POST", permission, self._show, any_type=True),
            **{
                ROOT + b"api/" + name: HttpRoute(b"POST, DELETE", permission, self._refuse, any_type=True)
                for name in _MANAGED
            },
        }

    async def _running(self, exchange: Exchange) -> None:
        exchange.reply(200, (TEXT, PRIVATE), b"Ollama is running")

    async def _get_version(self, exchange: Exchange) -> None:
        exchange.reply(200, (JSON, PRIVATE), _encode({"version": VERSION}))

    async def _list_tags(self, exchange: Exchange) -> None:
        exchange.reply(200, (JSON, PRIVATE), await self._tags.current(model_access(exchange)))

    async def _list_loaded(self, exchange: Exchange) -> None:
        loaded = await self._time_slices.start_now(_listing_loaded(self._roster, model_access(exchange)))
        exchange.reply(200, (JSON, PRIVATE), loaded)

    def _show(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        body = exchange.take_body()
        if len(body) > MAX_SHOW_BYTES:  # it is decoded at once
            raise Refusal(413, errors.REQUEST_TOO_LARGE, f"The body has more than {MAX_SHOW_BYTES:,} bytes.")
        try:
            shown = _decode_shown(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(
                400, errors.INVALID_REQUEST, f"The body is not a JSON object with `model`: {error}."
            ) from None
        name = shown.model or shown.name
        if not name:
            raise Refusal(400, errors.INVALID_REQUEST, "`model` must name a model; GET /api/tags lists them.")
        if len(name) > MAX_MODEL_NAME:
            raise Refusal(400, errors.INVALID_REQUEST, f"`model` has more than {MAX_MODEL_NAME} characters.")
        access = model_access(exchange)
        known, model, routes = _find(self._roster, name, access)
        ollama_route, details = self._at_ollama(known, access), _encode(_details_of(model, routes))
        return show(self._services, self._shown, self._api, exchange, known, ollama_route, details)

    def _at_ollama(self, name: str, access: ModelAccess) -> Route | None:
        """Return the route to an Ollama that has the model. External ones are not asked."""
        if plan_of(self._roster, name) is not None:
            return None
        for route in access.routes(self._roster.routes(name), through_name=False):
            endpoint = route.endpoint
            if endpoint.facts.kind == OLLAMA and endpoint.rank < OPEN and not endpoint.facts.external:
                return route
        return None

    def _refuse(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        raise Refusal(403, errors.PERMISSION_DENIED, _FORBIDDEN)


class _TagList(BuiltList[bytes]):
    def build(self, roster: Roster, access: ModelAccess) -> Slices[bytes]:
        return _listing_tags(roster, access)

    def size(self, built: bytes) -> int:
        return len(built)


def _listing_tags(roster: Roster, access: ModelAccess) -> Slices[bytes]:
    """Encode the models of GET /v1/models as Ollama lists them."""

    def encode(model: ModelFields, routes: Sequence[Route]) -> bytes | None:
        if not _may_request(model, access):
            return None
        entry = _entry(model["id"], model.get("created", 0), model.get("context_length"))
        return _encode({**entry, "capabilities": _words(model["capabilities"], routes)})

    return b'{"models":[%b]}' % b",".join((yield from entries_of(roster, encode, access)))


def _may_request(model: ModelFields, access: ModelAccess) -> bool:
    """Return True unless the client may send none of the kinds of requests of this API that a model takes."""
    can = model["capabilities"]
    kinds = [kind.name for kind in OLLAMA_KINDS if not can or kind.capability in can]
    return access.use is None or bool(access.kinds(kinds))


def _listing_loaded(roster: Roster, access: ModelAccess) -> Slices[bytes]:
    """Encode the models that endpoints have in memory, as far as that is known."""
    by_name: dict[str, tuple[Model, str]] = {}
    for endpoint in list(roster.endpoints.values()):
        facts = endpoint.facts
        if facts.status != schema.ONLINE or facts.operator_state == schema.DISABLED:
            continue
        loaded = roster.reader.engine(ref(endpoint.id)).loaded
        if loaded is None and facts.kind in _LOADING:
            continue
        for model in roster.models(endpoint):
            is_loaded = loaded is None or model.id in loaded
            if is_loaded and (name := access.name_of(model, facts)) is not None:
                by_name.setdefault(name, (model, endpoint.id))
        yield
    entries = []
    for name, (model, _) in sorted(by_name.items()):
        entry = _entry(name, 0, model.max_tokens)
        kept = {key: entry[key] for key in ("name", "model", "size", "digest", "details")}
        context = {"context_length": model.max_tokens} if model.max_tokens else {}
        entries.append({**kept, "expires_at": NEVER, "size_vram": 0, **context})
    return _encode({"models": entries})


def _find(roster: Roster, name: str, access: ModelAccess) -> tuple[str, ModelFields, Sequence[Route]]:
    """Return a model by its name, with `:latest` or without: the name that is known, the model, and where it is.

    Raises Refusal (404).
    """
    for known in names_of(name):
        try:
            return known, *find_model(roster, known, access)
        except Refusal as refusal:
            if refusal.status != 404:
                raise
    raise Refusal(404, errors.MODEL_NOT_FOUND, f"model {name!r} not found", param="model")


def _entry(name: str, created: int, context: int | None) -> Mapping[str, Any]:
    """Return a model of the list, without its capabilities. Its size is not known; the digest is one of its name."""
    return {
        "name": tagged(name),
        "model": tagged(name),
        "modified_at": _time(created),
        "size": 0,
        "digest": hashlib.sha256(name.encode()).hexdigest(),
        "details": _details(context),
    }


def _details(context: int | None) -> Mapping[str, Any]:
    more = {} if context is None else {"context_length": context}
    return {
        "parent_model": "",
        "format": "",
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": "",
        **more,
    }


def _words(capabilities: Sequence[str], routes: Sequence[Route]) -> list[str]:
    """Return capabilities in Ollama's words. Those of a model without any are unknown: it may well chat.

    Clients only offer tools to a model with that word. So it is left out where the model lacks them for certain; where
    that is unknown, the server decides. Images and thinking are stated where a server reports them.
    """
    words = []
    if CAN_CHAT in capabilities or not capabilities:
        models = [route.model for route in routes]
        words.append("completion")
        if not all(TOOLS in model.lacks for model in models):
            words.append(TOOLS)
        words += [word for word in (VISION, THINKING) if any(word in model.features for model in models)]
    if CAN_EMBED in capabilities:
        words.append("embedding")
    return words


def _details_of(model: ModelFields, routes: Sequence[Route]) -> Mapping[str, Any]:
    """Return what /api/show says about a model."""
    context = model.get("context_length")
    info: dict[str, Any] = {"general.architecture": _ARCHITECTURE, "general.basename": model["id"]}
    if context is not None:
        info[f"{_ARCHITECTURE}.context_length"] = context
    return {
        "license": "",
        "modelfile": "",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "system": "",
        "details": _details(context),
        "model_info": info,
        "capabilities": _words(model["capabilities"], routes),
        "modified_at": _time(model.get("created", 0)),
    }


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
