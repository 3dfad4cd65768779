"""Discovery of servers at the usual ports of the machine that RouterDash runs on; all ports are queried in parallel.

The ports come only from a setting, and the address is always 127.0.0.1, so a caller can reach nothing else.
"""

import asyncio
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from django.conf import settings

from endpoints import operations, probe, proposed_names
from endpoints.checks.model_lists import ListedModel
from endpoints.detection import KeyRequired, Unsupported
from endpoints.models import Kind
from endpoints.probe import Probe, ProbeSession, Unreachable
from endpoints.registry import Entry, registry

HOST = "127.0.0.1"
REQUEST_SECONDS = 1.0  # timeout of one request; a server on this machine needs milliseconds
PORT_SECONDS = 3.0  # timeout of all requests to one port

USUAL_PORTS = {
    11434: Kind.OLLAMA,
    1234: Kind.LM_STUDIO,
    8000: Kind.VLLM,
    8080: Kind.LLAMACPP,
    9996: Kind.XLLM,
}


@dataclass(frozen=True, slots=True)
class Place:
    """One port. If `listens` is set without a type, `problem` states why the server there cannot be added as it is."""

    port: int
    endpoint_type: str | None = None
    latency_ms: int | None = None
    models: list[ListedModel] = field(default_factory=list)
    slots: int | None = None
    listens: bool = False
    problem: str | None = None
    locked: bool = False  # it requires its API key first
    name: str | None = None
    registered: Entry | None = None
    assumed_slots: int | None = None

    @property
    def usual(self) -> Kind | None:
        return USUAL_PORTS.get(self.port)

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}"


def discover() -> list[Place]:
    """Return the result for each port, in the order of the setting.

    The port of RouterDash is left out, because RouterDash would query itself.
    """
    ports = [port for port in settings.ROUTERDASH.discover_ports if port != settings.ROUTERDASH.port]

    async def run() -> list[Place]:
        async with probe.session() as session:
            return await asyncio.gather(*(_inspect(session, port) for port in ports))

    registered = {urlsplit(entry.base_url).port: entry for entry in registry.all() if _is_local(entry)}
    return [_named(replace(place, registered=registered.get(place.port))) for place in asyncio.run(run())]


async def _inspect(session: ProbeSession, port: int) -> Place:
    place = Place(port)
    try:
        server = await operations.inspect_with(Probe(session, place.base_url, timeout=REQUEST_SECONDS), PORT_SECONDS)
    except Unreachable as error:
        return replace(place, listens=str(error) != "connection refused", problem=str(error))
    except Unsupported as error:
        return replace(place, listens=True, problem=str(error), locked=isinstance(error, KeyRequired))
    return replace(
        place,
        endpoint_type=server.kind,
        latency_ms=server.latency_ms,
        models=server.models,
        slots=server.slots,
        assumed_slots=server.assumed_slots,
        listens=True,
        problem=server.problem,
    )


def _named(place: Place) -> Place:
    if place.endpoint_type is None or place.registered is not None:
        return place
    return replace(place, name=proposed_names.propose(place.base_url, place.endpoint_type))


def _is_local(entry: Entry) -> bool:
    return proposed_names.is_loopback(urlsplit(entry.base_url).hostname or "")
