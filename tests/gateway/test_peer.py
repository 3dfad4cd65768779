import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import load
from gateway.peer import Crowd, Hosts, Peer, Peers, host_name, normalise_ip

PROXIES = load({"ROUTERDASH_TRUSTED_PROXIES": "10.0.0.0/8,fd00::/8"}).trusted_proxies
ADDRESSES = st.ip_addresses().map(str)
TRUSTED = st.sampled_from(["10.0.0.1", "10.255.255.255", "fd00::1", "::ffff:10.1.2.3"])
STRANGERS = ADDRESSES.filter(lambda text: not _trusted(text))


def _trusted(text):
    address = ipaddress.ip_address(normalise_ip(text) or "::")
    return any(address in network for network in PROXIES)


def peer(socket_ip, headers, trusted):
    return Peers(trusted).of(socket_ip, headers)


def forwarded(*values, proto=None):
    headers = [(b"x-forwarded-for", value.encode("latin-1", "replace")) for value in values]
    return [*headers, (b"x-forwarded-proto", proto)] if proto else headers


# Addresses


@pytest.mark.parametrize(
    ("text", "shortest"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[2001:DB8:0:0::1]", "2001:db8::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
    ],
)
def test_an_address_in_its_shortest_form(text, shortest):
    assert normalise_ip(text) == shortest


@pytest.mark.parametrize("text", ["", "unknown", "192.0.2", "192.0.2.1:80", "router.example", "_hidden", "1.2.3.4.5"])
def test_what_is_no_address(text):
    assert normalise_ip(text) is None


@given(ADDRESSES)
def test_the_shortest_form_stays_as_it_is(text):
    shortest = normalise_ip(text)
    assert shortest is not None
    assert normalise_ip(shortest) == shortest


@given(st.text())
def test_any_text_is_an_address_or_none(text):
    found = normalise_ip(text)
    assert found is None or ipaddress.ip_address(found)


# Clients behind proxies


@given(STRANGERS, st.lists(ADDRESSES))
def test_a_stranger_is_not_believed(address, claimed):
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
def test_if_all_are_proxies_the_leftmost_asks(socket_ip, hops):
    assert peer(socket_ip, forwarded(", ".join(hops)), PROXIES).ip == normalise_ip(hops[0])


@given(TRUSTED | STRANGERS, st.lists(st.text()))
def test_any_header_leaves_an_address(socket_ip, values):
    found = peer(socket_ip, forwarded(*values), PROXIES)
    assert found.ip is not None
    assert ipaddress.ip_address(found.ip)


def test_what_stands_left_of_nonsense_is_not_believed():
    assert peer("10.0.0.1", forwarded("192.0.2.1, unknown, 10.0.0.2"), PROXIES).ip == "10.0.0.2"


def test_without_a_header_the_proxy_itself_asks():
    assert peer("10.0.0.1", [], PROXIES) == Peer("10.0.0.1", "http")


@pytest.mark.parametrize(("proto", "scheme"), [(b"https", "https"), (b" HTTPS ", "https"), (b"http", "http")])
def test_a_proxy_tells_the_scheme(proto, scheme):
    assert peer("10.0.0.1", forwarded("192.0.2.1", proto=proto), PROXIES).scheme == scheme


@pytest.mark.parametrize("socket_ip", [None, "", "nonsense"])
def test_a_socket_without_an_address(socket_ip):
    assert peer(socket_ip, forwarded("192.0.2.1"), PROXIES) == Peer(None, "http")


# Hosts


HOSTS = Hosts(
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
def test_a_host_that_is_not(header):
    assert not HOSTS.allow(header.encode())


def test_the_machines_own_name_is_allowed():
    assert HOSTS.allow(socket.gethostname().encode())


def test_a_star_allows_everybody():
    assert Hosts(load({"ROUTERDASH_ALLOWED_HOSTS": "*"})).allow(b"anything.example")


@given(st.binary())
def test_any_bytes_are_a_host_or_not(header):
    assert HOSTS.allow(header) in (True, False)


@pytest.mark.parametrize(
    ("host", "name"), [("A.B:80", "a.b"), ("[::1]:80", "::1"), ("[::1", "::1"), ("a.b.", "a.b"), ("", ""), (":80", "")]
)
def test_a_host_without_its_port(host, name):
    assert host_name(host) == name


# Crowds


def test_connections_of_one_ipv6_network_are_those_of_one_client():
    crowd = Crowd(2, Peers(PROXIES))
    assert [crowd.enter(f"2001:db8::{number}") for number in (1, 2, 3)] == [True, True, False]
    assert crowd.enter("2001:db8:0:1::1")
    crowd.leave("2001:db8::9")
    assert crowd.enter("2001:db8::4")


def test_a_client_may_come_so_often():
    crowd = Crowd(2, Peers(PROXIES))
    assert [crowd.enter("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert crowd.enter("192.0.2.2")
    crowd.leave("192.0.2.1")
    assert [crowd.enter("192.0.2.1") for _ in range(2)] == [True, False]


def test_whoever_has_left_is_forgotten():
    crowd = Crowd(2, Peers(PROXIES))
    crowd.enter("192.0.2.1")
    crowd.leave("192.0.2.1")
    assert not crowd._connections


@pytest.mark.parametrize(("limit", "ip"), [(1, "10.0.0.1"), (0, "192.0.2.1"), (1, None)])
def test_some_may_come_as_often_as_they_like(limit, ip):
    crowd = Crowd(limit, Peers(PROXIES))
    assert all(crowd.enter(ip) for _ in range(5))
    crowd.leave(ip)
