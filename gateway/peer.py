"""Who is asking, and for which host: the one place that reads forwarding and Host headers."""

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from gateway.config import Config, IPNetwork

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Peer:
    ip: str | None
    scheme: str  # http or https, as the client's browser sees it


UNKNOWN = Peer(None, "http")
MAX_KNOWN = 10_000  # addresses, and names of hosts, that were looked at before


def normalise_ip(text: str) -> str | None:
    """An address in its shortest form, an IPv4-mapped IPv6 one as IPv4; None for what is no address."""
    try:
        address = ipaddress.ip_address(text.strip().strip("[]"))
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


@lru_cache(maxsize=8192)
def client_of(address: str) -> str:
    """The client that an address belongs to: itself, of IPv6 its /64, within which a machine changes it as it likes."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address  # of a journal that was made by hand
    if isinstance(found, ipaddress.IPv4Address) or found.is_loopback:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))


class Peers:
    """Finds the client behind trusted proxies: the rightmost forwarded address that is not a trusted proxy itself."""

    def __init__(self, trusted: Sequence[IPNetwork], scheme: str = "http") -> None:
        """`scheme`: what is spoken on the socket itself."""
        self._trusted = trusted
        self._scheme = scheme
        self._known: dict[str, tuple[Peer, bool]] = {}  # address of a socket -> the peer itself, and is it a proxy?

    def of(self, socket_ip: str | None, headers: Headers) -> Peer:
        if socket_ip is None:
            return UNKNOWN
        peer, proxy = self._known.get(socket_ip) or self._meet(socket_ip)
        return self._behind(peer, headers) if proxy else peer

    def is_proxy(self, socket_ip: str) -> bool:
        """Is this a trusted one?"""
        return (self._known.get(socket_ip) or self._meet(socket_ip))[1]

    def _meet(self, socket_ip: str) -> tuple[Peer, bool]:
        ip = normalise_ip(socket_ip)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        found = self._known[socket_ip] = Peer(ip, self._scheme), ip is not None and _within(ip, self._trusted)
        return found

    def _behind(self, proxy: Peer, headers: Headers) -> Peer:
        ip = proxy.ip
        forwarded: list[str] = []
        scheme = proxy.scheme
        for name, value in headers:
            if name == b"x-forwarded-for":
                forwarded += value.decode("latin-1").split(",")
            elif name == b"x-forwarded-proto" and value.strip().lower() == b"https":
                scheme = "https"
        for hop in reversed(forwarded):
            address = normalise_ip(hop)
            if address is None:
                break  # what stands left of nonsense is nonsense
            ip = address
            if not _within(ip, self._trusted):
                break
        return Peer(ip, scheme)


def _within(ip: str, networks: Sequence[IPNetwork]) -> bool:
    address = ipaddress.ip_address(ip)
    return any(address in network for network in networks)


class Crowd:
    """Counts the connections of each client (of IPv6 a /64), of which nobody may have more than a limit; 0: there is
    none.
    """

    def __init__(self, limit: int, peers: Peers) -> None:
        self._limit = limit
        self._peers = peers
        self._connections: dict[str, int] = {}

    def enter(self, socket_ip: str | None) -> bool:
        """May it connect once more? A trusted proxy, who speaks for many, always may. If so, `leave` must follow."""
        if not self._limit or socket_ip is None:
            return True
        client = client_of(socket_ip)
        count = self._connections.get(client, 0)
        if count >= self._limit and not self._peers.is_proxy(socket_ip):
            return False
        self._connections[client] = count + 1
        return True

    def leave(self, socket_ip: str | None) -> None:
        if not self._limit or socket_ip is None:
            return
        client = client_of(socket_ip)
        count = self._connections.pop(client)
        if count > 1:
            self._connections[client] = count - 1

    def is_proxy(self, socket_ip: str) -> bool:
        return self._peers.is_proxy(socket_ip)


_HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


class Hosts:
    """Which names the Host header may bear. An IP address always may: DNS rebinding needs a name."""

    def __init__(self, config: Config) -> None:
        names = {"localhost", socket.gethostname().lower(), config.host.lower()}
        if config.public_url:
            names.add(urlsplit(config.public_url).hostname or "")
        self._any = "*" in config.allowed_hosts
        self._names = names | {host.lower() for host in config.allowed_hosts if not host.startswith(".")}
        self._suffixes = tuple(host.lower() for host in config.allowed_hosts if host.startswith("."))
        self._allowed: set[bytes] = set()  # headers that were

    def allow(self, header: bytes) -> bool:
        if header in self._allowed:
            return True
        found = _HOST.fullmatch(header)
        if found is None or int(found[1] or 0) > 65535:
            return False
        if not self._allows(host_name(header.decode("latin-1"))):
            return False
        if len(header) < 256 and len(self._allowed) < MAX_KNOWN:
            self._allowed.add(header)
        return True

    def _allows(self, name: str) -> bool:
        if self._any or name in self._names or normalise_ip(name) is not None:
            return True
        return bool(self._suffixes) and ("." + name).endswith(self._suffixes)


def host_name(host: str) -> str:
    """`Host` without its port, lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0][1:]
    return host.partition(":")[0].rstrip(".")
