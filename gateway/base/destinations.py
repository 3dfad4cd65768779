"""Allowed destinations: no cloud metadata service, and only the configured networks if there are any.

The check gets the address of the connection itself, after name resolution: a name may resolve differently the next
time.
"""

import ipaddress
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from gateway.base.config import Config
from gateway.base.setting_parsers import IPNetwork

LINK_LOCAL = "its address is link-local or of a metadata service, and ROUTERDASH_ALLOW_LINK_LOCAL is not set"
OUTSIDE = "its address is in none of the networks of ROUTERDASH_ENDPOINT_NETWORKS"

REFUSED = tuple(
    map(
        ipaddress.ip_network,
        (
            "169.254.0.0/16",  # link-local; most clouds' metadata service is 169.254.169.254
            "168.63.129.16/32",  # Azure's WireServer
            "100.100.100.200/32",  # Alibaba Cloud
            "192.0.0.192/32",  # Oracle Cloud
            "fe80::/10",  # link-local
            "fd00:ec2::254/128",  # Amazon
            "fd00:ec2::23/128",  # credentials of Amazon's pods
            "fd20:ce::254/128",  # Google Cloud
            "fd00:42::42/128",  # Scaleway
        ),
    )
)

# Networks of IPv6 addresses that stand for an IPv4 address, which begins at one of these bits.
_EMBEDDING = tuple(
    (ipaddress.IPv6Network(network), bits)
    for network, bits in (
        ("::/96", (96,)),  # IPv4-compatible
        ("::ffff:0:0/96", (96,)),  # IPv4-mapped
        ("::ffff:0:0:0/96", (96,)),  # IPv4-translated
        ("64:ff9b::/96", (96,)),  # NAT64
        ("2002::/16", (16,)),  # 6to4
        ("2001::/32", (32,)),  # Teredo: its server; its client follows inverted
    )
)
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215: its prefix has 48 to 96 bits (RFC 6052, 2.2)
_TEREDO = ipaddress.IPv6Network("2001::/32")
_ISATAP = 0x5EFE


class Destinations:
    """Addresses that endpoints may have. `networks` allows no others; if it is empty, all are allowed that are not
    REFUSED.
    """

    def __init__(self, networks: Sequence[IPNetwork] = (), *, allow_link_local: bool = False) -> None:
        self._networks = tuple(networks)
        self._allow_link_local = allow_link_local

    @classmethod
    def of(cls, config: Config) -> "Destinations":
        return cls(config.endpoint_networks, allow_link_local=config.allow_link_local)

    def refusal(self, ip: str) -> str | None:
        """Return why an endpoint may not have this address, whose scope (`%eth0`) may follow.

        Return None if it may, or if it is no address. The reason names no address.
        """
        address = _parsed(ip)
        if address is None:
            return None
        if not self._allow_link_local and is_refused(ip):
            return LINK_LOCAL
        plain = getattr(address, "ipv4_mapped", None) or address
        if self._networks and not any(plain in network for network in self._networks):
            return OUTSIDE
        return None


@lru_cache(maxsize=4096)
def is_refused(ip: str) -> bool:
    """Return True if this is, or stands for, an address that only a cloud's own services have."""
    address = _parsed(ip)
    if address is None:
        return False
    every = (address, *(_embedded(address) if isinstance(address, IPv6Address) else ()))
    return any(candidate in network for candidate in every for network in REFUSED)


def _parsed(ip: str) -> IPv4Address | IPv6Address | None:
    try:
        return ipaddress.ip_address(ip.partition("%")[0].strip().strip("[]"))
    except ValueError:
        return None


def _embedded(address: IPv6Address) -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses that an IPv6 address may lead to, through a gateway or a tunnel."""
    whole = int(address)
    for network, bits in _EMBEDDING:
        if address in network:
            yield from (_ipv4_at(whole, bit) for bit in bits)
    if address in _TEREDO:
        yield IPv4Address(~whole & 0xFFFFFFFF)
    if address in _LOCAL_NAT64:
        without_u = (whole >> 64 << 56) | (whole & (1 << 56) - 1)  # bits 64 to 71 belong to no address
        yield from (IPv4Address(without_u >> 120 - bit - 32 & 0xFFFFFFFF) for bit in (48, 56, 64))
        yield _ipv4_at(whole, 96)
    if whole >> 32 & 0xFFFF == _ISATAP and whole >> 48 & 0xFDFF == 0:
        yield _ipv4_at(whole, 96)


def _ipv4_at(whole: int, bit: int) -> IPv4Address:
    return IPv4Address(whole >> 128 - bit - 32 & 0xFFFFFFFF)
