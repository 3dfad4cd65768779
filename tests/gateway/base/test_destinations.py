import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.destinations import LINK_LOCAL, OUTSIDE, Destinations, is_refused

METADATA = [
    "169.254.0.0", "169.254.169.254", "169.254.255.255", "168.63.129.16", "100.100.100.200", "192.0.0.192",
    "fe80::1", "FE80::1%eth0", "febf::", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:42::42",
]  # fmt: skip
FORMS = {
    "IPv4-mapped": "::ffff:169.254.169.254",
    "IPv4-mapped, in hexadecimal": "::ffff:a9fe:a9fe",
    "IPv4-compatible": "::a9fe:a9fe",
    "IPv4-translated": "::ffff:0:169.254.169.254",
    "NAT64": "64:ff9b::a9fe:a9fe",
    "local NAT64 /48": "64:ff9b:1:a9fe:a9:fe00::",
    "local NAT64 /56": "64:ff9b:1:a9:fe:a9fe::",  # bits 56 to 63, 72 to 95
    "local NAT64 /64": "64:ff9b:1::a9:fea9:fe00:0",
    "local NAT64 /96": "64:ff9b:1::a9fe:a9fe",
    "6to4": "2002:a9fe:a9fe::1",
    "Teredo's server": "2001:0:a9fe:a9fe::1",
    "Teredo's client": "2001:0:102:304::5601:5601",
    "ISATAP": "2001:db8::5efe:a9fe:a9fe",
    "ISATAP, global": "2001:db8::200:5efe:a9fe:a9fe",
    "Azure by NAT64": "64:ff9b::a83f:8110",
    "Alibaba by 6to4": "2002:6464:64c8::",
}
OTHERS = [
    "127.0.0.1", "169.253.0.1", "169.255.0.1", "10.0.0.1", "100.100.100.201", "168.63.129.17", "192.0.0.193", "::1",
    "::", "fec0::1", "fd00:ec2::253", "fd20:ce::253", "2002:a9ff::1", "64:ff9b::a00:1", "64:ff9b:1::a00:1",
    "2001:db8::a9fe:a9fe", "2606:4700::a9fe:a9fe", "a.example", "gpu", "",
]  # fmt: skip


@pytest.mark.parametrize("address", METADATA)
def test_metadata_and_link_local_addresses_are_refused(address):
    assert is_refused(address)
    assert Destinations().refusal(address) == LINK_LOCAL


@pytest.mark.parametrize("address", FORMS.values(), ids=FORMS.keys())
def test_refused_addresses_are_refused_in_all_notations(address):
    assert is_refused(address)


@pytest.mark.parametrize("address", OTHERS)
def test_other_addresses_are_allowed(address):
    assert not is_refused(address)
    assert Destinations().refusal(address) is None


@given(st.ip_addresses(network="169.254.0.0/16"))
def test_every_embedded_link_local_address_is_refused(address):
    number = int(address)
    for whole in (
        0x0064FF9B << 96 | number,
        0xFFFF << 32 | number,
        number,
        0x2002 << 112 | number << 80,
        0x20010000 << 96 | number << 64,
        0x20010000 << 96 | (~number & 0xFFFFFFFF),
    ):
        assert is_refused(str(ipaddress.IPv6Address(whole)))


@given(st.ip_addresses())
def test_any_address_is_allowed_or_refused(address):
    assert isinstance(is_refused(str(address)), bool)


@pytest.mark.parametrize("address", METADATA)
def test_a_setting_allows_them(address):
    assert Destinations(allow_link_local=True).refusal(address) is None


@pytest.mark.parametrize(
    ("address", "refusal"),
    [
        ("10.1.2.3", None),
        ("::ffff:10.1.2.3", None),
        ("fd12::1", None),
        ("11.0.0.1", OUTSIDE),
        ("127.0.0.1", OUTSIDE),
        ("::1", OUTSIDE),
        ("64:ff9b::a01:203", OUTSIDE),
        ("169.254.169.254", LINK_LOCAL),
        ("a.example", None),
    ],
)
def test_with_allowed_networks_other_addresses_are_refused(address, refusal):
    networks = [ipaddress.ip_network(network) for network in ("10.0.0.0/8", "fd00::/8", "169.254.0.0/16")]
    assert Destinations(networks).refusal(address) == refusal
