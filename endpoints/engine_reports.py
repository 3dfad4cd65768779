"""What engines report about the present: models in memory, and requests that run and wait there.

| engine | models in memory | requests |
|---|---|---|
| Ollama | `/api/ps` | |
| LM Studio | `/api/v1/models`, before release 0.4 `/api/v0/models` | |
| llama.cpp as a router | `/models` | |
| llama.cpp | | `/slots` |
| vLLM, SGLang, TGI | | `/metrics` |

A server that does not report something is no failure.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from endpoints.models import Kind
from endpoints.probe import Probe, ProbeResponse

MAX_MODELS = 1000  # in memory
_ABSENT = (404, 405, 501)
# Names of gauges: vLLM, SGLang, TGI, llama.cpp. Each data-parallel engine of a server has its own line.
_requests = re.compile(
    rb"^(?:vllm:num_requests_(?:running|waiting)|sglang:num_(?:running|queue)_reqs"
    rb"|tgi_(?:queue_size|batch_current_size)|llamacpp:requests_(?:processing|deferred))"
    rb"(?:\{[^\n]*\})?[ \t]+([0-9.eE+-]{1,24})",
    re.MULTILINE,
).findall


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What an engine reported. None: it does not report that."""

    loaded: tuple[str, ...] | None = None  # ids of models in memory, least recently used first if that is reported
    loading: tuple[str, ...] = ()
    requests: int | None = None  # of all clients, running and waiting

    @property
    def is_empty(self) -> bool:
        """True if the engine reports nothing of this."""
        return self.loaded is None and self.requests is None


@dataclass(frozen=True, slots=True)
class EngineReading:
    """What an endpoint's engine last reported, for people. None: it does not report that."""

    loaded: tuple[str, ...] | None  # the endpoint's own ids of models in memory, least recently used first
    loading: tuple[str, ...]
    others: int | None  # requests there that are not RouterDash's, running and waiting
    read_at: datetime  # of the last report


NOTHING = EngineReport()
POLLED_KINDS = frozenset((Kind.OLLAMA, Kind.LM_STUDIO, Kind.LLAMACPP, Kind.VLLM, Kind.OPENAI_COMPATIBLE))


async def read_engine(probe: Probe, kind: str) -> EngineReport | None:
    """Read what an engine of this type reports. None: its response cannot be used now. Raises Unreachable."""
    if kind == Kind.OLLAMA:
        return _report(await probe.get("/api/ps"), _ollama)
    if kind == Kind.LM_STUDIO:
        response = await probe.get("/api/v1/models")
        if response.status in _ABSENT:
            response = await probe.get("/api/v0/models")
        return _report(response, _lm_studio)
    if kind == Kind.LLAMACPP:
        return await _llamacpp(probe)
    return await _metrics(probe)


def _report(response: ProbeResponse, read: Any) -> EngineReport | None:
    if response.status in _ABSENT:
        return NOTHING
    return read(response.body) if response.ok and not response.cut else None


def _items(body: object, *keys: str) -> list[Mapping[str, Any]] | None:
    """Return the objects of the first list with one of these keys; None if there is no list."""
    if not isinstance(body, dict):
        return None
    items = next((body[key] for key in keys if isinstance(body.get(key), list)), None)
    return None if items is None else [item for item in items if isinstance(item, dict)]


def _names(names: Sequence[object]) -> tuple[str, ...]:
    return tuple([name for name in names if isinstance(name, str)][:MAX_MODELS])


def _ollama(body: object) -> EngineReport | None:
    """Read `/api/ps`. The model whose time in memory ends first was used least recently."""
    items = _items(body, "models")
    if items is None:
        return None
    items.sort(key=lambda item: str(item.get("expires_at", "")))
    return EngineReport(_names([item.get("model") or item.get("name") for item in items]))


def _lm_studio(body: object) -> EngineReport | None:
    """Read the list of release 0.4 (`models`) or of an earlier one (`data`)."""
    items = _items(body, "models", "data")
    if items is None:
        return None
    names: list[object] = []
    loading: list[object] = []
    for item in items:
        instances = item.get("loaded_instances")
        if isinstance(instances, list) and instances:
            names += [item.get("key"), *(instance.get("id") for instance in instances if isinstance(instance, dict))]
        elif item.get("state") == "loaded":
            names.append(item.get("id"))
        elif item.get("state") == "loading":
            loading.append(item.get("id"))
    return EngineReport(tuple(dict.fromkeys(_names(names))), _names(loading))


async def _llamacpp(probe: Probe) -> EngineReport | None:
    """Read the slots of a server with one model, or the models of a router, which has no slots of its own."""
    response = await probe.get("/slots")
    if response.ok and isinstance(response.body, list):
        slots = [slot for slot in response.body if isinstance(slot, dict)]
        return EngineReport(requests=sum(slot.get("is_processing") is True for slot in slots))
    if response.status == 503:  # it loads its only model
        return None
    listed = await probe.get("/models")
    return None if not listed.ok else _llamacpp_router(listed.body)


def _llamacpp_router(body: object) -> EngineReport:
    names_by_state: dict[str, list[object]] = {"loaded": [], "loading": []}
    is_router = False
    for item in _items(body, "data") or ():
        status = item.get("status")
        if isinstance(status, dict) and isinstance(status.get("value"), str):
            is_router = True
            names_by_state.setdefault(status["value"], []).append(item.get("id"))
    return EngineReport(_names(names_by_state["loaded"]), _names(names_by_state["loading"])) if is_router else NOTHING


async def _metrics(probe: Probe) -> EngineReport | None:
    status, body = await probe.get_text("/metrics")
    if status in _ABSENT or status in (401, 403):
        return NOTHING
    return read_metrics(body) if status == 200 else None


def read_metrics(body: bytes) -> EngineReport:
    """Return the requests that the metrics of an engine show (Prometheus text format)."""
    values = []
    for raw in _requests(body):
        try:
            values.append(float(raw))
        except ValueError:
            continue
    plausible = [value for value in values if 0 <= value < 1e9]
    return EngineReport(requests=round(sum(plausible))) if plausible else NOTHING
