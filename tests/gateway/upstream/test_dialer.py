"""Opening connections: proxies, checked addresses, certificates, and the causes of failures."""

import asyncio
import ipaddress
from contextlib import asynccontextmanager

import pytest

from benchmarks.process import free_port
from gateway.base import causes, destinations
from gateway.base.connecting import forward_proxy
from gateway.base.connecting.forward_proxy import ForwardProxy
from gateway.base.destinations import Destinations
from gateway.upstream.connection_settings import ConnectionSettings
from gateway.upstream.dialer import Dialer
from gateway.upstream.pool import Pool, Sweeper
from tests.certificates import Authority
from tests.connect_proxy import ConnectProxy
from tests.gateway.client import failing, fetch, in_loop
from tests.gateway.scripted import always, http_response, upstream

OK = http_response(b"whole")
NETWORKS = list(map(ipaddress.ip_network, ("127.0.0.0/8", "::1")))


@asynccontextmanager
async def pool_at(url, dialer=None, **options):
    sweeper = Sweeper(asyncio.get_running_loop(), dialer)
    pool = Pool(url, sweeper, **options)
    try:
        yield pool
    finally:
        pool.close()
        sweeper.stop()


async def cause(url, dialer=None, **options):
    async with pool_at(url, dialer, **options) as pool:
        return str(await pool.explained(await failing(fetch(pool))))


@pytest.fixture(scope="module")
def authority():
    return Authority.make()


# Proxies


@in_loop
async def test_a_proxy_with_login_connects_to_the_checked_address():
    with upstream(always(OK)) as server, ConnectProxy() as proxy:
        url = server.url.replace("127.0.0.1", "localhost")
        async with pool_at(url, settings=ConnectionSettings(proxy_url=proxy.url)) as pool:
            assert await fetch(pool) == b"whole"
            assert await fetch(pool) == b"whole"  # on the same connection
    assert set(proxy.targets) <= {f"127.0.0.1:{server.server_address[1]}", f"[::1]:{server.server_address[1]}"}
    assert proxy.targets[-1].startswith("127.0.0.1:")
    assert (server.connections, proxy.other_requests) == (1, [])


@in_loop
async def test_tls_through_a_proxy_verifies_the_host_name(authority, tmp_path):
    context = authority.issue("localhost").server_context(tmp_path)
    with upstream(always(OK), tls=context) as server, ConnectProxy() as proxy:
        settings = ConnectionSettings(proxy_url=proxy.url, ca_bundle=authority.pem)
        async with pool_at(server.url.replace("127.0.0.1", "localhost"), settings=settings) as pool:
            assert await fetch(pool) == b"whole"
        assert await cause(server.url, settings=settings) == causes.OTHER_HOST  # it is not for 127.0.0.1
    assert proxy.targets


@pytest.mark.parametrize(
    ("login", "given", "text"),
    [
        ("user:right", "http://user:wrong@", causes.PROXY_LOGIN),
        ("user:right", "http://", causes.PROXY_WITHOUT_LOGIN),
    ],
)
@in_loop
async def test_a_wrong_login_is_named(login, given, text):
    with ConnectProxy(login) as proxy:
        settings = ConnectionSettings(proxy_url=proxy.bare_url.replace("http://", given))
        assert await cause("http://127.0.0.1:9", settings=settings) == text


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (403, "its proxy refuses the connection (HTTP 403)"),
        (405, "its proxy refuses the connection (HTTP 405)"),
        (502, "its proxy cannot reach it (HTTP 502)"),
        (504, "its proxy cannot reach it (HTTP 504)"),
    ],
)
@in_loop
async def test_a_refusal_of_the_proxy_is_named(status, text):
    with ConnectProxy(status=status) as proxy:
        settings = ConnectionSettings(proxy_url=proxy.url)
        assert await cause("http://192.0.2.1:9", settings=settings) == text
        hint = "; if it needs no proxy, add it to ROUTERDASH_UPSTREAM_NO_PROXY"
        assert await cause("http://192.0.2.1:9", Dialer(proxy=ForwardProxy.parse(proxy.url))) == text + hint


