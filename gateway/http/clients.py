"""Client address behind trusted proxies, bound of connections per client, and check of the Host header.

No other module reads forwarding headers.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.base.addresses import client_of, normalise_ip
from gateway.base.config import Config
from gateway.base.setting_parsers import IPNetwork

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Peer:
    """The client that sent a request."""

    ip: str | None
    scheme: str  # http or https, as the client's browser sees it


UNKNOWN = Peer(None, "http")
MAX_CACHED = 10_000  # addresses, and Host headers, whose check is cached


class TrustedProxies:
    """Finds the client behind trusted proxies: the rightmost forwarded address that is not a trusted proxy itself."""

    def __init__(self, trusted: Sequence[IPNetwork], scheme: str = "http") -> None:
        """Create it for the trusted networks. `scheme` is that of the socket itself."""
        self._trusted = trusted
        self._scheme = scheme
        self._cache: dict[str, tuple[Peer, bool]] = {}  # address of a socket -> its peer, and whether that is a proxy

    def client(self, socket_ip: str | None, headers: Headers) -> Peer:
        """Return the client of a request that arrived from this address. Names of headers are in lower case."""
        if socket_ip is None:
            return UNKNOWN
        peer, is_proxy = self._cache.get(socket_ip) or self._check(socket_ip)
        return self._behind(peer, headers) if is_proxy else peer

    def is_proxy(self, socket_ip: str) -> bool:
        """Return True if the address is a trusted proxy's."""
        return (self._cache.get(socket_ip) or self._check(socket_ip))[1]

    def _check(self, socket_ip: str) -> tuple[Peer, bool]:
        ip = normalise_ip(socket_ip)
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        checked = self._cache[socket_ip] = Peer(ip, self._scheme), ip is not None and _within(ip, self._trusted)
        return checked

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
                break  # addresses left of an invalid one are not trusted
            ip = address
            if not _within(ip, self._trusted):
                break
        return Peer(ip, scheme)


def _within(ip: str, networks: Sequence[IPNetwork]) -> bool:
    address = ipaddress.ip_address(ip)
    return any(address in network for network in networks)


class ConnectionBound:
    """Counts the connections of each client (a /64 network for IPv6), and bounds them. A bound of 0 is none."""

    def __init__(self, most: int, proxies: TrustedProxies) -> None:
        self._most = most
        self._proxies = proxies
        self._connections: dict[str, int] = {}

    def enter(self, socket_ip: str | None) -> bool:
        """Count one more connection, for which `leave` must be called. Return False if the client has too many; then
        nothing is counted. A trusted proxy has no bound, because it connects for many clients.
        """
        if not self._most or socket_ip is None:
            return True
        client = client_of(socket_ip)
        count = self._connections.get(client, 0)
        if count >= self._most and not self._proxies.is_proxy(socket_ip):
            return False
        self._connections[client] = count + 1
        return True

    def leave(self, socket_ip: str | None) -> None:
        """Count one connection less."""
        if not self._most or socket_ip is None:
            return
        client = client_of(socket_ip)
        count = self._connections.pop(client)
        if count > 1:
            self._connections[client] = count - 1

    def is_proxy(self, socket_ip: str) -> bool:
        return self._proxies.is_proxy(socket_ip)


_HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


class AllowedHosts:
    """The names that a Host header may have. IP addresses are always allowed: DNS rebinding needs a name."""

    def __init__(self, config: Config) -> None:
        names = {"localhost", socket.gethostname().lower(), config.host.lower()}
        if config.public_url:
            names.add(urlsplit(config.public_url).hostname or "")
        self._any = "*" in config.allowed_hosts
        self._names = names | {host.lower() for host in config.allowed_hosts if not host.startswith(".")}
        self._suffixes = tuple(host.lower() for host in config.allowed_hosts if host.startswith("."))
        self._cache: set[bytes] = set()  # headers that were allowed

    def allow(self, header: bytes) -> bool:
        """Return True if a Host header with this value is allowed."""
        if header in self._cache:
            return True
        match = _HOST.fullmatch(header)
        if match is None or int(match[1] or 0) > 65535:
            return False
        if not self._allow_name(host_name(header.decode("latin-1"))):
            return False
        if len(header) < 256 and len(self._cache) < MAX_CACHED:
            self._cache.add(header)
        return True

    def _allow_name(self, name: str) -> bool:
        if self._any or name in self._names or normalise_ip(name) is not None:
            return True
        return bool(self._suffixes) and ("." + name).endswith(self._suffixes)


def host_name(host: str) -> str:
    """Return a Host header's value without its port, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0][1:]
    return host.partition(":")[0].rstrip(".")
