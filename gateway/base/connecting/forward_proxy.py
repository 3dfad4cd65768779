"""HTTP proxies between RouterDash and its endpoints, and which endpoints are reached without the usual one."""

import base64
import ipaddress
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from gateway.base.setting_parsers import IPNetwork, words

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

MASK = "********"  # stands for a secret that is stored
EXAMPLE = "http://user:password@proxy.example.com:3128"
MAX_URL = 2000  # characters


@dataclass(frozen=True, slots=True)
class ForwardProxy:
    """An HTTP proxy that opens connections by CONNECT."""

    host: str
    port: int
    login: tuple[str, str] | None = field(default=None, repr=False)  # user name and password

    @classmethod
    def parse(cls, url: str) -> "ForwardProxy":
        """Return the proxy at this URL. Raises ValueError, whose text quotes nothing of the URL."""
        try:
            parts = urlsplit(url.strip())
            port, user, password = parts.port, parts.username, parts.password
        except ValueError:
            raise ValueError(f"a URL such as {EXAMPLE}") from None
        if parts.scheme == "https":
            raise ValueError("a URL with http://: RouterDash speaks to proxies without TLS")
        is_plain = not (parts.path.strip("/") or parts.query or parts.fragment)
        if parts.scheme != "http" or not parts.hostname or not is_plain or not _is_printable(url):
            raise ValueError(f"a URL such as {EXAMPLE}")
        if not port:
            raise ValueError(f"a URL with the port of the proxy, such as {EXAMPLE}")
        login = None if user is None else (unquote(user), unquote(password or ""))
        if login is not None and (":" in login[0] or not _is_printable("".join(login))):
            raise ValueError("a URL whose user name has no colon and whose login has no control characters")
        return cls(parts.hostname, port, login)

    @property
    def authority(self) -> str:
        """Host and port, without the login."""
        return authority(self.host, self.port)

    @property
    def url(self) -> str:
        if self.login is None:
            return f"http://{self.authority}"
        user, password = (quote(part, safe="") for part in self.login)
        return f"http://{user}:{password}@{self.authority}"

    @property
    def masked(self) -> str:
        """The URL with a mask in place of the login."""
        return f"http://{self.authority}" if self.login is None else f"http://{MASK}@{self.authority}"

    @property
    def authorization(self) -> bytes:
        """Line of a header block with the login; empty without one."""
        if self.login is None:
            return b""
        return b"proxy-authorization: Basic %b\r\n" % base64.b64encode(":".join(self.login).encode())


def authority(host: str, port: int) -> str:
    """Return host and port as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_printable(text: str) -> bool:
    return text.strip().isprintable() and len(text) <= MAX_URL


@dataclass(frozen=True, slots=True)
class NoProxy:
    """Hosts that are reached without the usual proxy: addresses and networks, names with all names below them."""

    everything: bool = False
    networks: tuple[IPNetwork, ...] = ()
    names: tuple[str, ...] = ()  # in lower case

    def includes(self, host: str, address: str) -> bool:
        """Return True for an endpoint with this host in its URL, and with this checked address."""
        if self.everything:
            return True
        host = host.lower().rstrip(".")
        if any(host == name or host.endswith(f".{name}") for name in self.names):
            return True
        plain = _plain(address)
        return plain is not None and (plain.is_loopback or any(plain in network for network in self.networks))


def is_loopback(address: str) -> bool:
    plain = _plain(address)
    return plain is not None and plain.is_loopback


def _plain(address: str) -> IPAddress | None:
    """Return an address that a name resolved to, without its scope and in its shortest form."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0].strip("[]"))
    except ValueError:  # an old spelling, such as 0x7f000001
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def proxy(raw: str) -> ForwardProxy | None:
    """Parse the setting of the usual proxy."""
    return ForwardProxy.parse(raw) if raw else None


_NO_PROXY = "host names, addresses or networks separated by commas, for example .internal,10.0.0.0/8, or *"


def no_proxy(raw: str) -> NoProxy:
    """Parse the setting of the hosts that are reached without the usual proxy."""
    networks: list[IPNetwork] = []
    names: list[str] = []
    everything = False
    for word in words(raw):
        if word == "*":
            everything = True
            continue
        try:
            networks.append(ipaddress.ip_network(word.strip("[]"), strict=False))
            continue
        except ValueError:
            name = word.lower().removeprefix("*").strip(".")
        # A network that cannot be read, a port or a URL would otherwise be a name that no host has.
        labels = name.split(".")
        if not all(label.replace("-", "").replace("_", "").isalnum() for label in labels) or labels[-1].isdigit():
            raise ValueError(_NO_PROXY)
        names.append(name)
    return NoProxy(everything, tuple(networks), tuple(names))
