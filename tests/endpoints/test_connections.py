"""Connection settings as administrators edit and see them."""

from datetime import UTC, datetime
from typing import Any

import pytest

from endpoints import connections
from endpoints.connections import InvalidConnection, merged, opened, sealed, shown
from endpoints.connections.form import ConnectionFields
from gateway.base.connecting.forward_proxy import MASK
from gateway.base.sealing import Sealer
from gateway.providers.table import provider_of
from gateway.upstream.connection_settings import PLAIN, ConnectionSettings
from tests.certificates import Authority, Issued
from tests.gateway.samples import OTHER_KEY

URL = "http://user:pass%3Aword@proxy.example.com:3128"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make()


@pytest.fixture(scope="module")
def client(authority: Authority) -> Issued:
    return authority.issue()


@pytest.fixture
def full(authority: Authority, client: Issued) -> ConnectionSettings:
    entered = {
        "proxy_url": URL,
        "ca_bundle": authority.pem,
        "client_certificate": client.pem,
        "client_key": client.key,
        "headers": {"X-Team": "blue"},
    }
    return merged(None, entered, None)


def errors(entered: dict[str, Any], stored: str | None = None, cloud: str | None = None, **options: Any) -> Any:
    with pytest.raises(InvalidConnection) as caught:
        merged(stored, entered, provider_of(cloud) if cloud else None, **options)
    return caught.value.errors


def test_what_is_stored_can_be_read_again(full: ConnectionSettings) -> None:
    text = sealed(full)
    assert text is not None
    assert "proxy" not in text
    assert opened(text) == full
    assert (sealed(PLAIN), opened(None)) == (None, PLAIN)


def test_everything_that_is_secret_is_masked(full: ConnectionSettings, client: Issued) -> None:
    masked: Any = shown(sealed(full))
    assert masked == {
        "proxy_url": f"http://{MASK}@proxy.example.com:3128",
        "ca_bundle": MASK,
        "client_certificate": MASK,
        "client_certificate_expires": client.certificate.not_valid_after_utc,
        "client_key": MASK,
        "headers": {"X-Team": MASK},
    }
    assert shown(None) is None


def test_a_masked_edit_keeps_what_is_stored(full: ConnectionSettings) -> None:
    stored = sealed(full)
    masked: Any = shown(stored)
    entered = {name: masked[name] for name in connections.FIELDS}
    assert merged(stored, entered, None) == full
    assert merged(stored, {}, None) == full
    assert merged(stored, {"headers": {"x-team": MASK, "X-Two": "2"}}, None).headers == (
        ("x-team", "blue"),
        ("X-Two", "2"),
    )


def test_empty_values_delete_what_is_stored(full: ConnectionSettings) -> None:
    stored = sealed(full)
    assert merged(stored, dict.fromkeys(connections.FIELDS), None) == PLAIN
    assert merged(stored, {"proxy_url": " "}, None).proxy_url is None
    without = merged(stored, {"client_certificate": "", "client_key": ""}, None)
    assert (without.client_key, without.client_certificate_expires) == (None, None)


def test_nothing_is_kept_for_another_server(full: ConnectionSettings) -> None:
    stored = sealed(full)
    masked: Any = shown(stored)
    entered = {name: masked[name] for name in connections.FIELDS}
    assert merged(stored, entered, None, moves=True) == PLAIN
    assert merged(stored, {"headers": {"X-Team": MASK, "X-New": "1"}}, None, moves=True).headers == (("X-New", "1"),)


def test_the_login_of_a_proxy_is_not_kept_for_another_proxy(full: ConnectionSettings) -> None:
    assert "login" in errors({"proxy_url": f"http://{MASK}@other:3128"}, sealed(full))["proxy_url"]


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("proxy:3128", "such as http"),
        ("socks5://proxy:1080", "such as http"),
        ("https://proxy:3128", "without TLS"),
        ("http://proxy", "with its port"),
        ("http://proxy:99999", "such as http"),
        ("http://proxy:1/path", "such as http"),
        ("http://us%0d%0aer:x@proxy:1", "such as http"),
        ("http://proxy\r\nX: y:1", "such as http"),
    ],
)
def test_a_bad_proxy_is_one_error_without_its_text(url: str, word: str) -> None:
    (message,) = errors({"proxy_url": url}).values()
    assert word in message
    assert "99999" not in message


