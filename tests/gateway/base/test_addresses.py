import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.addresses import normalise_ip

ADDRESSES = st.ip_addresses().map(str)


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
def test_an_address_is_shortened(text, shortest):
    assert normalise_ip(text) == shortest


@pytest.mark.parametrize("text", ["", "unknown", "192.0.2", "192.0.2.1:80", "router.example", "_hidden", "1.2.3.4.5"])
def test_a_text_that_is_not_an_address(text):
    assert normalise_ip(text) is None


@given(ADDRESSES)
def test_the_shortest_form_is_unchanged(text):
    shortest = normalise_ip(text)
    assert shortest is not None
    assert normalise_ip(shortest) == shortest


@given(st.text())
def test_any_text_is_an_address_or_none(text):
    address = normalise_ip(text)
    assert address is None or ipaddress.ip_address(address)
