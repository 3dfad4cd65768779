import ipaddress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoints.base_url import normalise, same_server


@pytest.mark.parametrize(
    ("pasted", "stored"),
    [
        ("http://gpu:8000", "http://gpu:8000"),
        ("http://gpu:8000/", "http://gpu:8000"),
        ("http://gpu:8000///", "http://gpu:8000"),
        ("http://gpu:8000/v1", "http://gpu:8000"),
        ("http://gpu:8000/v1/", "http://gpu:8000"),
        ("http://gpu:8000//v1//", "http://gpu:8000"),
        ("  http://gpu:8000/v1\n", "http://gpu:8000"),
        ("HTTP://GPU.Example.COM:8000", "http://gpu.example.com:8000"),
        ("https://api.example.com/openai/v1", "https://api.example.com/openai"),
        ("https://api.example.com/Team/A/", "https://api.example.com/Team/A"),
        ("http://gpu/v11", "http://gpu/v11"),
        ("http://gpu/v1/models", "http://gpu/v1/models"),
        ("http://gpu/xv1", "http://gpu/xv1"),
        ("http://192.168.1.10:11434", "http://192.168.1.10:11434"),
        ("http://[FD00::1]:8000/v1", "http://[fd00::1]:8000"),
        ("http://[::1]", "http://[::1]"),
        ("http://gpu", "http://gpu"),
        ("127.0.0.1:11434", "http://127.0.0.1:11434"),
        (" 192.168.1.10:8000/v1/\n", "http://192.168.1.10:8000"),
        ("localhost:1234", "http://localhost:1234"),
        ("LOCALHOST:1234", "http://localhost:1234"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("gpu-box", "http://gpu-box"),
        ("gpu:8000/openai/v1", "http://gpu:8000/openai"),
        ("example.com", "http://example.com"),
        ("example.com:443", "https://example.com:443"),
        ("api.openai.com", "https://api.openai.com"),
        ("mine.openai.azure.com/openai", "https://mine.openai.azure.com/openai"),
    ],
)
def test_urls_are_stored_in_one_form(pasted: str, stored: str) -> None:
    assert normalise(pasted) == stored


@pytest.mark.parametrize(
    ("pasted", "why"),
    [
        ("", "Enter a URL"),
        ("gpu box", "Enter a URL"),
        (":8000", "Enter a URL"),
        ("/v1", "Enter a URL"),
        ("http:gpu", "port"),
        ("http:/gpu", "Enter a URL"),
        ("file:/etc/passwd", "Enter a URL"),
        ("gpu:eight", "port"),
        ("me@gpu:8000", "must not contain a user name"),
        ("gpu:8000?key=1", "must not contain a user name"),
        ("::1", "in brackets"),
        ("fd00::1/v1", "in brackets"),
        ("169.254.169.254:80", "ROUTERDASH_ALLOW_LINK_LOCAL"),
        ("//gpu:8000", "Enter a URL"),
        ("http://", "Enter a URL"),
        ("http:///v1", "Enter a URL"),
        ("http://:8000", "Enter a URL"),
        ("ftp://gpu:8000", "Enter a URL"),
        ("file:///etc/passwd", "Enter a URL"),
        ("http://gpu:99999", "port"),
        ("http://gpu:eight", "port"),
        ("http://gpu:-1", "port"),
        ("http://me@gpu:8000", "must not contain a user name"),
        ("http://me:secret@gpu:8000", "must not contain a user name"),
        ("http://gpu:8000?key=1", "must not contain a user name"),
        ("http://gpu:8000#top", "must not contain a user name"),
        ("http://[::1:8000", "IPv6"),
    ],
)
def test_a_malformed_base_url_is_refused_with_a_message(pasted: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        normalise(pasted)


SEGMENTS = st.lists(st.sampled_from(["v1", "openai", "Team", "v1beta", ""]), max_size=3)
HOSTS = st.sampled_from(["gpu", "GPU.example.com", "10.0.0.1", "[::1]"])


@given(scheme=st.sampled_from(["http", "HTTPS"]), host=HOSTS, port=st.integers(1, 65535), segments=SEGMENTS)
def test_a_stored_url_has_no_trailing_slash(scheme: str, host: str, port: int, segments: list[str]) -> None:
    stored = normalise(f"{scheme}://{host}:{port}/{'/'.join(segments)}")
    assert not stored.endswith("/")
    assert stored.startswith(f"{scheme.lower()}://{host.lower()}:{port}")


LINK_LOCAL = [
    "http://169.254.169.254",
    "http://169.254.1.2:8000/v1",
    "https://169.254.0.1",
    "http://0xA9FEA9FE",
    "http://2852039166",
    "http://169.254.43518:80",
    "http://0251.0376.0251.0376",
    "http://[fe80::1]:8000",
    "http://[fe80::1%25lo]:8000",
    "http://[febf::1]",
    "http://[::ffff:169.254.169.254]",
    "http://[::ffff:a9fe:a9fe]",
    "http://[fd00:ec2::254]",
    "http://168.63.129.16",
    "http://[64:ff9b::a9fe:a9fe]",
    "http://169。254。169。254",
]


@pytest.mark.parametrize("pasted", LINK_LOCAL)
def test_link_local_addresses_are_refused_in_every_spelling(pasted: str) -> None:
    with pytest.raises(ValueError, match="ROUTERDASH_ALLOW_LINK_LOCAL"):
        normalise(pasted)


@pytest.mark.parametrize("pasted", LINK_LOCAL)
def test_link_local_addresses_are_accepted_if_the_settings_allow_them(pasted: str, settings: Any) -> None:
    settings.ROUTERDASH = replace(settings.ROUTERDASH, allow_link_local=True)
    assert normalise(pasted)


@pytest.mark.parametrize("host", ["169.253.1.1", "0x7f000001", "[fd00:ec2::255]", "[fec0::1]", "169.254.example.com"])
def test_addresses_next_to_link_local_ones_are_accepted(host: str) -> None:
    assert normalise(f"http://{host}") == f"http://{host}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://gpu:8000", "http://gpu:8000/openai"),
        ("http://gpu:8000/a", "http://GPU:8000/b"),
        ("http://gpu", "http://gpu:80"),
        ("https://gpu:443", "https://gpu"),
        (" http://gpu:8000", "http://gpu:8000"),
    ],
)
def test_a_server_is_a_scheme_a_host_and_a_port(one: str, other: str) -> None:
    assert same_server(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://gpu:8000", "https://gpu:8000"),
        ("http://gpu:8000", "http://gpu:8001"),
        ("http://gpu:8000", "http://gpu.example.com:8000"),
        ("http://gpu", "https://gpu"),
        ("http://gpu:8000", "http://gpu"),
        ("http://gpu:many", "http://gpu:many"),
        ("http://[gpu", "http://[gpu"),
    ],
)
def test_anything_else_is_another_server(one: str, other: str) -> None:
    assert not same_server(one, other)


@pytest.mark.parametrize(
    ("networks", "host", "taken"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "127.0.0.1", False),
        ("10.0.0.0/8", "[::ffff:10.0.0.1]", True),
        ("10.0.0.0/8", "[64:ff9b::a00:1]", False),
        ("10.0.0.0/8", "gpu.example", True),  # the resolved address is checked at the connect
        ("169.254.0.0/16,fe80::/10", "169.254.169.254", False),
        ("fd00::/8", "[fd12::1]", True),
    ],
)
def test_only_addresses_of_allowed_networks_are_accepted(networks: str, host: str, taken: bool, settings: Any) -> None:
    allowed = tuple(ipaddress.ip_network(network) for network in networks.split(","))
    settings.ROUTERDASH = replace(settings.ROUTERDASH, endpoint_networks=allowed)
    if taken:
        assert normalise(f"http://{host}:8000")
    else:
        with pytest.raises(ValueError, match="ROUTERDASH_"):
            normalise(f"http://{host}:8000")
