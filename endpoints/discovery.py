"""Servers on the machine that RouterDash runs on: its usual ports are asked, all at once, none for long.

The ports come from a setting alone, and the address is always 127.0.0.1: whoever may call this can reach nothing else.
"""

import asyncio
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import aiohttp
from django.conf import settings

from endpoints import naming, operations, probe
from endpoints.detection import Locked, Unsupported
from endpoints.models import Kind
from endpoints.probe import Probe, Unreachable
from endpoints.registry import Entry, registry
from endpoints.sync import Offered

HOST = "127.0.0.1"
ANSWER_SECONDS = 1.0  # a question; a server on this machine needs milliseconds
PORT_SECONDS = 3.0  # all questions to one port

USUAL_PORTS = {
    11434: Kind.OLLAMA,
    1234: Kind.LM_STUDIO,
    8000: Kind.VLLM,
    8080: Kind.LLAMACPP,
    9996: Kind.XLLM,
}


@dataclass(frozen=True, slots=True)
class Place:
    """One port. `listens` without a type: something answers, and `problem` says why it cannot be added as it is."""

    port: int
    endpoint_type: Kind | None = None
    latency_ms: int | None = None
    models: list[Offered] = field(default_factory=list)
    slots: int | None = None
    listens: bool = False
    problem: str | None = None
    locked: bool = False  # it wants its key first
    name: str | None = None
    registered: Entry | None = None

    @property
    def usual(self) -> Kind | None:
        return USUAL_PORTS.get(self.port)

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}"


def discover() -> list[Place]:
    """What is at each port, in the order of the setting. RouterDash itself is left out: it would ask itself."""
    ports = [port for port in settings.ROUTERDASH.discover_ports if port != settings.ROUTERDASH.port]

    async def ask() -> list[Place]:
        async with probe.session() as session:
            return await asyncio.gather(*(_look(session, port) for port in ports))

    known = {urlsplit(entry.base_url).port: entry for entry in registry.all() if _is_here(entry)}
    return [_named(replace(place, registered=known.get(place.port))) for place in asyncio.run(ask())]


async def _look(session: aiohttp.ClientSession, port: int) -> Place:
    place = Place(port)
    try:
        found = await operations.look_with(Probe(session, place.base_url, timeout=ANSWER_SECONDS), PORT_SECONDS)
    except Unreachable as error:
        return replace(place, listens=str(error) != "connection refused", problem=str(error))
    except Unsupported as error:
        return replace(place, listens=True, problem=str(error), locked=isinstance(error, Locked))
    return replace(
        place,
        endpoint_type=found.kind,
        latency_ms=found.latency_ms,
        models=found.models,
        slots=found.slots,
        listens=True,
        problem=found.problem,
    )


def _named(place: Place) -> Place:
    if place.endpoint_type is None or place.registered is not None:
        return place
    return replace(place, name=naming.propose(place.base_url, place.endpoint_type))


def _is_here(entry: Entry) -> bool:
    return naming.is_loopback(urlsplit(entry.base_url).hostname or "")