def test_each_fault_of_certificates_has_a_sentence(authority: Authority, client: Issued) -> None:
    expired, other = authority.issue(expired=True), authority.issue()
    both = {"client_certificate": client.pem, "client_key": client.key}
    for entered, field, word in (
        ({"ca_bundle": "/etc/ssl/ca.pem"}, "ca_bundle", "not a path"),
        ({"ca_bundle": client.key}, "ca_bundle", "private key"),
        (
            {"ca_bundle": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"},
            "ca_bundle",
            "not a certificate",
        ),
        ({"ca_bundle": expired.pem}, "ca_bundle", "expired on"),
        ({"ca_bundle": authority.pem * 200}, "ca_bundle", "64 KiB"),
        ({**both, "client_certificate": expired.pem}, "client_certificate", "expired on"),
        ({**both, "client_key": other.key}, "client_key", "does not belong"),
        ({**both, "client_key": client.encrypted_key}, "client_key", "encrypted"),
        ({**both, "client_key": client.pem}, "client_key", "not a private key"),
        ({**both, "client_key": "hunter2"}, "client_key", "not PEM"),
        ({"client_certificate": client.pem}, "client_key", "Enter the key"),
        ({"client_key": client.key}, "client_certificate", "Enter the client certificate"),
    ):
        messages = errors(entered)
        assert list(messages) == [field], messages
        assert word in messages[field]


def test_an_expired_certificate_among_others_is_no_error(authority: Authority) -> None:
    bundle = authority.issue(expired=True).pem + authority.pem
    assert merged(None, {"ca_bundle": bundle}, None).ca_bundle == bundle


def test_other_text_of_a_file_is_not_stored(authority: Authority) -> None:
    text = f"# our CA\nsubject=CN = x\n{authority.pem}trailing"
    assert merged(None, {"ca_bundle": text}, None).ca_bundle == authority.pem


@pytest.mark.parametrize(
    "name",
    ["Host", "AUTHORIZATION", "content-length", "Transfer-Encoding", "Connection", "TE", "Upgrade", "Trailer",
     "Keep-Alive", "Proxy-Authorization", "Via", "X-Request-Id", "Accept-Encoding"],
)  # fmt: skip
def test_headers_that_routerdash_sets_are_refused(name: str) -> None:
    assert name in errors({"headers": {name: "x"}})["headers"]


@pytest.mark.parametrize(
    "entered",
    [
        {"X Team": "a"},
        {"X-Team:": "a"},
        {"": "a"},
        {"X-Téam": "a"},
        {"X\r\nY": "a"},
        {"X-Team": "a\r\nHost: b"},
        {"X-Team": "a\nb"},
        {"X-Team": "é"},
        {"X-Team": "x" * 4001},
        {"X-Team": "a", "x-team": "b"},
        {"X-Team": MASK},
        {f"X-{number}": "a" for number in range(21)},
    ],
)
def test_bad_headers_are_refused(entered: dict[str, str]) -> None:
    assert list(errors({"headers": entered})) == ["headers"]


def test_the_header_with_the_key_of_a_cloud_is_refused_for_it_alone() -> None:
    entered = {"headers": {"X-Api-Key": "mine"}}
    assert "X-Api-Key" in errors(entered, cloud="anthropic")["headers"]
    assert merged(None, entered, None).headers == (("X-Api-Key", "mine"),)


def test_settings_of_another_encryption_key_must_be_entered_again() -> None:
    stored = Sealer([OTHER_KEY]).seal(ConnectionSettings(proxy_url=URL).dump())
    masked: Any = shown(stored)
    assert masked["proxy_url"] == MASK
    assert "encryption key" in errors({"headers": {}}, stored)["proxy_url"]
    assert merged(stored, dict.fromkeys(connections.FIELDS), None) == PLAIN


def test_the_expiry_is_the_one_of_the_certificate(full: ConnectionSettings, client: Issued) -> None:
    assert full.client_certificate_expires is not None
    expires = datetime.fromtimestamp(full.client_certificate_expires, UTC)
    assert expires == client.certificate.not_valid_after_utc


def test_a_form_with_an_error_does_not_show_the_pasted_key(client: Issued) -> None:
    form = ConnectionFields({"headers": "no colon", "client_certificate": client.pem, "client_key": client.key})
    assert not form.is_valid()
    assert client.pem.splitlines()[1] in str(form)
    assert "PRIVATE KEY" not in str(form)
    assert MASK in str(ConnectionFields({"client_key": MASK})["client_key"])
