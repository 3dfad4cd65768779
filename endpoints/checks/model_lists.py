"""Reading of model lists: OpenAI's `{data: […]}`, Ollama's and Gemini's `{models: […]}`, or a bare list.

Clouds split their lists into pages, report more about a model, and mark models that are gone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from endpoints import engines
from endpoints.capabilities import FEATURES, NEEDS, features, normalise
from endpoints.clouds import allowed_models
from endpoints.models import BAD_MODEL_NAMES, MAX_MODEL_NAME, MAX_MODELS, TOO_MANY_MODELS
from endpoints.probe import ProbeResponse
from gateway.base import causes
from gateway.base.request_kinds import THINKING, TOOLS, VISION

MAX_PAGES = 20
PREFIX = "models/"  # of Gemini's ids; requests take them without it
_NAMES = ("id", "name", "model")
_LENGTHS = ("max_model_len", "max_context_length", "context_length", "context_window", "max_input_tokens")
_LENGTHS_OF_CLOUDS = ("inputTokenLimit", "context_size")
_OUTPUTS = ("max_output_tokens", "max_completion_tokens", "max_output_length", "outputTokenLimit")
_TOKENS = ("nextPageToken", "pageToken"), ("next_cursor", "after")  # in the response, and in the next request


class SyncFailed(Exception):
    """The endpoint responded, but not with a list of models."""


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as its endpoint lists it."""

    id: str
    max_tokens: int | None = None
    capabilities: tuple[str, ...] = ()  # as the server reports them; empty: it reports none
    responded: bool = True  # False: the server's own API, which may report more, did not respond
    max_output_tokens: int | None = None
    lacks: tuple[str, ...] = ()  # of endpoints.capabilities.NEEDS
    features: tuple[str, ...] = ()  # of endpoints.capabilities.FEATURES


def parse(response: ProbeResponse) -> list[ListedModel]:
    """Return the models of a list of one page, at most MAX_MODELS. Raises SyncFailed if it is none."""
    return read([response])[0]


def read(
    pages: Sequence[ProbeResponse], allowed: Sequence[str] | None = None, *, is_cloud: bool = False
) -> tuple[list[ListedModel], str | None]:
    """Return the allowed models, and a remark (one of REMARKS) if others are left out. Raises SyncFailed."""
    listed = [_items(page, is_cloud) for page in pages]
    items = [item for _, some in listed for item in some]
    models, remarks, is_named = _unique(items, listed[0][0], allowed, is_cloud)
    if items and not is_named:
        raise SyncFailed(causes.NO_MODEL_NAMES)
    if any(page.cut for page in pages) and TOO_MANY_MODELS not in remarks:
        remarks.insert(0, TOO_MANY_MODELS)
    return models, "; ".join(remarks) or None


def _items(response: ProbeResponse, is_cloud: bool) -> tuple[tuple[str, ...], list[object]]:
    """Return the fields in which an item may have its name, and the items of a page. Raises SyncFailed."""
    body = response.body
    if is_cloud and isinstance(body, list):
        return _NAMES, body
    for key, names in (("data", ("id",)), ("models", ("name", "model"))):
        if isinstance(body, dict) and isinstance(items := body.get(key), list):
            return _NAMES if is_cloud else names, items
    if response.cut:
        raise SyncFailed(causes.LARGE_MODEL_LIST)
    raise SyncFailed(causes.NO_MODEL_LIST)


def _unique(
    items: Iterable[object], keys: Sequence[str], allowed: Sequence[str] | None, is_cloud: bool
) -> tuple[list[ListedModel], list[str], bool]:
    """Return the models, remarks, and whether any item has a name."""
    models: dict[str, ListedModel] = {}
    bad_names = is_named = False
    for item in items:
        if not isinstance(item, dict):
            continue
        names = (item.get(key) for key in keys)
        if (name := next((candidate for candidate in names if isinstance(candidate, str) and candidate), None)) is None:
            continue
        is_named = True
        name = name.removeprefix(PREFIX) if is_cloud else name
        if name in models or not name or (is_cloud and _is_gone(item)) or not allowed_models.matches(allowed, name):
            continue
        if len(name) > MAX_MODEL_NAME or not name.isprintable():
            bad_names = True
        elif len(models) == MAX_MODELS:
            return list(models.values()), [TOO_MANY_MODELS, *[BAD_MODEL_NAMES] * bad_names], True
        else:
            models[name] = _model(name, item, is_cloud)
    return list(models.values()), [BAD_MODEL_NAMES] * bad_names, is_named


