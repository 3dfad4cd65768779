"""IP addresses: their shortest form, and the client that an address belongs to."""

import ipaddress
from functools import lru_cache


def normalise_ip(text: str) -> str | None:
    """Return an address in its shortest form, and an IPv4-mapped IPv6 address as IPv4. Return None for other texts."""
    try:
        address = ipaddress.ip_address(text.strip().strip("[]"))
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


@lru_cache(maxsize=8192)
def client_of(address: str) -> str:
    """Return the client of an address: the address itself, or its /64 network for IPv6, in which a machine may change
    its address at will.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address  # only in a journal that was written by hand
    if isinstance(ip, ipaddress.IPv4Address) or ip.is_loopback:
        return address
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
