import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.addresses import normalise_ip
from gateway.base.config import load
from gateway.http.clients import AllowedHosts, ConnectionBound, Peer, TrustedProxies, host_name

PROXIES = load({"ROUTERDASH_TRUSTED_PROXIES": "10.0.0.0/8,fd00::/8"}).trusted_proxies
ADDRESSES = st.ip_addresses().map(str)
TRUSTED = st.sampled_from(["10.0.0.1", "10.255.255.255", "fd00::1", "::ffff:10.1.2.3"])
STRANGERS = ADDRESSES.filter(lambda text: not _trusted(text))


def _trusted(text):
    address = ipaddress.ip_address(normalise_ip(text) or "::")
    return any(address in network for network in PROXIES)


def peer(socket_ip, headers, trusted):
    return TrustedProxies(trusted).client(socket_ip, headers)


def forwarded(*values, proto=None):
    headers = [(b"x-forwarded-for", value.encode("latin-1", "replace")) for value in values]
    return [*headers, (b"x-forwarded-proto", proto)] if proto else headers


# Clients behind proxies


@given(STRANGERS, st.lists(ADDRESSES))
def test_headers_of_an_untrusted_address_are_ignored(address, claimed):
    assert peer(address, forwarded(*claimed, proto=b"https"), PROXIES) == Peer(normalise_ip(address), "http")


@given(TRUSTED, st.text(), STRANGERS, st.lists(TRUSTED))
def test_the_rightmost_address_that_is_no_proxy(socket_ip, forged, client, hops):
    header = ", ".join([forged, client, *hops])
    assert peer(socket_ip, forwarded(header), PROXIES).ip == normalise_ip(client)


@given(TRUSTED, STRANGERS, st.lists(TRUSTED, min_size=1))
def test_one_header_or_several_make_no_difference(socket_ip, client, hops):
    several, one = forwarded(client, *hops), forwarded(",".join([client, *hops]))
    assert peer(socket_ip, several, PROXIES) == peer(socket_ip, one, PROXIES)


@given(TRUSTED, st.lists(TRUSTED, min_size=1))
def test_if_all_are_proxies_the_leftmost_is_the_client(socket_ip, hops):
    assert peer(socket_ip, forwarded(", ".join(hops)), PROXIES).ip == normalise_ip(hops[0])


@given(TRUSTED | STRANGERS, st.lists(st.text()))
def test_any_header_leaves_an_address(socket_ip, values):
    client = peer(socket_ip, forwarded(*values), PROXIES)
    assert client.ip is not None
    assert ipaddress.ip_address(client.ip)


def test_addresses_left_of_an_invalid_one_are_ignored():
    assert peer("10.0.0.1", forwarded("192.0.2.1, unknown, 10.0.0.2"), PROXIES).ip == "10.0.0.2"


def test_without_a_header_the_proxy_is_the_client():
    assert peer("10.0.0.1", [], PROXIES) == Peer("10.0.0.1", "http")


@pytest.mark.parametrize(("proto", "scheme"), [(b"https", "https"), (b" HTTPS ", "https"), (b"http", "http")])
def test_a_proxy_forwards_the_scheme(proto, scheme):
    assert peer("10.0.0.1", forwarded("192.0.2.1", proto=proto), PROXIES).scheme == scheme


@pytest.mark.parametrize("socket_ip", [None, "", "nonsense"])
def test_a_socket_without_an_address(socket_ip):
    assert peer(socket_ip, forwarded("192.0.2.1"), PROXIES) == Peer(None, "http")


# Hosts


HOSTS = AllowedHosts(
    load(
        {
            "ROUTERDASH_ALLOWED_HOSTS": "Router.Example,.below.example",
            "ROUTERDASH_PUBLIC_URL": "https://public.example:8443/",
            "ROUTERDASH_HOST": "listening.example",
        }
    )
)


@pytest.mark.parametrize(
    "header",
    [
        "localhost",
        "LOCALHOST:32768",
        "localhost.",
        "192.0.2.1",
        "192.0.2.1:80",
        "[::1]",
        "[::1]:32768",
        "router.example",
        "router.example:443",
        "public.example",
        "listening.example",
        "below.example",
        "deep.down.below.example:1",
    ],
)
def test_a_host_that_is_allowed(header):
    assert HOSTS.allow(header.encode())


@pytest.mark.parametrize(
    "header",
    [
        "",
        "localhost:x",
        "localhost:",
        "localhost:65536",
        "a b",
        "localhost/",
        "[::1]x",
        "evil.example",
        "router.example.evil",
        "notbelow.example",
        "sub.router.example",
        "::1",
        "1.2.3.4.evil",
        "é",
    ],
)
def test_a_host_that_is_not_allowed(header):
    assert not HOSTS.allow(header.encode())


def test_the_machines_own_name_is_allowed():
    assert HOSTS.allow(socket.gethostname().encode())


def test_a_star_allows_every_host():
    assert AllowedHosts(load({"ROUTERDASH_ALLOWED_HOSTS": "*"})).allow(b"anything.example")


@given(st.binary())
def test_any_bytes_are_a_host_or_not(header):
    assert HOSTS.allow(header) in (True, False)


@pytest.mark.parametrize(
    ("host", "name"), [("A.B:80", "a.b"), ("[::1]:80", "::1"), ("[::1", "::1"), ("a.b.", "a.b"), ("", ""), (":80", "")]
)
def test_a_host_without_its_port(host, name):
    assert host_name(host) == name


# Limit of connections


def test_connections_of_one_ipv6_network_are_those_of_one_client():
    limit = ConnectionBound(2, TrustedProxies(PROXIES))
    assert [limit.enter(f"2001:db8::{number}") for number in (1, 2, 3)] == [True, True, False]
    assert limit.enter("2001:db8:0:1::1")
    limit.leave("2001:db8::9")
    assert limit.enter("2001:db8::4")


def test_a_client_has_a_limit():
    limit = ConnectionBound(2, TrustedProxies(PROXIES))
    assert [limit.enter("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert limit.enter("192.0.2.2")
    limit.leave("192.0.2.1")
    assert [limit.enter("192.0.2.1") for _ in range(2)] == [True, False]


def test_a_client_without_connections_takes_no_memory():
    limit = ConnectionBound(2, TrustedProxies(PROXIES))
    limit.enter("192.0.2.1")
    limit.leave("192.0.2.1")
    assert not limit._connections


@pytest.mark.parametrize(("maximum", "ip"), [(1, "10.0.0.1"), (0, "192.0.2.1"), (1, None)])
def test_no_limit(maximum, ip):
    limit = ConnectionBound(maximum, TrustedProxies(PROXIES))
    assert all(limit.enter(ip) for _ in range(5))
    limit.leave(ip)