@in_loop
async def test_a_proxy_that_is_away_is_named(tmp_path):
    with ConnectProxy() as proxy:
        pass
    settings = ConnectionSettings(proxy_url=proxy.url)
    assert await cause("http://192.0.2.1:9", settings=settings) == "its proxy cannot be reached: connection refused"
    settings = ConnectionSettings(proxy_url="http://proxy.invalid:3128")
    expected = "its proxy cannot be reached: its name cannot be resolved"
    assert await cause("http://192.0.2.1:9", settings=settings) == expected


@in_loop
async def test_a_silent_proxy_is_named():
    with ConnectProxy() as proxy:
        proxy.silent = True
        settings = ConnectionSettings(proxy_url=proxy.url)
        text = await cause("http://192.0.2.1:9", settings=settings, connect_timeout=0.05)
    assert text == "its proxy opens no connection within 0.05 s"


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nmore", b"x" * 20_000, b"HTTP/1.1 ok now\r\n\r\n"],
)
@in_loop
async def test_a_server_that_is_no_proxy_is_named(answer):
    def script(talk):
        talk.request()
        talk.send(answer)

    with upstream(script) as server:
        settings = ConnectionSettings(proxy_url=server.url)
        assert await cause("http://192.0.2.1:9", settings=settings) == causes.PROXY_SILENT


@in_loop
async def test_the_address_of_a_proxy_obeys_the_allowed_networks():
    with ConnectProxy() as proxy:
        dialer = Dialer(Destinations([ipaddress.ip_network("192.0.2.0/24")]))
        text = await cause("http://192.0.2.1:9", dialer, settings=ConnectionSettings(proxy_url=proxy.url))
        assert text == f"its proxy cannot be reached: {destinations.OUTSIDE}"
        assert proxy.connections == 0


@pytest.mark.parametrize("url", ["http://169.254.169.254", "http://[fe80::1]:9", "http://10.0.0.1"])
@in_loop
async def test_the_address_of_an_endpoint_is_checked_before_the_proxy_gets_it(url):
    with ConnectProxy() as proxy:
        text = await cause(url, Dialer(Destinations(NETWORKS)), settings=ConnectionSettings(proxy_url=proxy.url))
        assert text in (destinations.LINK_LOCAL, destinations.OUTSIDE)
        assert proxy.targets == []


# The usual proxy


@in_loop
async def test_the_usual_proxy_is_used_except_for_excluded_endpoints():
    url = f"http://0.0.0.0:{free_port()}"  # this machine, and no loopback address
    with ConnectProxy(status=502) as proxy:
        usual = ForwardProxy.parse(proxy.url)
        await cause(url, Dialer(proxy=usual))
        assert proxy.targets == [url.removeprefix("http://")]
        for raw in ("0.0.0.0/8", "*", "2001:db8::1,0.0.0.0"):
            excluded = Dialer(proxy=usual, no_proxy=forward_proxy.no_proxy(raw))
            assert await cause(url, excluded) == causes.EXCLUDED.format(cause="connection refused")
        assert len(proxy.targets) == 1


@pytest.mark.parametrize(
    ("raw", "host", "address", "included"),
    [
        ("internal", "gpu.internal", "192.0.2.1", True),
        (".internal", "internal", "192.0.2.1", True),
        ("*.internal", "GPU.Internal.", "192.0.2.1", True),
        ("internal", "notinternal", "192.0.2.1", False),
        ("192.0.2.0/24", "gpu", "192.0.2.1", True),
        ("192.0.2.0/24", "gpu", "::ffff:192.0.2.1", True),
        ("192.0.2.0/24", "gpu", "192.0.3.1", False),
        ("2001:db8::/32", "gpu", "2001:db8::1%eth0", True),
        ("*", "gpu", "192.0.3.1", True),
        ("", "gpu", "127.0.0.2", True),
        ("", "gpu", "::1", True),
        ("", "gpu", "192.0.3.1", False),
    ],
)
def test_what_is_excluded(raw, host, address, included):
    assert forward_proxy.no_proxy(raw).includes(host, address) is included