def _model(name: str, item: Mapping[str, Any], is_cloud: bool) -> ListedModel:
    listed = ListedModel(name, _length_in(item), _capabilities_in(item, is_cloud), max_output_tokens=_output_in(item))
    if is_cloud:
        has = _flags_in(item)
        lacks = tuple(word for word in NEEDS if False in has[word] and True not in has[word])
        able = tuple(word for word in FEATURES if True in has[word])
        return replace(listed, lacks=lacks, features=able)
    return replace(listed, features=features(item.get("capabilities")))


def _output_in(item: Mapping[str, Any]) -> int | None:
    """Return the most output tokens of a model, which clouds and other routers list."""
    provider = item.get("top_provider")  # of OpenRouter
    candidates = [item.get(key) for key in _OUTPUTS]
    if "max_input_tokens" in item:  # of Anthropic, where the other name is of the output
        candidates.append(item.get("max_tokens"))
    if isinstance(provider, dict):
        candidates.append(provider.get("max_completion_tokens"))
    return next((value for value in candidates if engines.is_length(value)), None)


def _flags_in(item: Mapping[str, Any]) -> dict[str, list[bool | None]]:
    """Return the flags of each feature that a cloud reports; None: it does not."""
    able, architecture = item.get("capabilities"), item.get("architecture")
    able, architecture = (section if isinstance(section, dict) else {} for section in (able, architecture))
    inputs = item.get("input_modalities", architecture.get("input_modalities"))
    parameters = item.get("supported_parameters")
    has = {
        TOOLS: [_is_supported(able.get("function_calling"))],
        VISION: [_is_supported(able.get("vision")), _is_supported(able.get("image_input"))],
        THINKING: [_is_supported(able.get("thinking")), _is_supported(able.get("reasoning"))],
    }
    if isinstance(parameters, list) and parameters:
        has[TOOLS].append("tools" in parameters)
        has[THINKING].append("reasoning" in parameters)
    if isinstance(inputs, list) and inputs:
        has[VISION].append("image" in inputs)
    return has


def _is_supported(value: object) -> bool | None:
    """Return whether a flag is set: Anthropic writes an object with one. None: it is not reported."""
    if isinstance(value, dict):
        value = value.get("supported")
    return value if isinstance(value, bool) else None


def _length_in(item: Mapping[str, Any]) -> int | None:
    meta = item.get("meta")
    candidates = [item.get(key) for key in (*_LENGTHS, *_LENGTHS_OF_CLOUDS)]
    if isinstance(meta, dict):
        candidates += [meta.get("n_ctx"), meta.get("n_ctx_train")]
    return next((value for value in candidates if engines.is_length(value)), None)


def _capabilities_in(item: Mapping[str, Any], is_cloud: bool) -> tuple[str, ...]:
    """Return the reported capabilities. Clouds have them as an object of flags, or as a type."""
    words = item.get("capabilities")
    if not is_cloud:
        return normalise(words)
    if isinstance(words, dict):
        words = [word for word, value in words.items() if value is True]
    return normalise(words) or normalise([item.get("type")])


def _is_gone(item: Mapping[str, Any]) -> bool:
    """Return True for a model that is listed, but answers no requests any more."""
    return item.get("lifecycle") == "retired" or item.get("active") is False


# Pages


def next_page(body: object, path: str) -> str | None:
    """Return path and query of the next page after this one; None if it was the last. `path`: of the first page.

    Only the query of an address that a cloud names is used, so that it leads nowhere else.
    """
    if not isinstance(body, dict):
        return None
    if body.get("has_more") is True and isinstance(last := body.get("last_id"), str):
        return _with_query(path, {"after_id": last})
    for key, parameter in _TOKENS:
        if isinstance(token := body.get(key), str) and token:
            return _with_query(path, {parameter: token})
    links = body.get("links")
    if isinstance(links, dict) and isinstance(address := links.get("next"), str) and address:
        try:
            return _with_query(path, dict(parse_qsl(urlsplit(address).query)))
        except ValueError:
            return None
    return None


def _with_query(path: str, parameters: Mapping[str, str]) -> str:
    bare, _, query = path.partition("?")
    return f"{bare}?{urlencode(dict(parse_qsl(query)) | dict(parameters))}"
