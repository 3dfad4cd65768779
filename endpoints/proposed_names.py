"""Proposed names for new endpoints."""

from itertools import count
from urllib.parse import urlsplit

from endpoints import clouds
from endpoints.registry import registry
from gateway.base.addresses import normalise_ip
from gateway.providers.table import AZURE


def propose(base_url: str, kind: str | None = None) -> str:
    """Return an unused name from the host; on this machine from the type, which is more specific than `localhost`.

    A cloud's name is its type, and for Azure its resource.
    """
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    cloud = clouds.recognise(base_url)
    if cloud is not None and cloud != AZURE:
        stem = cloud
    elif is_loopback(host):
        stem = kind.replace("_", "-") if kind else f"localhost-{parts.port or parts.scheme}"
    else:
        stem = host if normalise_ip(host) else host.partition(".")[0]
    taken = {entry.name for entry in registry.all()}
    if stem not in taken:
        return stem
    return next(name for number in count(2) if (name := f"{stem}-{number}") not in taken)


def is_loopback(host: str) -> bool:
    ip = normalise_ip(host)
    return host == "localhost" or ip == "::1" or (ip is not None and ip.startswith("127."))