@in_loop
async def test_an_endpoint_on_this_machine_never_uses_the_usual_proxy():
    with upstream(always(OK)) as server, ConnectProxy() as proxy:
        async with pool_at(server.url, Dialer(proxy=ForwardProxy.parse(proxy.url))) as pool:
            assert await fetch(pool) == b"whole"
    assert proxy.connections == 0
    text = await cause(server.url, Dialer(proxy=ForwardProxy.parse(proxy.url)))
    assert text == "connection refused"  # without a hint: nobody expects a proxy there


@in_loop
async def test_proxy_variables_have_no_effect(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with upstream(always(OK)) as server:
        async with pool_at(server.url) as pool:
            assert await fetch(pool) == b"whole"


# Certificates


@in_loop
async def test_an_unknown_issuer_is_named(authority, tmp_path):
    other = Authority.make("Another CA")
    with upstream(always(OK), tls=authority.issue("127.0.0.1").server_context(tmp_path)) as server:
        assert await cause(server.url) == causes.UNKNOWN_ISSUER
        assert await cause(server.url, settings=ConnectionSettings(ca_bundle=other.pem)) == causes.OTHER_ISSUER
        async with pool_at(server.url, settings=ConnectionSettings(ca_bundle=other.pem + authority.pem)) as pool:
            assert await fetch(pool) == b"whole"


@in_loop
async def test_an_expired_certificate_of_the_server_is_named(authority, tmp_path):
    context = authority.issue("127.0.0.1", expired=True).server_context(tmp_path)
    with upstream(always(OK), tls=context) as server:
        assert await cause(server.url, settings=ConnectionSettings(ca_bundle=authority.pem)) == causes.EXPIRED


def with_client(authority, issued):
    return ConnectionSettings(
        ca_bundle=authority.pem,
        client_certificate=issued.pem,
        client_key=issued.key,
        client_certificate_expires=issued.certificate.not_valid_after_utc.timestamp(),
    )


@in_loop
async def test_client_certificates(authority, tmp_path):
    context = authority.issue("127.0.0.1").server_context(tmp_path, clients=authority)
    with upstream(always(OK), tls=context) as server:
        async with pool_at(server.url, settings=with_client(authority, authority.issue())) as pool:
            assert await fetch(pool) == b"whole"
        assert await cause(server.url, settings=ConnectionSettings(ca_bundle=authority.pem)) == causes.CLIENT_NEEDED
        expired = with_client(authority, authority.issue(expired=True))
        assert await cause(server.url, settings=expired) == causes.CLIENT_EXPIRED
        foreign = with_client(authority, Authority.make("Another CA").issue())
        assert await cause(server.url, settings=foreign) == causes.CLIENT_REFUSED


@in_loop
async def test_a_server_that_refuses_without_an_alert_is_named(authority, tmp_path):
    context = authority.issue("127.0.0.1").server_context(tmp_path, clients=authority)
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        text = await cause(url, settings=ConnectionSettings(ca_bundle=authority.pem))
        assert text in (causes.CLIENT_MAY_BE_NEEDED, causes.CLIENT_NEEDED)  # asyncio; uvloop sends the alert
        foreign = with_client(authority, Authority.make("Another CA").issue())
        assert await cause(url, settings=foreign) in (causes.CLIENT_MAY_BE_REFUSED, causes.CLIENT_REFUSED)
        expired = with_client(authority, authority.issue(expired=True))
        assert await cause(url, settings=expired) == causes.CLIENT_EXPIRED
    finally:
        server.close()


@in_loop
async def test_certificates_that_cannot_be_used_are_named():
    for settings in (
        ConnectionSettings(ca_bundle="nothing"),
        ConnectionSettings(client_certificate="nothing", client_key="nothing"),
    ):
        assert await cause("https://127.0.0.1:9", settings=settings) == causes.UNUSABLE


def test_settings_show_nothing_where_they_are_printed(authority):
    settings = ConnectionSettings(proxy_url="http://user:hunter2@proxy:1", headers=(("X-Token", "hunter2"),))
    assert "hunter2" not in f"{settings} {settings!r} {ForwardProxy.parse(str(settings.proxy_url))!r}"
